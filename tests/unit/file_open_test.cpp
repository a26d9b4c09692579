// SPDX-License-Identifier: BSD-3-Clause
// What open_file_backend refuses, and with which words.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "plugins/backend/file_backend.hpp"
#include "tests/fakes/scratch.hpp"
#include "tests/unit/syscall_fault.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSize = 1U << 20;

Result<std::unique_ptr<Backend>> open(const std::string& path,
                                      OpenOptions options = {}) {
  return open_file_backend(path, options);
}

void expect_refused(const std::string& path, const OpenOptions& options,
                    int errnum, const std::string& words) {
  const auto backend = open_file_backend(path, options);
  ASSERT_FALSE(backend.ok()) << path;
  const Error& error = backend.error();
  EXPECT_EQ(error.errnum, errnum) << error.text();
  EXPECT_EQ(error.error_class, ErrorClass::caller) << error.text();
  EXPECT_EQ(error.place.find(path + ": "), 0U) << error.place;
  EXPECT_NE(error.place.find(words), std::string::npos) << error.place;
  EXPECT_EQ(error.place.find('\n'), std::string::npos);
}

TEST(FileOpen, says_of_each_wrong_path_what_is_wrong_with_it) {
  const ScratchDir dir;
  expect_refused(dir.file("absent"), {}, ENOENT, "there is no such file");
  EXPECT_FALSE(std::filesystem::exists(dir.file("absent")));
  expect_refused(dir.path(), {}, EISDIR, "a directory; expected a regular");
  expect_refused("/dev/null", {}, EINVAL,
                 "a character device; expected a regular file, a block device "
                 "or an NBD URI");
  ASSERT_EQ(::mkfifo(dir.file("pipe").c_str(), 0600), 0);
  expect_refused(dir.file("pipe"), {}, EINVAL, "a pipe");
  expect_refused(dir.make_file("empty", 0), {}, EINVAL, "its size is 0");
  expect_refused(dir.make_file("odd", 513), {}, EINVAL,
                 "its size, 513, is not a multiple of 512");
  EXPECT_EQ(std::filesystem::file_size(dir.file("odd")), 513U);
  expect_refused(dir.make_file("file", kSize) + "/x", {}, ENOTDIR, "");
}

// Contract M5, mistake 23
TEST(FileOpen, a_file_has_one_owner_at_a_time) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  {
    const auto owner = open(path);
    ASSERT_TRUE(owner.ok()) << owner.error().text();
    expect_refused(path, {}, EBUSY, "in use by another program");
    OpenOptions reader;
    reader.read_only = true;
    expect_refused(path, reader, EBUSY, "in use by another program");
    std::filesystem::create_symlink(path, dir.file("link"));
    expect_refused(dir.file("link"), {}, EBUSY, "in use by another program");
    OpenOptions careless;
    careless.exclusive = false;
    EXPECT_TRUE(open(path, careless).ok());
    // What came and went has not taken the owner's lock with it.
    expect_refused(path, {}, EBUSY, "in use by another program");
  }
  EXPECT_TRUE(open(path).ok());
}

TEST(FileOpen, readers_share_a_file_and_keep_writers_out) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  OpenOptions reader;
  reader.read_only = true;
  const auto one = open(path, reader);
  ASSERT_TRUE(one.ok());
  EXPECT_TRUE(open(path, reader).ok());
  expect_refused(path, {}, EBUSY, "in use by another program");
}

TEST(FileOpen, a_block_device_has_one_owner_at_a_time) {
  const ScratchDir dir;
  std::string why_not;
  const auto loop = LoopDevice::attach(dir.make_file("disk", kSize), why_not);
  if (!loop) GTEST_SKIP() << why_not;
  {
    const auto owner = open(loop->path());
    ASSERT_TRUE(owner.ok()) << owner.error().text();
    expect_refused(loop->path(), {}, EBUSY, "in use by another program");
  }
  EXPECT_TRUE(open(loop->path()).ok());
}

// Mistake 24
TEST(FileOpen, a_lock_that_cannot_be_taken_is_a_refusal) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fcntl, ENOLCK, 1, F_OFD_SETLK}));
    expect_refused(path, {}, ENOLCK, "cannot be locked");
    OpenOptions careless;
    careless.exclusive = false;
    EXPECT_TRUE(open(path, careless).ok());
  });
}

TEST(FileOpen, without_direct_io_automatic_goes_buffered_and_on_refuses) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  run_in_child([&] {
    // As a file system without direct I/O answers each read.
    ASSERT_TRUE(fail_syscall({SYS_pread64, EINVAL}));
    const auto disk = open(path);
    ASSERT_TRUE(disk.ok()) << disk.error().text();
    EXPECT_FALSE((*disk)->info().direct);
    EXPECT_EQ((*disk)->info().logical_block_bytes, 512U);
  });
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_pread64, EINVAL}));
    OpenOptions insist;
    insist.direct = DirectIo::on;
    expect_refused(path, insist, EINVAL, "does not offer direct I/O");
  });
}

TEST(FileOpen, direct_io_in_units_of_4096_makes_the_logical_block_4096) {
  const ScratchDir dir;
  const std::string even = dir.make_file("even", 2 * 4096);
  const std::string odd = dir.make_file("odd", 2 * 4096 + 512);
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_pread64, EINVAL, 2, 512}));
    const auto disk = open(even);
    ASSERT_TRUE(disk.ok()) << disk.error().text();
    EXPECT_TRUE((*disk)->info().direct);
    EXPECT_EQ((*disk)->info().logical_block_bytes, 4096U);
    // The last block would have no whole unit.
    const auto buffered = open(odd);
    ASSERT_TRUE(buffered.ok());
    EXPECT_FALSE((*buffered)->info().direct);
    EXPECT_EQ((*buffered)->info().logical_block_bytes, 512U);
  });
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_pread64, EINVAL, 2, 512}));
    OpenOptions insist;
    insist.direct = DirectIo::on;
    expect_refused(odd, insist, EINVAL, "is not a multiple of 4096");
  });
}

// Contract C11
TEST(FileOpen, a_bad_first_sector_is_no_reason_to_give_up_direct_io) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", kSize);
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_pread64, ENODATA}));
    const auto disk = open(path);
    ASSERT_TRUE(disk.ok()) << disk.error().text();
    EXPECT_TRUE((*disk)->info().direct);
  });
}

TEST(FileOpen, the_true_sector_size_of_a_device_is_told) {
  const ScratchDir dir;
  const std::string file = dir.make_file("disk", kSize);
  for (std::uint32_t sector : {512U, 4096U}) {
    std::string why_not;
    const auto loop = LoopDevice::attach(file, why_not, 0, sector);
    if (!loop) GTEST_SKIP() << why_not;
    for (DirectIo direct : {DirectIo::on, DirectIo::off}) {
      OpenOptions options;
      options.direct = direct;
      const auto disk = open(loop->path(), options);
      ASSERT_TRUE(disk.ok()) << disk.error().text();
      EXPECT_EQ((*disk)->info().logical_block_bytes, sector);
      EXPECT_GE((*disk)->info().physical_block_bytes, sector);
      EXPECT_EQ((*disk)->info().direct, direct == DirectIo::on);
      EXPECT_EQ((*disk)->info().size_bytes, kSize);
    }
  }
}

}  // namespace
}  // namespace nbd_remap
