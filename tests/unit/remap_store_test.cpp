// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_store.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

std::set<SlotNo> slots_of(const std::vector<RemapEntry>& entries) {
  std::set<SlotNo> slots;
  for (const RemapEntry& e : entries)
    if (e.remapped()) {
      EXPECT_TRUE(slots.insert(e.slot()).second);
    }
  return slots;
}

TEST(RemapStore, what_was_committed_is_there_after_a_restart) {
  for (bool in_order : {true, false}) {
    Pair pair;
    std::vector<RemapEntry> before;
    {
      auto store = pair.open();
      map_blocks(*store, 3, 20);
      ASSERT_TRUE(store->commit({pending(1, 0x7f), pending(2, 0)}));
      ASSERT_TRUE(store->commit({remapped(5, *store->take_slot(), 0x11)}));
      before = store->table().snapshot();
      if (in_order) {
        ASSERT_TRUE(store->close());
      }
    }
    ASSERT_EQ(before.size(), 23U);  // Mistake 51
    auto store = pair.open();
    EXPECT_EQ(store->table().snapshot(), before);
    EXPECT_EQ(store->status().slots.used, 21U);
    EXPECT_EQ(store->status().pending, 2U);
    EXPECT_EQ(store->status().remapped, 21U);
  }
}

TEST(RemapStore, the_first_and_the_last_block_and_slot_are_like_any_other) {
  // Mistake 19
  Pair pair;
  std::vector<RemapEntry> before;
  std::uint64_t last_slot = 0;
  {
    auto store = pair.open();
    last_slot = store->layout().slots - 1;
    std::vector<SlotNo> spare_slots;
    for (std::uint64_t i = 0; i <= last_slot; ++i) {
      const SlotNo slot = *store->take_slot();
      EXPECT_EQ(slot.value, i);
      if (i == 0) {
        ASSERT_TRUE(store->commit({remapped(0, slot)}));
      } else if (i == last_slot) {
        ASSERT_TRUE(store->commit({remapped(kMainBlocks - 1, slot)}));
      } else
        spare_slots.push_back(slot);
    }
    for (SlotNo slot : spare_slots) store->give_back(slot);
    before = store->table().snapshot();
  }
  auto store = pair.open();
  EXPECT_EQ(store->table().snapshot(), before);
  EXPECT_EQ(entry_of(*store, 0).slot(), SlotNo{0});
  EXPECT_EQ(entry_of(*store, kMainBlocks - 1).slot(), SlotNo{last_slot});
  for (int i = 0; i < 5; ++i) EXPECT_NE(*store->take_slot(), SlotNo{0});
  // Unmapped, retired and pending at the edges too.
  ASSERT_TRUE(store->commit({clean(0), pending(kMainBlocks - 1, 1)}, {{0}}));
  store.reset();
  store = pair.open();
  EXPECT_EQ(entry_of(*store, 0), clean(0));
  EXPECT_EQ(entry_of(*store, kMainBlocks - 1), pending(kMainBlocks - 1, 1));
  EXPECT_EQ(map_on(pair.spare).retired, std::vector{SlotNo{0}});
}

TEST(RemapStore, the_sequence_goes_on_over_restarts) {
  // Mistake 9
  Pair pair;
  std::uint64_t last = 0;
  std::uint64_t epoch = 0;
  for (int run = 0; run < 4; ++run) {
    auto store = pair.open();
    for (std::uint64_t i = 0; i < 5; ++i) {
      ASSERT_TRUE(store->commit({pending(i, static_cast<unsigned>(run))}));
      EXPECT_GT(store->status().sequence, last);
      last = store->status().sequence;
    }
    EXPECT_EQ(store->status().superblock.owner_epoch, ++epoch);
    if (run % 2) {
      ASSERT_TRUE(store->close());
    }
  }
  EXPECT_GT(survey_metadata(pair.spare)->chosen().last_sequence, last);
}

