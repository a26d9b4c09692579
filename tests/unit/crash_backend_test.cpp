// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/crash_backend.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSize = 1U << 20;

std::vector<std::byte> filled(int value, std::uint64_t length = 512) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

void write(CrashBackend& disk, std::uint64_t offset, int value,
           Durability durability = Durability::cached,
           std::uint64_t length = 512) {
  ASSERT_TRUE(disk.write({offset}, filled(value, length), durability).ok());
}

// The value that fills a sector; -1 when it is not of one piece.
int sector(CrashBackend& disk, std::uint64_t offset) {
  std::vector<std::byte> got(512);
  EXPECT_TRUE(disk.read({offset}, got).ok());
  return got == filled(static_cast<int>(got[0])) ? static_cast<int>(got[0])
                                                 : -1;
}

TEST(CrashDisk, what_was_flushed_or_fua_survives_every_crash) {
  CrashBackend disk(kSize);
  write(disk, 0, 1);
  ASSERT_TRUE(disk.flush().ok());
  EXPECT_EQ(disk.unflushed_sectors(), 0U);
  write(disk, 512, 2, Durability::fua);
  write(disk, 1024, 3);
  EXPECT_EQ(disk.unflushed_sectors(), 1U);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const auto copy = disk.crashed_copy(seed);
    EXPECT_EQ(sector(*copy, 0), 1);
    EXPECT_EQ(sector(*copy, 512), 2);
    EXPECT_EQ(copy->info().identity, disk.info().identity);
    EXPECT_EQ(copy->unflushed_sectors(), 0U);
  }
  EXPECT_EQ(sector(disk, 1024), 3);
}

TEST(CrashDisk, an_unflushed_sector_becomes_any_of_its_versions) {
  CrashBackend disk(kSize);
  write(disk, 512, 1);
  ASSERT_TRUE(disk.flush().ok());
  write(disk, 512, 2);
  write(disk, 512, 3);
  ASSERT_TRUE(
      disk.zero({512}, 512, ZeroMode::may_punch, Durability::cached).ok());
  std::set<int> seen;
  for (std::uint64_t seed = 0; seed < 100; ++seed)
    seen.insert(sector(*disk.crashed_copy(seed), 512));
  EXPECT_EQ(seen, (std::set<int>{0, 1, 2, 3}));
}

TEST(CrashDisk, writes_are_torn_and_reordered) {
  CrashBackend disk(kSize);
  write(disk, 0, 1, Durability::cached, 1024);
  write(disk, 4096, 2);
  std::set<std::array<int, 3>> seen;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto copy = disk.crashed_copy(seed);
    seen.insert({sector(*copy, 0), sector(*copy, 512), sector(*copy, 4096)});
  }
  EXPECT_EQ(seen.size(), 8U);
}

TEST(CrashDisk, fua_replaces_the_older_versions_of_its_sectors_only) {
  CrashBackend disk(kSize);
  write(disk, 0, 1);
  write(disk, 512, 1);
  write(disk, 0, 2, Durability::fua);
  write(disk, 0, 3);
  std::set<int> first;
  std::set<int> second;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const auto copy = disk.crashed_copy(seed);
    first.insert(sector(*copy, 0));
    second.insert(sector(*copy, 512));
  }
  EXPECT_EQ(first, (std::set<int>{2, 3}));
  EXPECT_EQ(second, (std::set<int>{0, 1}));
}

TEST(CrashDisk, the_same_seed_makes_the_same_crash) {
  CrashBackend disk(kSize);
  for (std::uint64_t i = 0; i < 64; ++i)
    write(disk, i * 512, static_cast<int>(i + 1));
  const auto one = disk.crashed_copy(7);
  const auto same = disk.crashed_copy(7);
  const auto other = disk.crashed_copy(8);
  disk.crash(7);
  int different = 0;
  for (std::uint64_t at = 0; at < 64 * 512; at += 512) {
    EXPECT_EQ(sector(*one, at), sector(*same, at));
    EXPECT_EQ(sector(*one, at), sector(disk, at));
    different += sector(*one, at) != sector(*other, at) ? 1 : 0;
  }
  EXPECT_GT(different, 0);
}

TEST(CrashDisk, each_survivor_can_be_chosen) {
  CrashBackend disk(kSize);
  write(disk, 0, 1);
  write(disk, 0, 2);
  for (std::size_t survivor : {0U, 1U, 2U}) {
    const auto copy =
        disk.crashed_copy([&](std::uint64_t number, std::size_t unflushed) {
          EXPECT_EQ(number, 0U);
          EXPECT_EQ(unflushed, 2U);
          return survivor;
        });
    EXPECT_EQ(sector(*copy, 0), static_cast<int>(survivor));
  }
}

TEST(CrashDisk, after_the_cut_everything_fails_until_the_crash_is_over) {
  CrashBackend disk(kSize);
  disk.power_cut_after(2);
  write(disk, 0, 1);
  ASSERT_TRUE(disk.flush().ok());
  EXPECT_FALSE(disk.power_is_off());
  const auto fails = [](const Status& s) {
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().errnum, ESHUTDOWN);
    EXPECT_EQ(s.error().error_class, ErrorClass::transport);
  };
  std::vector<std::byte> got(512);
  fails(disk.read({0}, got));
  EXPECT_TRUE(disk.power_is_off());
  fails(disk.write({512}, filled(2), Durability::fua));
  fails(disk.zero({0}, 512, ZeroMode::may_punch, Durability::fua));
  fails(disk.trim({0}, 512));
  fails(disk.flush());
  EXPECT_FALSE(disk.extent({0}, 512).ok());
  EXPECT_EQ(disk.operations(), 8U);
  disk.crash(1);
  EXPECT_FALSE(disk.power_is_off());
  EXPECT_EQ(sector(disk, 0), 1);
  EXPECT_EQ(sector(disk, 512), 0);
  write(disk, 512, 5);
}

TEST(CrashDisk, the_write_that_the_cut_meets_is_stored_in_part) {
  std::set<int> counts;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    CrashBackend disk(kSize);
    disk.power_cut_after(0);
    EXPECT_FALSE(disk.write({0}, filled(9, 4096), Durability::fua).ok());
    disk.crash(seed);
    int stored = 0;
    for (std::uint64_t at = 0; at < 4096; at += 512)
      stored += sector(disk, at) == 9 ? 1 : 0;
    counts.insert(stored);
  }
  EXPECT_GT(counts.size(), 3U);
}

}  // namespace
}  // namespace nbd_remap
