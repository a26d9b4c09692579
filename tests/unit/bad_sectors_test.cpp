// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/bad_sectors.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSize = 1000;
using BadRun = BadSectors::Run;

void add(BadSectors& bad, const std::string& list, std::uint32_t transient = 0,
         BadMode mode = BadMode::both) {
  const auto ranges = parse_bad_list(list);
  ASSERT_TRUE(ranges);
  ASSERT_TRUE(bad.add(*ranges, mode, transient));
}
bool reads(BadSectors& bad, std::uint64_t sector, std::uint64_t count = 1) {
  return !bad.fails(DiskOp::read, sector * kSectorBytes, count * kSectorBytes);
}
bool writes(BadSectors& bad, std::uint64_t sector, std::uint64_t count = 1) {
  return !bad.fails(DiskOp::write, sector * kSectorBytes, count * kSectorBytes);
}

// Mistake 56, mistake 19
TEST(BadSectors, the_bad_ones_fail_and_their_neighbours_do_not) {
  for (const std::uint64_t at : {0U, 1U, 499U, 999U}) {
    BadSectors bad(kSize);
    add(bad, std::to_string(at));
    for (std::uint64_t sector = 0; sector < kSize; ++sector) {
      ASSERT_EQ(reads(bad, sector), sector != at) << sector;
      ASSERT_EQ(writes(bad, sector), sector != at) << sector;
    }
    EXPECT_EQ(bad.status(9).fired_reads, 1U);
    EXPECT_EQ(bad.status(9).fired_writes, 1U);
  }
}

TEST(BadSectors, one_byte_is_enough_to_touch_a_sector) {
  BadSectors bad(kSize);
  add(bad, "10", 0, BadMode::read);
  struct Case {
    std::uint64_t offset, length;
    bool fails;
  };
  for (const Case& c :
       {Case{5119, 1, false}, Case{5119, 2, true}, Case{5120, 0, false},
        Case{5120, 1, true}, Case{5631, 1, true}, Case{5632, 1, false},
        Case{0, 5120, false}, Case{0, 512000, true}, Case{5300, 5, true}})
    EXPECT_EQ(bad.fails(DiskOp::read, c.offset, c.length), c.fails)
        << c.offset << "+" << c.length;
  EXPECT_EQ(bad.status(0).fired_reads, 5U);
}

TEST(BadSectors, a_mode_fails_only_its_own_kind_of_request) {
  BadSectors bad(kSize);
  add(bad, "1:read,2:write,3:both,4", 0, BadMode::write);
  EXPECT_FALSE(reads(bad, 1));
  EXPECT_TRUE(writes(bad, 1));
  EXPECT_TRUE(reads(bad, 2));
  EXPECT_FALSE(writes(bad, 2));
  EXPECT_FALSE(reads(bad, 3));
  EXPECT_FALSE(writes(bad, 3));
  EXPECT_TRUE(reads(bad, 4));
  EXPECT_FALSE(writes(bad, 4));
}

// Mistake 18
TEST(BadSectors, a_write_of_part_of_an_unreadable_sector_fails) {
  BadSectors bad(kSize);
  add(bad, "10:read");
  struct Case {
    std::uint64_t offset, length;
    bool fails;
  };
  for (const Case& c :
       {Case{5120, 512, false}, Case{5120, 511, true}, Case{5121, 511, true},
        Case{5200, 1, true}, Case{4608, 1024, false}, Case{4609, 1023, false},
        Case{4608, 1023, true}, Case{5121, 1023, true}, Case{5100, 20, false},
        Case{5100, 600, false}, Case{4000, 4000, false},
        Case{5632, 100, false}})
    EXPECT_EQ(bad.fails(DiskOp::write, c.offset, c.length), c.fails)
        << c.offset << "+" << c.length;
}

