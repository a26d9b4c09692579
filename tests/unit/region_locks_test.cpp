// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/region_locks.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <random>
#include <string>
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

// True once the thread sleeps, which it does nowhere but in lock().
bool sleeps(const std::atomic<pid_t>& tid) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    std::ifstream stat("/proc/self/task/" + std::to_string(tid) + "/stat");
    std::string line;
    if (tid != 0 && std::getline(stat, line) &&
        line.compare(line.rfind(')') + 2, 1, "S") == 0)
      return true;
    std::this_thread::yield();
  }
  return false;
}

// Requests that need a region alone, without end, must not keep out the others.
TEST_F(Locks, a_sharer_that_waits_goes_before_the_next_exclusive_holder) {
  auto held = lock(Mode::exclusive, 5, 5);
  ASSERT_TRUE(held);
  std::array<std::atomic<pid_t>, 2> tids{};
  std::atomic<int> turn{0};
  std::array<int, 2> turns{};
  std::vector<std::thread> threads;
  for (std::size_t i : {0, 1}) {
    threads.emplace_back([&, i] {
      tids.at(i) = gettid();
      const auto mine =
          lock(i == 0 ? Mode::shared : Mode::exclusive, 5, 5, kPatience);
      EXPECT_TRUE(mine);
      turns.at(i) = ++turn;
    });
    EXPECT_TRUE(sleeps(tids.at(i)));
  }
  held.reset();
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(turns[0], 1);
  EXPECT_EQ(turns[1], 2);
  EXPECT_TRUE(free_now(Mode::exclusive, 5, 5));
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
