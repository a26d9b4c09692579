// SPDX-License-Identifier: BSD-3-Clause
// A MAIN whose pread(2) and pwrite(2) really fail: a bad disk under nbdfuse as
// a file, and as a loop device over that file.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>

#include <cerrno>
#include <filesystem>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMain = 16 << 20;

// The file DIR/mnt/disk, for as long as the object lives.
class FuseFile {
 public:
  FuseFile(const ScratchDir& dir, const std::string& uri)
      : mount_(dir.file("mnt")) {
    fs::create_directory(mount_);
    child_ = std::make_unique<Child>(Words{"nbdfuse", path(), uri});
    mounted =
        eventually([&] { return !child_->running() || fs::exists(path()); });
    mounted = mounted && child_->running();
  }
  ~FuseFile() {
    (void)::umount2(mount_.c_str(), MNT_DETACH);
    child_->send(SIGTERM);
    child_->wait(5s);
  }
  std::string path() const { return mount_ + "/disk"; }
  bool mounted = false;

 private:
  const std::string mount_;
  std::unique_ptr<Child> child_;
};

class RemapFuseDisk : public testing::Test {
 protected:
  explicit RemapFuseDisk(bool as_loop)
      : image_(dir_.make_file("image", kMain)),
        spare_(dir_.make_file("spare.img", 8 << 20)) {
    if (!have_program("nbdfuse") || !fs::exists("/dev/fuse")) {
      why_not_ = "no nbdfuse here";
      return;
    }
    disk_ = std::make_unique<BadDisk>(dir_, "disk", image_,
                                      Words{"bad=800+1600:write,8000-8007"});
    fuse_ = std::make_unique<FuseFile>(dir_, disk_->uri());
    if (!fuse_->mounted) {
      why_not_ = "nbdfuse cannot mount here";
      return;
    }
    main_ = fuse_->path();
    if (!as_loop) return;
    loop_ = LoopDevice::attach(main_, why_not_);
    if (loop_) main_ = loop_->path();
  }
  ScratchDir dir_;
  std::string why_not_;
  std::string image_;
  std::string spare_;
  std::unique_ptr<BadDisk> disk_;
  std::unique_ptr<FuseFile> fuse_;
  std::unique_ptr<LoopDevice> loop_;
  std::string main_;
};

class RemapFuse : public RemapFuseDisk,
                  public testing::WithParamInterface<bool> {
 protected:
  RemapFuse() : RemapFuseDisk(GetParam()) {}
};

// Mistake 29, mistake 30; C11: the write itself meets the error and heals.
TEST_P(RemapFuse, a_disk_that_returns_errors_is_healed) {
  if (!why_not_.empty()) GTEST_SKIP() << why_not_;
  format(main_, spare_);
  RemapServer volume(dir_, "volume", main_, spare_, {"direct=auto"});
  volume.start();
  EXPECT_EQ(volume.show()["main"]["direct"], true);
  const std::uint64_t begin = 800 * 512;
  const std::uint64_t count = 200;  // all of the bad range
  {
    const Client c(volume.uri());
    for (std::uint64_t i = 0; i < count; ++i)
      ASSERT_EQ(c.write(begin + i * 4096, pattern(i, 4096)), 0) << i << "\n"
                                                                << volume.log();
    ASSERT_EQ(c.flush(), 0);
    EXPECT_EQ(c.read(8000 * 512, 4096, nullptr), EIO);
    EXPECT_EQ(c.read(7992 * 512, 4096, nullptr), 0);
    EXPECT_EQ(c.read(8008 * 512, 4096, nullptr), 0);
  }
  EXPECT_GE(disk_->fired("write"), 1U);
  EXPECT_GE(disk_->fired("read"), 1U);
  json show = volume.show();
  EXPECT_EQ(show["blocks"]["remapped"], count);
  EXPECT_EQ(show["blocks"]["pending"], 1);
  EXPECT_EQ(show["flush_in_doubt"], false);
  volume.kill();
  volume.start();
  show = volume.show();
  EXPECT_EQ(show["blocks"]["remapped"], count);
  const Client c(volume.uri());
  for (std::uint64_t i = 0; i < count; ++i) {
    std::string data;
    ASSERT_EQ(c.read(begin + i * 4096, 4096, &data), 0);
    ASSERT_TRUE(data == pattern(i, 4096)) << i;
  }
  EXPECT_EQ(c.read(8000 * 512, 512, nullptr), EIO);
  EXPECT_EQ(volume.stop().code, 0);
}

class RemapFuseCached : public RemapFuseDisk {
 protected:
  RemapFuseCached() : RemapFuseDisk(true) {}
};

// Mistake 29; C11, C12: through the page cache the write is taken, and the
// flush that meets the error is not forgotten.
TEST_F(RemapFuseCached, a_flush_that_failed_goes_on_failing) {
  if (!why_not_.empty()) GTEST_SKIP() << why_not_;
  format(main_, spare_);
  RemapServer volume(dir_, "volume", main_, spare_, {"direct=off"});
  volume.start();
  EXPECT_NE(volume.log().find("no direct I/O"), std::string::npos);
  EXPECT_EQ(volume.show()["main"]["direct"], false);
  {
    const Client c(volume.uri());
    EXPECT_EQ(c.flush(), 0);
    EXPECT_EQ(c.write(800 * 512, pattern(1, 4096)), 0);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(c.flush(), EIO) << i;
    EXPECT_EQ(c.write(0, pattern(2, 4096), LIBNBD_CMD_FLAG_FUA), EIO);
    EXPECT_EQ(Client(volume.uri()).flush(), EIO);
  }
  EXPECT_GE(disk_->fired("write"), 1U);
  const json show = volume.show();
  EXPECT_EQ(show["flush_in_doubt"], true);
  EXPECT_EQ(show["state"], "failed");
  EXPECT_EQ(show["blocks"]["remapped"], 0);
  volume.kill();
  volume.start();
  EXPECT_EQ(volume.show()["flush_in_doubt"], false);
  EXPECT_EQ(Client(volume.uri()).flush(), 0);
  EXPECT_EQ(volume.stop().code, 0);
}

INSTANTIATE_TEST_SUITE_P(Disks, RemapFuse, testing::Bool(),
                         [](const auto& kind) {
                           return std::string(kind.param ? "loop" : "file");
                         });

}  // namespace
}  // namespace nbd_remap
