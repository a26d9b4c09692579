// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/disk_identity.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "plugins/backend/file_backend.hpp"
#include "tests/fakes/scratch.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kSize = 1U << 20;

std::string identity_of(const std::string& path) {
  OpenOptions options;
  options.exclusive = false;
  const auto disk = open_file_backend(path, options);
  EXPECT_TRUE(disk.ok());
  return disk.ok() ? (*disk)->info().identity : "";
}

TEST(DiskIdentity, does_not_depend_on_the_path) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  const std::string identity = identity_of(path);
  EXPECT_EQ(identity.find("file fsid="), 0U) << identity;
  EXPECT_NE(identity.find(" ino="), std::string::npos) << identity;
  EXPECT_LE(identity.size(), kMaxIdentity);
  fs::create_symlink(path, dir.file("symlink"));
  fs::create_hard_link(path, dir.file("hard"));
  EXPECT_EQ(identity_of(dir.file("symlink")), identity);
  EXPECT_EQ(identity_of(dir.file("hard")), identity);
  fs::rename(path, dir.file("renamed"));
  EXPECT_EQ(identity_of(dir.file("renamed")), identity);
}

// Mistake 12
TEST(DiskIdentity, of_a_copy_is_another) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  fs::copy_file(path, dir.file("copy"));
  EXPECT_NE(identity_of(dir.file("copy")), identity_of(path));
  // Also when the copy takes the place of the original.
  const std::string before = identity_of(path);
  fs::rename(dir.file("copy"), path);
  EXPECT_NE(identity_of(path), before);
}

TEST(DiskIdentity, of_a_loop_device_is_its_files) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  std::string why_not;
  const auto loop = LoopDevice::attach(path, why_not);
  if (!loop) GTEST_SKIP() << why_not;
  EXPECT_EQ(identity_of(loop->path()), identity_of(path));
  const auto part = LoopDevice::attach(path, why_not, 65536);
  ASSERT_TRUE(part) << why_not;
  EXPECT_EQ(identity_of(part->path()), identity_of(path) + " offset=65536");
}

TEST(DiskIdentity, of_a_loop_device_whose_file_is_gone_is_still_one) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  std::string why_not;
  const auto loop = LoopDevice::attach(path, why_not);
  if (!loop) GTEST_SKIP() << why_not;
  fs::remove(path);
  const std::string identity = identity_of(loop->path());
  EXPECT_EQ(identity.find("dev "), 0U) << identity;
}

}  // namespace
}  // namespace nbd_remap
