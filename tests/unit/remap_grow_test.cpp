// SPDX-License-Identifier: BSD-3-Clause
// A SPARE that is enlarged, and a MAIN: nothing that was there moves or is
// lost, whenever it is cut; what is new is used to the last slot.
#include "plugins/remap/remap_grow.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <set>
#include <thread>

#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

// A larger disk that begins with what is on the small one, of one identity.
template <class Disk>
void move_to(MemoryBackend& small, Disk& large) {
  const std::vector<std::byte> all = content_of(small);
  ASSERT_TRUE(large.write({0}, all, Durability::cached));
  ASSERT_TRUE(large.flush());
}

BackendInfo info_of(const Backend& disk, std::uint64_t size_bytes) {
  BackendInfo info = disk.info();
  info.size_bytes = size_bytes;
  return info;
}

TEST(RemapGrow, an_enlarged_spare_is_refused_until_it_is_told_to_grow) {
  Pair pair;
  { map_blocks(*pair.open(), 3, 20); }
  MemoryBackend large(info_of(pair.spare, 4 * kMiB));
  move_to(pair.spare, large);
  const auto before = content_of(large);
  const auto refused = pair.try_open(large);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text().find("nbd-remapctl spare grow"),
            std::string::npos)
      << refused.error().text();
  EXPECT_EQ(content_of(large), before) << "nothing was written";
  const auto grown = grow_spare(large, pair.log.sink());
  ASSERT_TRUE(grown) << grown.error().text();
  EXPECT_TRUE(survey_metadata(large)->copies_agree());
  auto store = pair.open(large);
  ASSERT_TRUE(store);
  EXPECT_EQ(store->status().remapped, 20U);
  EXPECT_EQ(store->status().slots.slots, grown->layout.slots);
}

TEST(RemapGrow, to_more_than_a_spare_can_have_is_refused) {
  Pair pair;
  MemoryBackend large(info_of(pair.spare, kMaxSpareBytes + 1));
  move_to(pair.spare, large);
  const auto writes = large.calls().write;
  const auto grown = grow_spare(large, pair.log.sink());
  ASSERT_FALSE(grown);
  EXPECT_NE(grown.error().text().find(std::to_string(kMaxSpareBytes)),
            std::string::npos)
      << grown.error().text();
  EXPECT_EQ(large.calls().write, writes);
}

// Mistakes 3, 4 and 11 on what is new: every slot once, to the last, and the
// map is whole after it, after another growth too.
TEST(RemapGrow, every_slot_of_what_is_new_is_used_and_remembered) {
  Pair pair;
  { map_blocks(*pair.open(), 1, 30); }
  std::unique_ptr<MemoryBackend> disk = twin_of(pair.spare);
  std::uint64_t next = 1000;
  for (const std::uint64_t bytes : {3 * kMiB, 6 * kMiB + 512 * 5}) {
    auto large = std::make_unique<MemoryBackend>(info_of(*disk, bytes));
    move_to(*disk, *large);
    const auto grown = grow_spare(*large, pair.log.sink());
    ASSERT_TRUE(grown) << grown.error().text();
    disk = std::move(large);
    std::uint64_t last = 0;
    {
      auto store = pair.open(*disk);
      ASSERT_TRUE(store);
      std::set<std::uint64_t> slots;
      for (const RemapEntry& e : store->table().snapshot())
        slots.insert(e.slot_or_none);
      const Layout layout = grown->layout;
      while (const auto slot = store->take_slot()) {
        ASSERT_TRUE(layout.has_slot(*slot));
        ASSERT_TRUE(slots.insert(slot->value).second) << "given twice";
        ASSERT_TRUE(store->commit({remapped(next++, *slot)}));
        last = slot->value;
      }
      EXPECT_EQ(slots.size(), layout.slots);
      EXPECT_EQ(last, layout.slot_end() - 1);
      ASSERT_TRUE(store->close());
    }
    EXPECT_EQ(map_on(*disk).entries.size(), grown->layout.slots);
  }
}