TEST(RemapStore, blocks_mapped_after_a_restart_get_other_slots) {
  // Mistake 4
  Pair pair;
  {
    auto store = pair.open();
    map_blocks(*store, 0, 40);
  }
  auto store = pair.open();
  ASSERT_EQ(store->table().remapped_count(), 40U);  // Mistake 51
  map_blocks(*store, 1, 40);
  EXPECT_EQ(slots_of(store->table().snapshot()).size(), 80U);
}

TEST(RemapStore, a_block_mapped_a_thousand_times_holds_one_slot) {
  // Mistake 13
  Pair pair;
  auto store = pair.open();
  ASSERT_LT(store->layout().slots, 1000U);
  for (int i = 0; i < 1000; ++i) {
    const auto slot = store->take_slot();
    ASSERT_TRUE(slot) << "leaked after " << i;
    ASSERT_TRUE(store->commit({remapped(9, *slot)}));
    ASSERT_EQ(entry_of(*store, 9).slot(), *slot) << "used at once";
    ASSERT_EQ(store->status().slots.used, 1U);
  }
  // The same mapping with another mask keeps its slot.
  const SlotNo slot = entry_of(*store, 9).slot();
  ASSERT_TRUE(store->commit({remapped(9, slot, 0x0f)}));
  EXPECT_EQ(store->status().slots.used, 1U);
  store.reset();
  store = pair.open();
  EXPECT_EQ(entry_of(*store, 9), remapped(9, slot, 0x0f));
  EXPECT_EQ(store->status().slots.used, 1U);
}

TEST(RemapStore, every_slot_that_format_promised_can_be_mapped) {
  // Mistakes 3 and 11, contract M4
  for (std::uint64_t bytes : {spare_bytes_for(1, 4096), kSmallSpareBytes,
                              kSmallSpareBytes + 512, 9 * kSmallSpareBytes}) {
    Pair pair(bytes);
    std::vector<RemapEntry> before;
    std::uint64_t slots = 0;
    {
      auto store = pair.open();
      slots = store->layout().slots;
      std::vector<std::byte> pattern(4096);
      for (std::uint64_t i = 0; i < slots; ++i) {
        const auto slot = store->take_slot();
        ASSERT_TRUE(slot) << i;
        std::fill(pattern.begin(), pattern.end(), static_cast<std::byte>(i));
        ASSERT_TRUE(pair.spare.write(store->layout().slot(*slot), pattern,
                                     Durability::cached));
        ASSERT_TRUE(store->commit({remapped(i * 3, *slot)}));
      }
      EXPECT_FALSE(store->take_slot());
      // And with every slot in use the pending blocks have their room.
      const std::uint64_t room = store->status().pending_capacity;
      EXPECT_GE(room, slots);
      for (std::uint64_t i = 0; i < room; ++i)
        ASSERT_TRUE(store->commit({pending(i * 3 + 1, 1)})) << i;
      const Status full = store->commit({pending(kMainBlocks - 1, 1)});
      ASSERT_FALSE(full);
      EXPECT_EQ(full.error().error_class, ErrorClass::full);
      // Nor beside one that needs no room.
      EXPECT_FALSE(store->commit({clean(2), pending(kMainBlocks - 1, 1)}));
      // Full is not failed: what needs no room goes on.
      EXPECT_TRUE(store->commit({pending(1, 3)}));
      EXPECT_TRUE(store->commit({clean(1)}));
      EXPECT_TRUE(store->commit({pending(kMainBlocks - 1, 1)}));
      EXPECT_EQ(store->status().failed, "");
      before = store->table().snapshot();
      if (bytes > kSmallSpareBytes) {
        ASSERT_TRUE(store->close());
      }
    }
    auto store = pair.open();
    EXPECT_EQ(store->table().snapshot(), before);
    EXPECT_EQ(store->table().remapped_count(), slots);
    std::vector<std::byte> got(4096);
    for (std::uint64_t i = 0; i < slots; ++i) {
      ASSERT_TRUE(pair.spare.read(
          store->layout().slot(entry_of(*store, i * 3).slot()), got));
      ASSERT_EQ(std::count(got.begin(), got.end(), static_cast<std::byte>(i)),
                4096)
          << i;
    }
  }
}