TEST(BadSectors, a_transient_sector_fails_so_often_and_then_works) {
  BadSectors bad(kSize);
  add(bad, "10-12", 3);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(reads(bad, 11)) << i;
  EXPECT_TRUE(reads(bad, 11));
  EXPECT_EQ(bad.status(9).bad_sectors, 2U);
  // The others were not touched; reads and writes count alike.
  EXPECT_FALSE(writes(bad, 10, 3));
  EXPECT_FALSE(reads(bad, 10));
  EXPECT_EQ(bad.status(9).runs,
            (std::vector<BadRun>{{10, 1, BadMode::both, 1},
                                 {12, 1, BadMode::both, 2}}));
  EXPECT_FALSE(writes(bad, 10));
  EXPECT_TRUE(writes(bad, 10));
  EXPECT_EQ(bad.status(9).fired_reads, 4U);
  EXPECT_EQ(bad.status(9).fired_writes, 2U);
}

TEST(BadSectors, a_request_of_the_other_kind_does_not_use_up_a_transient) {
  BadSectors bad(kSize);
  add(bad, "5:write", 1);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(reads(bad, 5));
  EXPECT_FALSE(writes(bad, 5));
  EXPECT_TRUE(writes(bad, 5));
}

TEST(BadSectors, what_was_written_can_be_read_again) {
  BadSectors bad(kSize);
  add(bad, "5-9:read,20:both");
  bad.heal_written(6 * 512, 1024);
  EXPECT_FALSE(reads(bad, 5));
  EXPECT_TRUE(reads(bad, 6, 2));
  EXPECT_FALSE(reads(bad, 8));
  bad.heal_written(20 * 512, 512);
  EXPECT_TRUE(reads(bad, 20));
  EXPECT_FALSE(writes(bad, 20));
  EXPECT_EQ(bad.status(9).bad_sectors, 4U);
}

TEST(BadSectors, ranges_join_and_part_again) {
  BadSectors bad(kSize);
  add(bad, "10-19:read,20-29:read,15-24:write");
  EXPECT_EQ(bad.status(9).runs,
            (std::vector<BadRun>{{10, 5, BadMode::read, 0},
                                 {15, 10, BadMode::both, 0},
                                 {25, 5, BadMode::read, 0}}));
  ASSERT_TRUE(bad.heal(*parse_bad_list("15-24:write")));
  EXPECT_EQ(bad.status(9).runs,
            (std::vector<BadRun>{{10, 20, BadMode::read, 0}}));
  ASSERT_TRUE(bad.heal(*parse_bad_list("12")));
  EXPECT_EQ(bad.status(9).runs.size(), 2U);
  EXPECT_EQ(bad.status(1).runs.size(), 1U);
  EXPECT_EQ(bad.status(1).all_runs, 2U);
  bad.heal_all();
  EXPECT_EQ(bad.status(9).bad_sectors, 0U);
  EXPECT_TRUE(reads(bad, 0, kSize));
}

TEST(BadSectors, a_range_beyond_the_disk_changes_nothing_at_all) {
  BadSectors bad(kSize);
  add(bad, "5");
  for (const std::string list :
       {"7,1000", "7,999+2", "7,0-1000", "7,18446744073709551614"}) {
    EXPECT_FALSE(bad.add(*parse_bad_list(list), BadMode::both, 0)) << list;
    const auto healed = bad.heal(*parse_bad_list("5," + list));
    ASSERT_FALSE(healed) << list;
    EXPECT_NE(healed.error().place.find("1000 sectors of 512"),
              std::string::npos);
    EXPECT_EQ(bad.status(9).runs,
              (std::vector<BadRun>{{5, 1, BadMode::both, 0}}));
  }
  add(bad, "0-999");
  EXPECT_EQ(bad.status(9).bad_sectors, kSize);
}

// Every sector on its own, as simple as can be.
struct Model {
  struct Sector {
    bool read = false;
    bool write = false;
    std::uint32_t transient = 0;
  };
  std::vector<Sector> sectors;

  bool fails(bool write, std::uint64_t offset, std::uint64_t length) {
    bool failed = false;
    for (std::uint64_t i = 0; i < sectors.size() && length > 0; ++i) {
      const std::uint64_t start = i * 512;
      if (offset + length <= start || start + 512 <= offset) continue;
      const bool whole = offset <= start && start + 512 <= offset + length;
      Sector& s = sectors[i];
      const bool bad = write ? s.write || (!whole && s.read) : s.read;
      if (!bad) continue;
      failed = true;
      if (s.transient > 0 && --s.transient == 0) s = {};
    }
    return failed;
  }
};

