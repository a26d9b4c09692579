// SPDX-License-Identifier: BSD-3-Clause
// What a client sees of a healthy volume, over every kind of MAIN and SPARE.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMain = 24 << 20;
constexpr std::uint64_t kSpare = 8 << 20;

enum class Kind { file, loop, remote, baddisk };

// A disk of a kind over DIR/NAME.img.
class Disk {
 public:
  Disk(const ScratchDir& dir, const std::string& name, Kind kind,
       std::uint64_t size)
      : spec(dir.make_file(name + ".img", size)) {
    if (kind == Kind::loop) {
      loop_ = LoopDevice::attach(spec, why_not);
      if (loop_) spec = loop_->path();
    }
    if (kind == Kind::baddisk)
      server_ = std::make_unique<BadDisk>(dir, name, spec);
    if (kind == Kind::remote) {
      server_ = std::make_unique<Server>(dir, name, Words{"file", spec});
      server_->start();
    }
    if (server_) spec = server_->uri();
  }
  std::string spec;
  std::string why_not;

 private:
  std::unique_ptr<LoopDevice> loop_;
  std::unique_ptr<Server> server_;
};

class RemapServeMix : public testing::TestWithParam<std::tuple<Kind, Kind>> {};

TEST_P(RemapServeMix, serves_and_keeps_over_a_restart) {
  const ScratchDir dir;
  const auto [main_kind, spare_kind] = GetParam();
  const Disk main(dir, "main", main_kind, kMain);
  const Disk spare(dir, "spare", spare_kind, kSpare);
  for (const Disk* disk : {&main, &spare})
    if (!disk->why_not.empty()) GTEST_SKIP() << disk->why_not;
  format(main.spec, spare.spec);
  RemapServer volume(dir, "volume", main.spec, spare.spec);
  volume.start();
  const std::string head = pattern(1, 100'000);
  const std::string tail = pattern(2, 5'001);
  {
    const Client c(volume.uri());
    EXPECT_EQ(c.size(), kMain);
    EXPECT_EQ(c.write(12'345, head), 0);
    EXPECT_EQ(c.write(kMain - tail.size(), tail, LIBNBD_CMD_FLAG_FUA), 0);
    EXPECT_EQ(c.zero(20'000, 8'192), 0);
    EXPECT_EQ(c.flush(), 0);
  }
  std::string expected = head;
  expected.replace(20'000 - 12'345, 8'192, std::string(8'192, '\0'));
  for (const bool again : {false, true}) {
    const Client c(volume.uri());
    std::string data;
    EXPECT_EQ(c.read(12'345, head.size(), &data), 0);
    EXPECT_TRUE(data == expected);
    EXPECT_EQ(c.read(kMain - tail.size(), tail.size(), &data), 0);
    EXPECT_TRUE(data == tail);
    const json show = volume.show();
    EXPECT_EQ(show["blocks"]["remapped"], 0);
    EXPECT_EQ(show["size"], kMain);
    EXPECT_EQ(show["state"], "healthy");
    if (!again) {
      const Ended ended = volume.stop();
      EXPECT_EQ(ended.code, 0) << ended.err;
      volume.start();
    }
  }
  const Ended ended = volume.stop();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_TRUE(survey(spare.spec).chosen().closed);
}

constexpr Kind kAll[] = {Kind::file, Kind::loop, Kind::remote, Kind::baddisk};
std::string mix_name(
    const testing::TestParamInfo<std::tuple<Kind, Kind>>& info) {
  const char* names[] = {"file", "loop", "remote", "baddisk"};
  const auto main = static_cast<int>(std::get<0>(info.param));
  const auto spare = static_cast<int>(std::get<1>(info.param));
  return std::string(names[main]) + "_main_" + names[spare] + "_spare";
}
INSTANTIATE_TEST_SUITE_P(Kinds, RemapServeMix,
                         testing::Combine(testing::ValuesIn(kAll),
                                          testing::ValuesIn(kAll)),
                         mix_name);

class RemapServe : public testing::Test {
 protected:
  explicit RemapServe(std::uint64_t size = kMain)
      : main_(dir_.make_file("main.img", size)),
        spare_(dir_.make_file("spare.img", kSpare)) {
    format(main_, spare_);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_, spare_);
    volume_->start();
  }
  // Mistake 32: every test ends with an orderly stop.
  void TearDown() override {
    const Ended ended = volume_->stop();
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_FALSE(std::filesystem::exists(volume_->control()));
    EXPECT_TRUE(survey(spare_).chosen().closed);
  }
  ScratchDir dir_;
  const std::string main_;
  const std::string spare_;
  std::unique_ptr<RemapServer> volume_;
};

TEST_F(RemapServe, says_what_it_can_do) {
  const Ended info = run({"nbdinfo", "--json", volume_->uri()});
  ASSERT_EQ(info.code, 0) << info.err;
  const json out = json::parse(info.out)["exports"][0];
  for (const char* can :
       {"can_multi_conn", "can_fua", "can_fast_zero", "can_flush", "can_trim",
        "can_zero", "can_cache", "can_df"})
    EXPECT_EQ(out[can], true) << can;
  EXPECT_EQ(out["is_read_only"], false);
  EXPECT_EQ(out["export-size"], kMain);
  EXPECT_EQ(out["block_size_minimum"], 1);
  EXPECT_EQ(out["block_size_preferred"], 4096);
  EXPECT_EQ(out["block_size_maximum"], 32 << 20);
  EXPECT_EQ(out["description"],
            "nbd-remap volume: " + main_ + " with spare " + spare_);
}

// A sparse image: data at both ends and here and there.
std::string sparse_image(const ScratchDir& dir) {
  const std::string path = dir.make_file("image", kMain);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  std::uint64_t seed = 1;
  for (std::uint64_t at :
       {std::uint64_t{0}, std::uint64_t{3} << 20,
        (std::uint64_t{9} << 20) + 65'536, kMain - 262'144}) {
    const std::string data = pattern(seed++, 262'144);
    file.seekp(static_cast<std::streamoff>(at));
    file.write(data.data(), static_cast<std::streamsize>(data.size()));
  }
  return path;
}

std::uint64_t allocated(const std::string& path) {
  const Ended out = run({"stat", "-c", "%b", path});
  return std::stoull(out.out) * 512;
}

TEST_F(RemapServe, nbdcopy_of_a_sparse_image_there_and_back) {
  const std::string image = sparse_image(dir_);
  const std::string back = dir_.make_file("back", kMain);
  for (const Words& copy :
       {Words{"nbdcopy", image, volume_->uri()},
        Words{"nbdcopy", "--connections=4", "--flush", image, volume_->uri()},
        Words{"nbdcopy", "--connections=4", volume_->uri(), back}}) {
    const Ended ended = run(copy);
    ASSERT_EQ(ended.code, 0) << ended.err;
  }
  EXPECT_EQ(run({"cmp", image, back}).code, 0);
  EXPECT_EQ(run({"cmp", image, main_}).code, 0);
  // Holes stay holes on MAIN and in the copy, and are told to clients.
  EXPECT_LT(allocated(main_), 4U << 20);
  EXPECT_LT(allocated(back), 4U << 20);
  const Ended map = run({"nbdinfo", "--map", "--json", volume_->uri()});
  ASSERT_EQ(map.code, 0) << map.err;
  const json extents = json::parse(map.out);
  std::uint64_t at = 0;
  std::uint64_t data = 0;
  for (const json& e : extents) {
    EXPECT_EQ(e["offset"], at);
    at += e["length"].get<std::uint64_t>();
    if (e["type"] == 0) data += e["length"].get<std::uint64_t>();
  }
  EXPECT_EQ(at, kMain);
  EXPECT_EQ(data, 4 * 262'144);
}

TEST_F(RemapServe, several_connections_see_one_disk) {
  constexpr unsigned kClients = 6;
  constexpr std::size_t kPiece = 48'128;  // crosses blocks
  std::vector<std::thread> threads;
  std::atomic<unsigned> wrong{0};
  for (unsigned n = 0; n < kClients; ++n)
    threads.emplace_back([&, n] {
      const Client c(volume_->uri());
      for (unsigned i = 0; i < 40; ++i)
        if (c.write((i * kClients + n) * kPiece, pattern(i * 100 + n, kPiece)))
          ++wrong;
      if (n % 2 && c.flush() != 0) ++wrong;
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, 0U);
  const Client other(volume_->uri());
  for (unsigned i = 0; i < 40; ++i)
    for (unsigned n = 0; n < kClients; ++n) {
      std::string data;
      ASSERT_EQ(other.read((i * kClients + n) * kPiece, kPiece, &data), 0);
      ASSERT_TRUE(data == pattern(i * 100 + n, kPiece)) << i << " " << n;
    }
}

// Mistake 35.
TEST(RemapServeNames, of_disks_may_hold_anything) {
  const ScratchDir dir;
  const std::string odd = "a b'\"$(x)\n%41\x1b;&";
  const std::string main = dir.make_file(odd, kMain);
  const std::string spare = dir.make_file(odd + ".spare", kSpare);
  format(main, spare);
  RemapServer volume(dir, "volume", main, spare);
  volume.start();
  {
    const Client c(volume.uri());
    EXPECT_EQ(c.write(0, pattern(1, 4096)), 0);
    EXPECT_EQ(c.flush(), 0);
  }
  EXPECT_EQ(volume.show()["name"], odd);
  EXPECT_EQ(volume.stop().code, 0) << volume.log();
}

// FUA on every command (reliability rule 3), fast zero, NO_HOLE, trim.
TEST_F(RemapServe, flags_are_taken) {
  const Client c(volume_->uri());
  EXPECT_EQ(c.write(0, pattern(1, 65'536)), 0);
  EXPECT_EQ(c.zero(0, 8'192, LIBNBD_CMD_FLAG_FAST_ZERO), 0);
  EXPECT_EQ(c.zero(8'192, 8'192, LIBNBD_CMD_FLAG_NO_HOLE | LIBNBD_CMD_FLAG_FUA),
            0);
  EXPECT_EQ(c.zero(16'384 + 1, 510, 0), 0);
  EXPECT_EQ(nbd_trim(c.get(), 4'096, 32'768, LIBNBD_CMD_FLAG_FUA), 0);
  EXPECT_EQ(nbd_cache(c.get(), 65'536, 0, 0), 0);
  std::string data;
  EXPECT_EQ(c.read(0, 65'536, &data), 0);
  std::string expected = pattern(1, 65'536);
  expected.replace(0, 16'384, std::string(16'384, '\0'));
  expected.replace(16'385, 510, std::string(510, '\0'));
  EXPECT_TRUE(data.substr(0, 32'768) == expected.substr(0, 32'768));
  EXPECT_TRUE(data.substr(36'864) == expected.substr(36'864));
  const json show = volume_->show();
  EXPECT_EQ(show["requests"]["trim"], 1);
  EXPECT_EQ(show["requests"]["cache"], 1);
  EXPECT_EQ(show["requests"]["zero"], 3);
}

class RemapServeLarge : public RemapServe {
 protected:
  RemapServeLarge() : RemapServe(std::uint64_t{9} << 30) {}
};

// Reliability section 4: every field of a client is hostile until checked.
TEST_F(RemapServeLarge, hostile_requests_leave_an_old_connection_alone) {
  const Client old(volume_->uri());
  EXPECT_EQ(old.write(0, pattern(7, 4096)), 0);
  const std::uint64_t size = old.size();
  const pid_t pid = volume_->child().pid();
  {
    const Client c(volume_->uri());
    // CVE-2025-47711
    for (std::uint64_t at : {std::uint64_t{0}, std::uint64_t{1},
                             std::uint64_t{512}, size - 0xFFFF'FFFFU}) {
      const auto map = c.map(at, 0xFFFF'FFFFU);
      ASSERT_FALSE(map.empty());
      std::uint64_t total = 0;
      for (const auto& [length, flags] : map) total += length;
      EXPECT_LE(total, 0xFFFF'FFFFU);
      EXPECT_GT(total, 0U);
    }
    EXPECT_EQ(c.read(size, 1, nullptr), EINVAL);
    EXPECT_EQ(c.read(size - 1, 2, nullptr), EINVAL);
    EXPECT_EQ(c.read(UINT64_C(0xFFFF'FFFF'FFFF'F000), 4096, nullptr), EINVAL);
    EXPECT_EQ(c.write(size - 1, "ab"), ENOSPC);
    EXPECT_EQ(c.zero(size - 1, 2), ENOSPC);
    EXPECT_EQ(c.zero(0, 0xFFFF'F000U, LIBNBD_CMD_FLAG_FAST_ZERO), 0);
    EXPECT_EQ(c.write(0, pattern(7, 4096)), 0);
    // Zero-length requests are unspecified but must not disconnect.
    c.read(0, 0, nullptr);
    c.zero(0, 0);
    nbd_trim(c.get(), 0, 0, 0);
    std::string data;
    EXPECT_EQ(c.read(size - 1, 1, &data), 0);
    EXPECT_EQ(data, std::string(1, '\0'));
  }
  {
    const Client c(volume_->uri());
    const std::string big = pattern(3, 32 << 20);
    std::string data;
    for (std::uint64_t at : {std::uint64_t{8191}, size - big.size()}) {
      EXPECT_EQ(c.write(at, big), 0);
      EXPECT_EQ(c.read(at, big.size(), &data), 0);
      EXPECT_TRUE(data == big);
    }
    // Unknown flags: EINVAL, and the connection stays.
    EXPECT_EQ(c.write(0, "x", 1U << 14), EINVAL);
    EXPECT_EQ(nbd_flush(c.get(), 1U << 13), -1);
    EXPECT_EQ(c.read(0, 512, nullptr), 0);
  }
  std::string data;
  EXPECT_EQ(old.read(0, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(7, 4096));
  EXPECT_EQ(volume_->child().pid(), pid);
  EXPECT_TRUE(volume_->child().running());
}

}  // namespace
}  // namespace nbd_remap