TEST(RemapGrow, a_spare_in_use_grows_and_its_map_goes_on) {
  Pair pair;
  auto store = pair.open();
  ASSERT_TRUE(store);
  map_blocks(*store, 2, 10);
  const Status same_size = store->grow_spare(kSmallSpareBytes);
  ASSERT_FALSE(same_size);
  EXPECT_EQ(same_size.error().error_class, ErrorClass::caller);
  const Status little = store->grow_spare(kSmallSpareBytes + 65536);
  ASSERT_FALSE(little);
  EXPECT_NE(little.error().text().find("too few"), std::string::npos);
  const std::uint64_t slots = store->status().slots.slots;
  pair.spare.enlarge(8 * kMiB);
  ASSERT_EQ(*pair.spare.grow(), 8 * kMiB);
  // Commits of others before, while and after.
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> commits{0};
  std::thread other([&] {
    for (std::uint64_t block = 5000; !stop; ++block) {
      const auto slot = store->take_slot();
      if (!slot) continue;
      const Status put = store->commit({remapped(block, *slot)});
      EXPECT_TRUE(put) << put.error().text();
      if (!put) break;
      EXPECT_TRUE(store->commit({clean(block)}));
      ++commits;
    }
  });
  while (commits < 20 && !HasFailure()) std::this_thread::yield();
  const Status grown = store->grow_spare(8 * kMiB);
  EXPECT_TRUE(grown) << grown.error().text();
  const std::uint64_t then = commits;
  while (commits < then + 20 && !HasFailure()) std::this_thread::yield();
  stop = true;
  other.join();
  EXPECT_GT(store->status().slots.slots, 2 * slots);
  map_blocks(*store, 10'000, slots, 1);
  const auto expected = store->table().snapshot();
  ASSERT_TRUE(store->close());
  store.reset();
  MemoryBackend after(info_of(pair.spare, 8 * kMiB));
  AlignedBuffer all(8 * kMiB);
  ASSERT_TRUE(pair.spare.read({0}, all.bytes()));
  ASSERT_TRUE(after.write({0}, all.bytes(), Durability::cached));
  EXPECT_EQ(map_on(after).entries, expected);
}

// Contract L4, M2: cut anywhere, whatever survives: the old SPARE or the new,
// with the same map, and either can be started and grown.
TEST(RemapGrow, a_cut_anywhere_leaves_the_old_or_the_new) {
  MemoryBackend main(kMainBytes);
  constexpr std::uint64_t kLarge = 3 * kMiB;
  CrashBackend disk(kLarge);
  MemoryBackend small(info_of(disk, kSmallSpareBytes));
  ASSERT_TRUE(format_spare(small, main, {}));
  MapState state;
  {
    auto store = RemapStore::open(small, binding_of(main), false, no_log());
    ASSERT_TRUE(store);
    map_blocks(**store, 3, 40);
    ASSERT_TRUE((*store)->commit({pending(7000, 0x0f)}));
    ASSERT_TRUE((*store)->close());
    state = map_on(small);
  }
  move_to(small, disk);
  int refused = 0;
  int old_ones = 0;
  int new_ones = 0;
  int cuts = 0;
  FaultyBackend spy(disk);
  std::uint64_t seed = 0;
  const auto check = [&](CrashBackend& copy) {
    ++cuts;
    auto store = RemapStore::open(copy, binding_of(main), false, no_log());
    if (!store) {
      // Not yet announced: as it was, but for its size.
      ASSERT_NE(store.error().text().find("spare grow"), std::string::npos)
          << store.error().text();
      ++refused;
    } else {
      ASSERT_EQ((*store)->table().snapshot(), state.entries);
      const bool is_new = (*store)->status().superblock.layout.grown();
      ++(is_new ? new_ones : old_ones);
      ASSERT_TRUE((*store)->commit({pending(9000, 1)}));
      ASSERT_TRUE((*store)->commit({clean(9000)}));
      if (is_new) return;
      store->reset();
    }
    const auto again = grow_spare(copy, no_log());
    ASSERT_TRUE(again) << again.error().text();
    store = RemapStore::open(copy, binding_of(main), false, no_log());
    ASSERT_TRUE(store) << store.error().text();
    ASSERT_EQ((*store)->table().snapshot(), state.entries);
  };
  spy.set_hook([&](const Operation&) {
    for (int i = 0; i < 20 && !testing::Test::HasFailure(); ++i) {
      SCOPED_TRACE(testing::Message() << "seed " << seed + 1 << ", operation "
                                      << disk.operations());
      auto copy = disk.crashed_copy(++seed);
      if (seed % 3 == 0) {  // the growing that mends it is cut as well
        copy->power_cut_after(seed % 37);
        (void)grow_spare(*copy, no_log());
        copy->crash(seed);
      }
      check(*copy);
    }
  });
  const auto grown = grow_spare(spy, no_log());
  ASSERT_TRUE(grown) << grown.error().text();
  spy.set_hook(nullptr);
  ASSERT_NO_FATAL_FAILURE(check(*disk.crashed_copy(1)));
  std::printf("%d cuts: %d refused, %d old, %d new\n", cuts, refused, old_ones,
              new_ones);
  EXPECT_GT(refused, 100);
  EXPECT_GT(old_ones, 100);
  EXPECT_GT(new_ones, 100);
}

// A medium error at any one write: refused or done, and the map is there.
TEST(RemapGrow, a_bad_place_anywhere_costs_nothing_that_was_there) {
  Pair pair;
  { map_blocks(*pair.open(), 3, 25); }
  const MapState state = map_on(pair.spare);
  int fired = 0;
  int failed = 0;
  for (std::uint64_t n = 1;; ++n) {
    SCOPED_TRACE(testing::Message() << "write " << n);
    MemoryBackend large(info_of(pair.spare, 3 * kMiB));
    move_to(pair.spare, large);
    FaultyBackend spy(large);
    const auto rule = spy.add_failing_call({FaultOp::write, FaultOp::zero}, EIO,
                                           {.nth = n, .sticky = false});
    const auto grown = grow_spare(spy, no_log());
    if (spy.fired(rule) == 0) break;
    ++fired;
    failed += !grown;
    const auto again = grow_spare(large, no_log());
    if (!grown) {
      ASSERT_TRUE(again || survey_metadata(large)) << again.error().text();
    }
    auto store = pair.open(large);
    ASSERT_TRUE(store) << pair.log.all();
    ASSERT_EQ(store->table().snapshot(), state.entries);
  }
  EXPECT_GT(fired, 10);
  EXPECT_GT(failed, 5);
}

struct MainPair {
  explicit MainPair(std::uint64_t bytes)
      : small(info_of(MemoryBackend(bytes), bytes)), spare(kSmallSpareBytes) {
    EXPECT_TRUE(format_spare(spare, small, {}));
  }
  MemoryBackend small;
  MemoryBackend spare;
};

TEST(RemapGrow, an_enlarged_main_is_refused_until_it_is_told_to_grow) {
  constexpr std::uint64_t kBytes = 100 * 4096 + 1024;
  MainPair pair(kBytes);
  {
    auto store =
        RemapStore::open(pair.spare, binding_of(pair.small), false, no_log());
    ASSERT_TRUE(store);
    map_blocks(**store, 3, 5);
    const auto slot = (*store)->take_slot();
    // The last block, of which two sectors are the volume's.
    ASSERT_TRUE((*store)->commit({remapped(100, *slot)}));
    const std::vector<std::byte> own(4096, std::byte{0x11});
    ASSERT_TRUE(pair.spare.write((*store)->layout().slot(*slot), own,
                                 Durability::cached));
    ASSERT_FALSE((*store)->commit({pending(101, 1)}));
    ASSERT_TRUE((*store)->close());
  }
  MemoryBackend main(info_of(pair.small, 300 * 4096));
  const std::vector<std::byte> theirs(4096, std::byte{0x22});
  ASSERT_TRUE(main.write({100 * 4096}, theirs, Durability::cached));
  ASSERT_FALSE(RemapStore::open(pair.spare, binding_of(main), false, no_log()));
  ASSERT_FALSE(grow_main(pair.small, pair.spare, no_log())) << "not larger";
  MemoryBackend other(300 * 4096);
  ASSERT_FALSE(grow_main(other, pair.spare, no_log())) << "another disk";

  // Its last sector cannot be read; the other new ones of the block can.
  FaultyBackend spy(main);
  const auto rule =
      spy.add_bad_range(FaultOp::read, 101 * 4096 - 512, 512, EIO);
  const auto grown = grow_main(spy, pair.spare, no_log());
  ASSERT_TRUE(grown) << grown.error().text();
  EXPECT_EQ(grown->main_bytes, 300U * 4096);
  EXPECT_GT(spy.fired(rule), 0U);
  auto store = RemapStore::open(pair.spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_EQ((*store)->status().remapped, 6U);
  const RemapEntry last = entry_of(**store, 100);
  EXPECT_EQ(last.valid, 0x7fU);
  std::vector<std::byte> slot(4096);
  ASSERT_TRUE(pair.spare.read((*store)->layout().slot(last.slot()), slot));
  EXPECT_EQ(slot[1023], std::byte{0x11});
  for (std::size_t at = 1024; at < 4096 - 512; ++at)
    ASSERT_EQ(slot[at], std::byte{0x22}) << at;
  ASSERT_TRUE((*store)->commit({pending(299, 1)})) << "a block of what is new";
}

}  // namespace
}  // namespace nbd_remap