TEST(BadSectors, random_operations_agree_with_a_model_of_single_sectors) {
  constexpr std::uint64_t kSectors = 48;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto roll = [&](std::uint64_t n) { return random() % n; };
    BadSectors bad(kSectors);
    Model model{std::vector<Model::Sector>(kSectors)};
    std::uint64_t fired = 0;
    for (int step = 0; step < 3000; ++step) {
      BadRange range{roll(kSectors), 0, {}};
      range.count =
          1 + roll(std::min<std::uint64_t>(kSectors - range.start, 9));
      const auto mode = static_cast<BadMode>(1 + roll(3));
      const auto each = [&](auto change) {
        for (std::uint64_t i = 0; i < range.count; ++i)
          change(model.sectors[range.start + i]);
      };
      const std::uint64_t offset = range.start * 512 + roll(2) * roll(512);
      const std::uint64_t length = std::min(
          kSectors * 512 - offset, range.count * 512 - roll(2) * roll(513));
      switch (roll(8)) {
        case 0: {
          const auto transient = static_cast<std::uint32_t>(roll(4));
          ASSERT_TRUE(bad.add({&range, 1}, mode, transient));
          each([&](auto& s) {
            s.read |= has(mode, BadMode::read);
            s.write |= has(mode, BadMode::write);
            s.transient = transient;
          });
          break;
        }
        case 1:
          range.mode = mode;
          ASSERT_TRUE(bad.heal({&range, 1}));
          each([&](auto& s) {
            s.read &= !has(mode, BadMode::read);
            s.write &= !has(mode, BadMode::write);
            if (!s.read && !s.write) s = {};
          });
          break;
        case 2:
          bad.heal_written(range.start * 512, range.count * 512);
          each([&](auto& s) {
            s.read = false;
            if (!s.write) s = {};
          });
          break;
        default: {
          const bool write = roll(2) == 0;
          const auto op = write ? DiskOp::write : DiskOp::read;
          const bool would = bad.would_fail(op, offset, length);
          const bool failed = bad.fails(op, offset, length);
          ASSERT_EQ(failed, model.fails(write, offset, length))
              << "step " << step << ": " << offset << "+" << length;
          ASSERT_EQ(would, failed);
          fired += failed;
        }
      }
      std::uint64_t bad_sectors = 0;
      for (const auto& s : model.sectors) bad_sectors += s.read || s.write;
      const auto status = bad.status(kSectors);
      ASSERT_EQ(status.bad_sectors, bad_sectors) << "step " << step;
      ASSERT_EQ(status.fired_reads + status.fired_writes, fired);
      std::uint64_t end = 0;
      for (std::size_t i = 0; i < status.runs.size(); ++i) {
        const BadRun& run = status.runs[i];
        const auto& s = model.sectors[run.start];
        ASSERT_TRUE(i == 0 || run.start >= end);
        ASSERT_EQ(run.mode, (s.read ? BadMode::read : BadMode::none) |
                                (s.write ? BadMode::write : BadMode::none));
        ASSERT_EQ(run.transient, s.transient);
        const bool joins = i > 0 && run.start == end &&
                           run.mode == status.runs[i - 1].mode &&
                           run.transient == status.runs[i - 1].transient;
        ASSERT_FALSE(joins);
        end = run.start + run.count;
      }
    }
    ASSERT_GT(fired, 100U);
  }
}

TEST(BadSectors, threads_share_it) {
  BadSectors bad(kSize);
  add(bad, "0-999", 8);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&bad] {
      for (std::uint64_t i = 0; i < 4000; ++i) {
        reads(bad, i % kSize);
        if (i % 100 == 0) bad.status(10);
      }
    });
  for (auto& thread : threads) thread.join();
  // 16 accesses of each of 1000 sectors, of which 8 fail.
  EXPECT_EQ(bad.status(0).fired_reads, 8000U);
  EXPECT_EQ(bad.status(0).bad_sectors, 0U);
}

}  // namespace
}  // namespace nbd_remap
