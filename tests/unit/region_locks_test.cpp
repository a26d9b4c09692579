// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/region_locks.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <random>
#include <thread>

namespace nbd_remap {
namespace {

using Mode = RegionLocks::Mode;
using std::chrono::milliseconds;
constexpr std::uint64_t kRegion = 1 << 20;
constexpr milliseconds kNow{0};
constexpr milliseconds kPatience{30'000};

class Locks : public testing::Test {
 protected:
  // Regions first to last.
  auto lock(Mode mode, std::uint64_t first, std::uint64_t last,
            milliseconds bound = kNow) {
    return locks_.lock(mode, VolumeOffset{first * kRegion},
                       (last - first + 1) * kRegion, bound);
  }
  bool free_now(Mode mode, std::uint64_t first, std::uint64_t last) {
    return lock(mode, first, last).has_value();
  }
  RegionLocks locks_;
};

TEST_F(Locks, sharers_share_and_an_exclusive_holder_is_alone) {
  {
    const auto one = lock(Mode::shared, 3, 3);
    const auto two = lock(Mode::shared, 2, 4);
    ASSERT_TRUE(one && two);
    EXPECT_FALSE(free_now(Mode::exclusive, 3, 3));
    EXPECT_FALSE(free_now(Mode::exclusive, 4, 9));
    EXPECT_TRUE(free_now(Mode::exclusive, 5, 9));
  }
  const auto alone = lock(Mode::exclusive, 3, 3);
  ASSERT_TRUE(alone);
  EXPECT_FALSE(free_now(Mode::shared, 3, 3));
  EXPECT_FALSE(free_now(Mode::exclusive, 0, 3));
  EXPECT_TRUE(free_now(Mode::shared, 4, 4));
}

TEST_F(Locks, one_byte_locks_its_region_and_the_last_byte_its_own) {
  const auto held =
      locks_.lock(Mode::exclusive, VolumeOffset{kRegion - 1}, 2, kNow);
  ASSERT_TRUE(held);
  EXPECT_FALSE(free_now(Mode::shared, 0, 0));
  EXPECT_FALSE(free_now(Mode::shared, 1, 1));
  EXPECT_TRUE(free_now(Mode::shared, 2, 2));
}

TEST_F(Locks, a_range_over_the_last_stripe_goes_on_with_the_first) {
  {
    const auto held = lock(Mode::exclusive, 1020, 1030);
    ASSERT_TRUE(held);
    for (std::uint64_t region : {1020, 1023, 1024, 1030, 0, 6})
      EXPECT_FALSE(free_now(Mode::shared, region, region)) << region;
    for (std::uint64_t region : {1019, 1031, 7, 500})
      EXPECT_TRUE(free_now(Mode::exclusive, region, region)) << region;
  }
  EXPECT_TRUE(free_now(Mode::exclusive, 0, 1023));
}

TEST_F(Locks, a_range_of_more_regions_than_stripes_takes_all_of_them_once) {
  for (std::uint64_t regions : {1024, 1025, 5000}) {
    {
      const auto held = lock(Mode::exclusive, 7, 7 + regions - 1);
      ASSERT_TRUE(held);
      EXPECT_FALSE(free_now(Mode::shared, 6, 6));
      EXPECT_FALSE(free_now(Mode::shared, 100'000, 100'000));
    }
    {
      const auto shared = lock(Mode::shared, 7, 7 + regions - 1);
      ASSERT_TRUE(shared);
      EXPECT_TRUE(free_now(Mode::shared, 0, 5000));
      EXPECT_FALSE(free_now(Mode::exclusive, 6, 6));
    }
    EXPECT_TRUE(free_now(Mode::exclusive, 0, 1023));
  }
}

TEST_F(Locks, one_that_waited_in_vain_leaves_nothing_locked) {
  const auto held = lock(Mode::shared, 5, 5);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_FALSE(lock(Mode::exclusive, 0, 10, milliseconds(30)));
  EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(30));
  EXPECT_TRUE(free_now(Mode::exclusive, 0, 4));
  EXPECT_TRUE(free_now(Mode::exclusive, 6, 10));
  EXPECT_TRUE(free_now(Mode::shared, 5, 5));
}

TEST_F(Locks, a_waiting_exclusive_holder_lets_no_new_sharers_in) {
  auto held = lock(Mode::shared, 5, 5);
  ASSERT_TRUE(held);
  std::thread writer(
      [&] { EXPECT_TRUE(lock(Mode::exclusive, 5, 5, kPatience)); });
  // Sharers get in until the writer waits.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (free_now(Mode::shared, 5, 5) &&
         std::chrono::steady_clock::now() < deadline)
    std::this_thread::yield();
  EXPECT_FALSE(free_now(Mode::shared, 5, 5));
  held.reset();
  writer.join();
  EXPECT_TRUE(free_now(Mode::shared, 5, 5));
}

// Requests that need a region alone, without end, must not keep out the others.
TEST_F(Locks, a_sharer_gets_in_between_exclusive_holders_that_never_pause) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> exclusive{0};
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&] {
      while (!stop) {
        const auto held = lock(Mode::exclusive, 5, 5, kPatience);
        EXPECT_TRUE(held);
        ++exclusive;
        std::this_thread::yield();
      }
    });
  std::uint64_t got = 0;
  for (int i = 0; i < 200; ++i)
    got += lock(Mode::shared, 5, 5, milliseconds(1000)).has_value();
  stop = true;
  for (std::thread& t : writers) t.join();
  EXPECT_EQ(got, 200U);
  EXPECT_GT(exclusive, 0U);
}

TEST_F(Locks, random_ranges_exclude_one_another_and_nobody_waits_in_a_circle) {
  constexpr std::uint64_t kStripes = 1024;
  std::array<std::atomic<int>, kStripes> inside{};  // -1000: alone
  std::atomic<std::uint64_t> done{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 1500; ++i) {
        const std::uint64_t first = 990 + random() % 60;
        const std::uint64_t last = first + random() % 40;
        const Mode mode = random() % 3 == 0 ? Mode::exclusive : Mode::shared;
        const auto held = lock(mode, first, last, kPatience);
        ASSERT_TRUE(held);
        const int mine = mode == Mode::exclusive ? -1000 : 1;
        for (std::uint64_t r = first; r <= last; ++r) {
          const int before = inside[r % kStripes].fetch_add(mine);
          if (mode == Mode::exclusive)
            ASSERT_EQ(before, 0);
          else
            ASSERT_GE(before, 0);
        }
        for (std::uint64_t r = first; r <= last; ++r)
          inside[r % kStripes] -= mine;
        ++done;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(done, 6U * 1500);
  EXPECT_TRUE(free_now(Mode::exclusive, 0, 1023));
}

}  // namespace
}  // namespace nbd_remap
