// SPDX-License-Identifier: BSD-3-Clause
// What the file backend does beyond the contract of all backends.

#include "plugins/backend/file_backend.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "tests/fakes/scratch.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

std::uint64_t allocated(const std::string& path) {
  struct stat st {};
  EXPECT_EQ(::stat(path.c_str(), &st), 0);
  return static_cast<std::uint64_t>(st.st_blocks) * 512;
}

class FileBackend : public ::testing::TestWithParam<DirectIo> {
 protected:
  void SetUp() override {
    path_ = dir_.make_file("disk", 8 * kMiB);
    disk_ = open();
    ASSERT_TRUE(disk_);
    ASSERT_EQ(disk_->info().direct, GetParam() == DirectIo::on);
  }
  std::unique_ptr<Backend> open(bool read_only = false) {
    disk_.reset();
    OpenOptions options;
    options.direct = GetParam();
    options.read_only = read_only;
    auto disk = open_file_backend(path_, options);
    EXPECT_TRUE(disk.ok()) << disk.error().text();
    return disk.ok() ? std::move(*disk) : nullptr;
  }

  ScratchDir dir_;
  std::string path_;
  std::unique_ptr<Backend> disk_;
};

INSTANTIATE_TEST_SUITE_P(Modes, FileBackend,
                         ::testing::Values(DirectIo::on, DirectIo::off),
                         [](const auto& test) {
                           return test.param == DirectIo::on ? "Direct"
                                                             : "Buffered";
                         });

// Contract C10: what is gone is not a bad medium.
TEST_P(FileBackend, a_file_that_has_shrunk_is_lost_not_bad) {
  std::vector<std::byte> data(kMiB, std::byte{1});
  ASSERT_TRUE(disk_->write({0}, data, Durability::fua).ok());
  for (std::uint64_t size : {4096U, 4096U + 512U, 100'007U, 3U, 0U}) {
    std::filesystem::resize_file(path_, size);
    const Status s = disk_->read({0}, data);
    ASSERT_FALSE(s.ok()) << size;
    EXPECT_EQ(s.error().error_class, ErrorClass::transport) << s.error().text();
    EXPECT_EQ(s.error().errnum, ENXIO);
    EXPECT_FALSE(disk_->read({kMiB}, Bytes(data).first(1)).ok());
  }
}

TEST_P(FileBackend, an_error_names_the_disk_the_operation_and_the_range) {
  std::vector<std::byte> data(4096);
  std::filesystem::resize_file(path_, 512);
  const Status s = disk_->read({8192}, data);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().place, path_ + ": read 4096 bytes at 8192");
}

TEST_P(FileBackend, a_disk_opened_read_only_refuses_every_change) {
  std::vector<std::byte> data(4096, std::byte{9});
  ASSERT_TRUE(disk_->write({0}, data, Durability::fua).ok());
  disk_ = open(true);
  ASSERT_TRUE(disk_);
  EXPECT_TRUE(disk_->info().read_only);
  EXPECT_FALSE(disk_->info().fast_zero);
  for (const Status& s :
       {disk_->write({0}, data, Durability::cached),
        disk_->zero({0}, 4096, ZeroMode::may_punch, Durability::cached),
        disk_->trim({0}, 4096)}) {
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().errnum, EROFS);
    EXPECT_EQ(s.error().error_class, ErrorClass::full);
  }
  std::vector<std::byte> got(4096);
  EXPECT_TRUE(disk_->read({0}, got).ok());
  EXPECT_EQ(got, data);
  EXPECT_TRUE(disk_->flush().ok());
}

TEST_P(FileBackend, a_hole_is_punched_where_it_may_be_and_only_there) {
  const std::vector<std::byte> data(4 * kMiB, std::byte{7});
  ASSERT_TRUE(disk_->write({0}, data, Durability::fua).ok());
  const std::uint64_t full = allocated(path_);
  ASSERT_GE(full, 4 * kMiB);
  ASSERT_TRUE(
      disk_->zero({0}, kMiB, ZeroMode::keep_allocated, Durability::fua).ok());
  EXPECT_GE(allocated(path_), 4 * kMiB);
  ASSERT_TRUE(
      disk_->zero({kMiB}, kMiB, ZeroMode::may_punch, Durability::fua).ok());
  EXPECT_LE(allocated(path_), full - kMiB);
  ASSERT_TRUE(disk_->trim({2 * kMiB}, kMiB).ok());
  EXPECT_LE(allocated(path_), full - 2 * kMiB);
  // Never written: keep_allocated allocates it.
  ASSERT_TRUE(
      disk_->zero({6 * kMiB}, kMiB, ZeroMode::keep_allocated, Durability::fua)
          .ok());
  EXPECT_GE(allocated(path_), full - kMiB);
}

TEST_P(FileBackend, holes_of_a_sparse_file_are_told_as_they_are) {
  const std::vector<std::byte> data(65536, std::byte{7});
  ASSERT_TRUE(disk_->write({kMiB}, data, Durability::fua).ok());
  struct Told {
    std::uint64_t offset, length;
    bool hole;
  };
  for (const Told& told :
       {Told{4096, kMiB - 4096, true}, Told{kMiB - 1, 1, true},
        Told{kMiB, 65536, false}, Told{kMiB + 1, 65535, false},
        Told{kMiB + 65536, 7 * kMiB - 65536, true}}) {
    const auto extent = disk_->extent({told.offset}, 8 * kMiB - told.offset);
    ASSERT_TRUE(extent.ok());
    EXPECT_EQ(extent->length, told.length) << told.offset;
    EXPECT_EQ(extent->hole, told.hole) << told.offset;
    EXPECT_EQ(extent->zeroes, told.hole) << told.offset;
  }
  // No more than was asked for.
  EXPECT_EQ(disk_->extent({0}, 7)->length, 7U);
  EXPECT_EQ(disk_->extent({kMiB}, 7)->length, 7U);
}

TEST_P(FileBackend, what_it_wrote_another_reader_of_the_file_sees) {
  const std::vector<std::byte> data(3 * 512, std::byte{3});
  ASSERT_TRUE(disk_->write({512}, data, Durability::cached).ok());
  ASSERT_TRUE(
      disk_->zero({1024}, 512, ZeroMode::may_punch, Durability::cached).ok());
  disk_.reset();
  for (DirectIo direct : {DirectIo::on, DirectIo::off}) {
    OpenOptions options;
    options.direct = direct;
    const auto again = open_file_backend(path_, options);
    ASSERT_TRUE(again.ok());
    std::vector<std::byte> got(2048);
    ASSERT_TRUE((*again)->read({0}, got).ok());
    const auto filled = [&](std::size_t from, std::byte value) {
      return std::all_of(got.begin() + static_cast<std::ptrdiff_t>(from),
                         got.begin() + static_cast<std::ptrdiff_t>(from) + 512,
                         [=](std::byte b) { return b == value; });
    };
    EXPECT_TRUE(filled(0, std::byte{0}));
    EXPECT_TRUE(filled(512, std::byte{3}));
    EXPECT_TRUE(filled(1024, std::byte{0}));
    EXPECT_TRUE(filled(1536, std::byte{3}));
  }
}

}  // namespace
}  // namespace nbd_remap
