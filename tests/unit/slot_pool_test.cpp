// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/slot_pool.hpp"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace nbd_remap {
namespace {

Layout layout_of(std::uint64_t slots) {
  Layout layout;
  layout.slots = slots;
  return layout;
}

TEST(SlotPool, gives_every_slot_once_from_the_first_to_the_last) {
  // Mistake 19: slot 0 is a slot. Mistake 11: so is the last.
  SlotPool pool(layout_of(100));
  std::set<SlotNo> given;
  for (int i = 0; i < 100; ++i) {
    const auto slot = pool.take();
    ASSERT_TRUE(slot);
    EXPECT_LT(slot->value, 100U);
    EXPECT_TRUE(given.insert(*slot).second) << slot->value;
  }
  EXPECT_TRUE(given.count({0}) && given.count({99}));
  EXPECT_FALSE(pool.take());
  EXPECT_EQ(pool.counts().used, 100U);
}

TEST(SlotPool, a_freed_slot_is_given_again_and_a_retired_one_never) {
  SlotPool pool(layout_of(3));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pool.take());
  pool.retire({0});
  pool.free({2});
  EXPECT_EQ(pool.take(), SlotNo{2});
  EXPECT_FALSE(pool.take());
  EXPECT_EQ(pool.retired(), std::vector{SlotNo{0}});
  const auto counts = pool.counts();
  EXPECT_EQ(counts.slots, 3U);
  EXPECT_EQ(counts.used, 2U);
  EXPECT_EQ(counts.retired, 1U);
}

TEST(SlotPool, neighbours_in_time_are_neighbours) {
  SlotPool pool(layout_of(8));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pool.take());
  pool.free({0});
  for (std::uint64_t next : {3, 4, 5, 6, 7, 0})
    EXPECT_EQ(pool.take(), SlotNo{next});
}

TEST(SlotPool, a_slot_marked_at_loading_is_not_given) {
  // Mistake 4
  SlotPool pool(layout_of(4));
  EXPECT_TRUE(pool.mark_taken({0}));
  EXPECT_TRUE(pool.mark_taken({3}));
  EXPECT_FALSE(pool.mark_taken({3})) << "twice";
  EXPECT_FALSE(pool.mark_taken({4})) << "beyond the end";
  EXPECT_EQ(pool.take(), SlotNo{1});
  EXPECT_EQ(pool.take(), SlotNo{2});
  EXPECT_FALSE(pool.take());
}

TEST(SlotPool, retired_slots_are_sorted) {
  SlotPool pool(layout_of(8));
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(pool.take());
  for (std::uint64_t slot : {5, 0, 7, 2}) pool.retire({slot});
  const std::vector<SlotNo> want{{0}, {2}, {5}, {7}};
  EXPECT_EQ(pool.retired(), want);
}

TEST(SlotPool, threads_never_get_the_same_slot) {
  SlotPool pool(layout_of(8000));
  std::vector<std::vector<SlotNo>> got(8);
  std::vector<std::thread> threads;
  for (auto& mine : got)
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i)
        if (const auto slot = pool.take()) mine.push_back(*slot);
    });
  for (std::thread& t : threads) t.join();
  std::set<SlotNo> all;
  for (const auto& mine : got) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), 8000U);
}

}  // namespace
}  // namespace nbd_remap
