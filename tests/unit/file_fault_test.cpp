// SPDX-License-Identifier: BSD-3-Clause
// The file backend over a kernel that refuses or fails one system call.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/uio.h>

#include <algorithm>

#include "plugins/backend/file_backend.hpp"
#include "tests/fakes/scratch.hpp"
#include "tests/unit/syscall_fault.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

class FileFault : public ::testing::TestWithParam<DirectIo> {
 protected:
  void SetUp() override {
    path_ = dir_.make_file("disk", 4 * kMiB);
    OpenOptions options;
    options.direct = GetParam();
    auto disk = open_file_backend(path_, options);
    ASSERT_TRUE(disk.ok()) << disk.error().text();
    disk_ = std::move(*disk);
    ASSERT_TRUE(disk_->write({0}, data_, Durability::fua).ok());
  }
  void expect_content(std::uint64_t offset, std::uint64_t length,
                      std::byte value) {
    std::vector<std::byte> got(length, std::byte{0xcc});
    ASSERT_TRUE(disk_->read({offset}, got).ok());
    EXPECT_TRUE(std::all_of(got.begin(), got.end(),
                            [=](std::byte b) { return b == value; }))
        << length << " bytes at " << offset;
  }

  ScratchDir dir_;
  std::string path_;
  std::unique_ptr<Backend> disk_;
  const std::vector<std::byte> data_ =
      std::vector<std::byte>(3 * kMiB, std::byte{7});
};

INSTANTIATE_TEST_SUITE_P(Modes, FileFault,
                         ::testing::Values(DirectIo::on, DirectIo::off),
                         [](const auto& test) {
                           return test.param == DirectIo::on ? "Direct"
                                                             : "Buffered";
                         });

TEST_P(FileFault, the_error_of_a_read_has_class_and_place) {
  struct Case {
    int errnum;
    ErrorClass error_class;
  };
  for (const Case& c :
       {Case{EIO, ErrorClass::medium}, Case{ENODATA, ErrorClass::medium},
        Case{ENODEV, ErrorClass::transport}, Case{ENOMEM, ErrorClass::full}})
    run_in_child([&] {
      ASSERT_TRUE(fail_syscall({SYS_pread64, c.errnum}));
      std::vector<std::byte> got(4096);
      const Status s = disk_->read({8192}, got);
      ASSERT_FALSE(s.ok());
      EXPECT_EQ(s.error().errnum, c.errnum);
      EXPECT_EQ(s.error().error_class, c.error_class);
      EXPECT_EQ(s.error().place, path_ + ": read 4096 bytes at 8192");
    });
}

TEST_P(FileFault, the_error_of_a_write_is_met_by_that_write) {
  const SyscallFault plain{SYS_pwrite64, EIO};
  const SyscallFault fua{SYS_pwritev2, EIO, 5, RWF_DSYNC};
  for (Durability durability : {Durability::cached, Durability::fua})
    run_in_child([&] {
      ASSERT_TRUE(fail_syscall(durability == Durability::fua ? fua : plain));
      const Status s = disk_->write({0}, data_, durability);
      ASSERT_FALSE(s.ok());
      EXPECT_EQ(s.error().error_class, ErrorClass::medium);
      EXPECT_EQ(s.error().place, path_ + ": write 3145728 bytes at 0");
    });
}

TEST_P(FileFault, a_fua_write_does_not_flush_everything) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fdatasync, EIO}));
    EXPECT_TRUE(disk_->write({0}, data_, Durability::fua).ok());
    const Status s = disk_->flush();
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().errnum, EIO);
    EXPECT_EQ(s.error().place, path_ + ": flush");
  });
}

TEST_P(FileFault, without_rwf_dsync_a_fua_write_is_followed_by_a_flush) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_pwritev2, EOPNOTSUPP}));
    EXPECT_TRUE(disk_->write({0}, data_, Durability::fua).ok());
    expect_content(0, 3 * kMiB, std::byte{7});
  });
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_pwritev2, EOPNOTSUPP}));
    ASSERT_TRUE(fail_syscall({SYS_fdatasync, EIO}));
    EXPECT_FALSE(disk_->write({0}, data_, Durability::fua).ok());
    EXPECT_TRUE(disk_->write({0}, data_, Durability::cached).ok());
  });
}

