// SPDX-License-Identifier: BSD-3-Clause
// missing-spare=readonly: what is known is served, what is not is EIO.

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMain = 8 << 20;
constexpr std::uint64_t kSpare = 4 << 20;

// A volume with a remapped block (0), a pending one (sector 4000) and data.
class RemapMissing : public testing::Test {
 protected:
  RemapMissing()
      : image_(dir_.make_file("main.img", kMain)),
        spare_file_(dir_.make_file("spare.img", kSpare)),
        disk_(dir_, "disk", image_, {"bad=0-7:write,4000:read"}) {}
  void fill(const std::string& spare) {
    format(disk_.uri(), spare);
    RemapServer volume(dir_, "volume", disk_.uri(), spare);
    volume.start();
    {
      const Client c(volume.uri());
      ASSERT_EQ(c.write(0, pattern(1, 8192)), 0);
      ASSERT_EQ(c.read(4000 * 512, 512, nullptr), EIO);
    }
    ASSERT_EQ(volume.show()["blocks"]["remapped"], 1);
    ASSERT_EQ(volume.stop().code, 0);
    disk_.heal({{"all", true}});
  }
  void expect_served_read_only(const std::string& spare) {
    const std::uint32_t before = checksum(spare_file_);
    const std::uint32_t main_before = checksum(image_);
    RemapServer volume(dir_, "volume", disk_.uri(), spare,
                       {"missing-spare=readonly"});
    volume.start();
    {
      const Client c(volume.uri());
      EXPECT_EQ(nbd_is_read_only(c.get()), 1);
      std::string data;
      EXPECT_EQ(c.read(0, 8192, &data), 0);
      EXPECT_TRUE(data == pattern(1, 8192));
      EXPECT_EQ(c.read(4000 * 512, 512, nullptr), EIO);
      EXPECT_EQ(c.read(kMain - 512, 512, &data), 0);
      EXPECT_EQ(c.write(0, "x"), EPERM);
      EXPECT_EQ(c.zero(0, 512), EPERM);
    }
    EXPECT_EQ(volume.show()["read_only"], true);
    EXPECT_EQ(volume.show()["blocks"]["remapped"], 1);
    EXPECT_EQ(volume.stop().code, 0) << volume.log();
    EXPECT_EQ(checksum(spare_file_), before);
    EXPECT_EQ(checksum(image_), main_before);
  }
  ScratchDir dir_;
  std::string image_;
  std::string spare_file_;
  BadDisk disk_;
};

TEST_F(RemapMissing, a_remote_spare_that_became_read_only_is_obeyed) {
  auto remote =
      std::make_unique<Server>(dir_, "spare", Words{"file", spare_file_});
  remote->start();
  const std::string uri = remote->uri();
  fill(uri);
  remote->stop();
  remote =
      std::make_unique<Server>(dir_, "spare", Words{"-r", "file", spare_file_});
  remote->start();
  expect_served_read_only(uri);
  // Without the word it does not start.
  const Ended ended = run_nbdkit(
      {"-f", "-U", dir_.file("s"), REMAP_PLUGIN, disk_.uri(), "spare=" + uri});
  EXPECT_EQ(ended.code, 1);
  EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
  EXPECT_NE(ended.err.find("read-only"), std::string::npos) << ended.err;
}

TEST_F(RemapMissing, a_loop_device_that_became_read_only_is_obeyed) {
  std::string why_not;
  auto loop = LoopDevice::attach(spare_file_, why_not);
  if (!loop) GTEST_SKIP() << why_not;
  const std::string path = loop->path();
  fill(path);
  loop.reset();
  const Ended attached =
      run({"losetup", "--read-only", "--show", "-f", spare_file_});
  if (attached.code != 0) GTEST_SKIP() << attached.err;
  const std::string device = attached.out.substr(0, attached.out.find('\n'));
  const std::unique_ptr<const std::string, void (*)(const std::string*)> detach(
      &device, [](const std::string* d) {
        run({"losetup", "-d", *d});
      });
  expect_served_read_only(device);
}

TEST_F(RemapMissing, without_any_spare_every_read_fails_and_says_why) {
  fill(spare_file_);
  const std::string away = dir_.file("away");
  fs::rename(spare_file_, away);
  RemapServer volume(dir_, "volume", disk_.uri(), spare_file_,
                     {"missing-spare=readonly"});
  volume.start();
  {
    const Client c(volume.uri());
    EXPECT_EQ(c.size(), kMain);
    EXPECT_EQ(nbd_is_read_only(c.get()), 1);
    for (std::uint64_t at : {std::uint64_t{0}, kMain / 2, kMain - 512})
      EXPECT_EQ(c.read(at, 512, nullptr), EIO);
    EXPECT_EQ(c.write(0, "x"), EPERM);
    EXPECT_EQ(c.flush(), 0);
  }
  const json health = volume.health();
  EXPECT_EQ(health["state"], "failed");
  EXPECT_NE(health.dump().find("SPARE is missing"), std::string::npos);
  EXPECT_NE(health.dump().find(spare_file_), std::string::npos);
  EXPECT_EQ(volume.show()["spare"], nullptr);
  EXPECT_EQ(volume.stop().code, 0) << volume.log();
  EXPECT_FALSE(fs::exists(spare_file_));
  // It is back, and so is everything.
  fs::rename(away, spare_file_);
  RemapServer again(dir_, "volume", disk_.uri(), spare_file_);
  again.start();
  std::string data;
  EXPECT_EQ(Client(again.uri()).read(0, 8192, &data), 0);
  EXPECT_TRUE(data == pattern(1, 8192));
  EXPECT_EQ(again.stop().code, 0);
}

// A SPARE that can be written is not missing; one that is in use or is
// another's is not either.
TEST_F(RemapMissing, readonly_is_no_way_around_a_refusal) {
  fill(spare_file_);
  RemapServer holder(dir_, "holder", disk_.uri(), spare_file_);
  holder.start();
  const std::string other = dir_.make_file("other.img", kMain);
  const std::string other_spare = dir_.make_file("other.spare", kSpare);
  format(other, other_spare);
  for (const std::string& spare : {spare_file_, other_spare}) {
    const std::string main =
        spare == spare_file_ ? other : dir_.make_file("third.img", kMain);
    const Ended ended =
        run_nbdkit({"-f", "-U", dir_.file("s"), REMAP_PLUGIN, main,
                    "spare=" + spare, "missing-spare=readonly"});
    EXPECT_EQ(ended.code, 1) << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
    EXPECT_NE(ended.err.find("spare"), std::string::npos) << ended.err;
  }
  EXPECT_EQ(holder.stop().code, 0);
}

}  // namespace
}  // namespace nbd_remap