TEST(RemapStore, a_retired_slot_is_never_given_again) {
  Pair pair;
  SlotNo bad{};
  {
    auto store = pair.open();
    bad = *store->take_slot();
    const SlotNo good = *store->take_slot();
    ASSERT_TRUE(store->commit({remapped(4, good)}, {bad}));
    // Of a mapped block: its slot failed, another takes its place.
    ASSERT_TRUE(store->commit({remapped(4, *store->take_slot())}, {good}));
    EXPECT_EQ(store->status().slots.retired, 2U);
    EXPECT_EQ(store->status().slots.used, 1U);
  }
  for (bool in_order : {false, true}) {
    auto store = pair.open();
    const auto counts = store->status().slots;
    EXPECT_EQ(counts.retired, 2U);
    std::uint64_t taken = 0;
    while (const auto slot = store->take_slot()) {
      EXPECT_NE(*slot, bad);
      ++taken;
    }
    EXPECT_EQ(taken, counts.slots - counts.used - counts.retired);
    if (in_order) {
      ASSERT_TRUE(store->close());
    }
  }
}

TEST(RemapStore, commits_that_cannot_be_are_refused_and_change_nothing) {
  Pair pair;
  auto store = pair.open();
  const std::uint64_t sequence = store->status().sequence;
  EXPECT_FALSE(store->commit({remapped(kMainBlocks, *store->take_slot())}));
  EXPECT_FALSE(store->commit({remapped(0, {store->layout().slots})}));
  const std::vector<RemapEntry> many(store->max_entries() + 1, pending(1, 1));
  EXPECT_FALSE(store->commit(many));
  EXPECT_EQ(store->status().sequence, sequence);
  EXPECT_TRUE(store->table().snapshot().empty());
  EXPECT_TRUE(store->commit({pending(1, 1)}));
}

TEST(RemapStore, as_many_entries_as_promised_fit_one_commit) {
  Pair pair;
  auto store = pair.open();
  std::vector<RemapEntry> many;
  for (std::uint64_t i = 0; i < store->max_entries(); ++i)
    many.push_back(pending(i, 1));
  ASSERT_TRUE(store->commit(many));
  store.reset();
  EXPECT_EQ(map_on(pair.spare).entries, many);
}

TEST(RemapStore, thousands_of_commits_go_through_many_checkpoints) {
  Pair pair;
  std::mt19937_64 random(1);
  std::map<std::uint64_t, RemapEntry> model;
  auto store = pair.open();
  ASSERT_EQ(store->layout().log_records, 64U);
  for (int i = 0; i < 5000; ++i) {
    const std::uint64_t block = random() % 70 * (kMainBlocks / 70);
    RemapEntry entry = clean(block);
    if (random() % 3 == 0) entry = pending(block, random() % 255);
    if (random() % 3 == 0)
      entry = remapped(block, *store->take_slot(), random() % 256);
    ASSERT_TRUE(store->commit({entry}));
    model.erase(block);
    if (entry != clean(block)) model[block] = entry;
    if (i % 700 == 699) {
      if (random() % 2) {
        ASSERT_TRUE(store->close());
      }
      store = pair.open();
    }
  }
  std::vector<RemapEntry> want;
  for (const auto& [block, entry] : model) want.push_back(entry);
  ASSERT_GT(want.size(), 20U);  // Mistake 51
  EXPECT_EQ(store->table().snapshot(), want);
  EXPECT_EQ(map_on(pair.spare).entries, want);
  EXPECT_TRUE(survey_metadata(pair.spare)->copies_agree());
  EXPECT_EQ(store->status().slots.used, slots_of(want).size());
}