TEST_P(FileFault, without_fallocate_zeroes_are_written) {
  for (ZeroMode mode : {ZeroMode::keep_allocated, ZeroMode::may_punch})
    run_in_child([&] {
      ASSERT_TRUE(fail_syscall({SYS_fallocate, EOPNOTSUPP}));
      for (int again = 0; again < 2; ++again) {
        ASSERT_TRUE(disk_->write({0}, data_, Durability::cached).ok());
        ASSERT_TRUE(disk_->zero({512}, 2 * kMiB, mode, Durability::fua).ok());
        expect_content(0, 512, std::byte{7});
        expect_content(512, 2 * kMiB, std::byte{0});
        expect_content(512 + 2 * kMiB, kMiB - 512, std::byte{7});
      }
    });
}

TEST_P(FileFault, without_fallocate_a_fast_zero_is_refused_untouched) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fallocate, EOPNOTSUPP}));
    for (std::uint64_t offset : {0U, 512U, 4096U}) {
      const Status s = disk_->zero({offset}, 2 * kMiB, ZeroMode::fast_only,
                                   Durability::cached);
      ASSERT_FALSE(s.ok());
      EXPECT_EQ(s.error().errnum, ENOTSUP);
    }
    expect_content(0, 3 * kMiB, std::byte{7});
    // A trim is a hint, and taken as one.
    EXPECT_TRUE(disk_->trim({0}, kMiB).ok());
    expect_content(0, 3 * kMiB, std::byte{7});
  });
}

TEST_P(FileFault, what_is_not_supported_is_asked_for_once) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fallocate, EOPNOTSUPP}));
    ASSERT_TRUE(
        disk_->zero({0}, 8192, ZeroMode::may_punch, Durability::cached).ok());
    // From now on it would fail, if it were called.
    ASSERT_TRUE(fail_syscall({SYS_fallocate, EIO}));
    EXPECT_TRUE(
        disk_->zero({0}, 8192, ZeroMode::may_punch, Durability::cached).ok());
  });
}

TEST_P(FileFault, another_error_of_fallocate_is_an_error) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fallocate, ENOSPC}));
    const Status s =
        disk_->zero({4096}, kMiB, ZeroMode::keep_allocated, Durability::cached);
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().error_class, ErrorClass::full);
    EXPECT_EQ(s.error().place, path_ + ": zero 1048576 bytes at 4096");
  });
}

// Contract C11: fallocate() would zero part of a file system's block in the
// page cache.
TEST_P(FileFault, part_of_a_block_is_zeroed_by_a_write_in_direct_mode) {
  if (GetParam() != DirectIo::on) GTEST_SKIP() << "direct mode only";
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fallocate, EIO}));
    EXPECT_TRUE(
        disk_->zero({512}, 1024, ZeroMode::may_punch, Durability::cached).ok());
    expect_content(512, 1024, std::byte{0});
    expect_content(1536, 4096, std::byte{7});
    EXPECT_FALSE(
        disk_->zero({512}, 8192, ZeroMode::may_punch, Durability::cached).ok());
  });
}

TEST_P(FileFault, a_zero_with_fua_is_followed_by_a_flush) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_fdatasync, EIO}));
    EXPECT_TRUE(
        disk_->zero({0}, kMiB, ZeroMode::may_punch, Durability::cached).ok());
    EXPECT_FALSE(
        disk_->zero({0}, kMiB, ZeroMode::may_punch, Durability::fua).ok());
  });
}

TEST_P(FileFault, without_seek_hole_everything_is_data) {
  run_in_child([&] {
    ASSERT_TRUE(fail_syscall({SYS_lseek, EINVAL}));
    const auto extent = disk_->extent({1}, 4 * kMiB - 1);
    ASSERT_TRUE(extent.ok());
    EXPECT_EQ(extent->length, 4 * kMiB - 1);
    EXPECT_FALSE(extent->hole || extent->zeroes);
  });
}

}  // namespace
}  // namespace nbd_remap
