#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// One disk of each kind under test, and the bytes to try it with.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/contract/factories.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kMiB = 1U << 20;

// Bytes that name their place: no two 8-byte words of one fill are equal, and
// none is zero. offset and length may be anything.
std::vector<std::byte> pattern(std::uint64_t seed, std::uint64_t offset,
                               std::uint64_t length);
// EXPECT_EQ that names the first difference instead of printing both.
::testing::AssertionResult same_bytes(ConstBytes got, ConstBytes expected);

// REQUIRES: the backend works; fails the test and returns what there is.
std::vector<std::byte> read_all(Backend& disk, std::uint64_t offset,
                                std::uint64_t length);

class BackendContract : public ::testing::TestWithParam<BackendFactory> {
 protected:
  // Skips the test where the disk cannot be had.
  void open(std::uint64_t size_bytes);
  Backend& disk() { return fixture_->backend(); }
  std::uint64_t logical() { return disk().info().logical_block_bytes; }
  std::uint64_t size() { return disk().info().size_bytes; }
  void SetUp() override { open(kDiskBytes); }
  static constexpr std::uint64_t kDiskBytes = 36 * kMiB;

 private:
  std::unique_ptr<BackendFixture> fixture_;
};

}  // namespace nbd_remap