TEST(RemapStore, many_starts_and_stops_without_a_change_never_fill_the_log) {
  Pair pair;
  {
    auto store = pair.open();
    map_blocks(*store, 0, 5);
  }
  for (int i = 0; i < 200; ++i) {
    auto store = pair.open();
    ASSERT_TRUE(store);
    if (i % 3) {
      ASSERT_TRUE(store->close());
    }
  }
  EXPECT_EQ(map_on(pair.spare).entries.size(), 5U);
}

TEST(RemapStore, eight_threads_commit_at_once_and_nothing_is_lost) {
  Pair pair(4 << 20);
  auto store = pair.open();
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  constexpr std::uint64_t kEach = 60;
  for (std::uint64_t t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < kEach; ++i) {
        const std::uint64_t block = i * 8 + t;
        const SlotNo slot = *store->take_slot();
        if (!store->commit({remapped(block, slot)})) ++failures;
        if (entry_of(*store, block) != remapped(block, slot)) ++failures;
        if (i % 4 == 0 && !store->commit({clean(block)})) ++failures;
        if (store->status().failed != "") ++failures;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(failures, 0);
  const auto before = store->table().snapshot();
  EXPECT_EQ(before.size(), 8 * kEach * 3 / 4);
  EXPECT_EQ(slots_of(before).size(), before.size());
  // Fewer records than commits would need if each were alone is allowed, more
  // is not: commits under way share one.
  EXPECT_LE(store->status().sequence, 8 * kEach * 2 + 100);
  store.reset();
  EXPECT_EQ(map_on(pair.spare).entries, before);
}

TEST(RemapStore, read_only_reads_the_map_and_writes_nothing) {
  Pair pair;
  {
    auto store = pair.open();
    map_blocks(*store, 0, 9);
  }
  const auto before = content_of(pair.spare);
  auto store = pair.try_open(pair.spare, true);
  ASSERT_TRUE(store);
  EXPECT_EQ((*store)->table().remapped_count(), 9U);
  EXPECT_TRUE((*store)->status().read_only);
  const Status status = (*store)->commit({pending(1, 1)});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().errnum, EROFS);
  EXPECT_TRUE((*store)->close());
  EXPECT_EQ(before, content_of(pair.spare));
}

TEST(RemapStore, an_orderly_stop_is_marked_and_a_kill_is_not) {
  Pair pair;
  auto store = pair.open();
  map_blocks(*store, 0, 9);
  EXPECT_FALSE(survey_metadata(pair.spare)->chosen().closed);
  ASSERT_TRUE(store->close());
  const auto survey = survey_metadata(pair.spare);
  EXPECT_TRUE(survey->chosen().closed);
  EXPECT_EQ(survey->chosen().log_length, 1U) << "a checkpoint, then the mark";
  EXPECT_EQ(survey->superblock.map_sequence, survey->chosen().last_sequence);
}

TEST(RemapStore, larger_blocks_work_too) {
  for (std::uint32_t block_bytes : {8192U, 32768U}) {
    const MemoryBackend main(kMainBytes, 512, block_bytes);
    MemoryBackend spare(16 << 20);
    ASSERT_TRUE(format_spare(spare, main, {}));
    const std::uint64_t all = block_bytes == 32768 ? ~std::uint64_t{0} : 0xffff;
    std::vector<RemapEntry> before;
    {
      auto store = RemapStore::open(spare, binding_of(main), false, no_log());
      ASSERT_TRUE(store);
      EXPECT_EQ((*store)->all_valid(), all);
      for (std::uint64_t i = 0; i < 100; ++i) {
        ASSERT_TRUE((*store)->commit(
            {remapped(i, *(*store)->take_slot(), all), pending(200 + i, i)}));
        if (i % 2) {
          ASSERT_TRUE((*store)->commit({pending(200 + i, all)}));
        }
      }
      before = (*store)->table().snapshot();
    }
    ASSERT_EQ(before.size(), 150U);
    EXPECT_EQ(map_on(spare).entries, before);
  }
}

}  // namespace
}  // namespace nbd_remap
