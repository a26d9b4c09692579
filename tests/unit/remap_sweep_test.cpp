// SPDX-License-Identifier: BSD-3-Clause
// RemapStore when any call fails, and when two servers start at once.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

// Every call of a history fails once, and from then on for ever: what was
// acked is there after a restart on a good disk, or the open says no.
TEST(RemapSweep, every_call_may_fail_and_no_acked_mapping_is_lost) {
  Pair pair;
  std::uint64_t fired = 0;
  std::uint64_t opened = 0;
  for (bool sticky : {false, true})
    for (int errnum : {EIO, ESHUTDOWN}) {
      bool reached = true;
      for (std::uint64_t nth = 1; reached; ++nth) {
        SCOPED_TRACE(testing::Message() << sticky << errnum << " " << nth);
        const auto spare = twin_of(pair.spare);
        FaultyBackend faulty(*spare);
        faulty.tear_failed_writes(nth);
        const auto rule = faulty.add_failing_call(
            kAnyOp, errnum, {.nth = nth, .sticky = sticky});
        std::uint64_t tried = 0;
        std::vector<RemapEntry> acked;
        for (int run = 0; run < 2; ++run) {
          auto store =
              RemapStore::open(faulty, binding_of(pair.main), false, no_log());
          for (int i = 0; store && i < 6; ++i) {
            const RemapEntry entry = remapped(++tried, *(*store)->take_slot());
            if ((*store)->commit({entry})) acked.push_back(entry);
          }
          if (store) (void)(*store)->close().ok();
        }
        reached = faulty.fired(rule) > 0;
        fired += reached;
        const auto store =
            RemapStore::open(*spare, binding_of(pair.main), false, no_log());
        ASSERT_TRUE(store) << store.error().text();
        ++opened;
        EXPECT_TRUE(survey_metadata(*spare)->copies_agree());
        for (const RemapEntry& entry : acked)
          EXPECT_EQ(entry_of(**store, entry.block.value), entry);
      }
    }
  EXPECT_GT(fired, 200U);
  EXPECT_EQ(opened, fired + 4);
}

// Mistake 23
TEST(RemapSweep, of_two_servers_started_together_at_most_one_can_commit) {
  Pair pair;
  int both = 0;
  int one = 0;
  for (int round = 0; round < 300; ++round) {
    std::array<std::unique_ptr<RemapStore>, 2> stores;
    std::atomic<int> ready = 0;
    std::vector<std::thread> threads;
    for (auto& store : stores)
      threads.emplace_back([&] {
        ++ready;
        while (ready < 2) std::this_thread::yield();
        auto opened = RemapStore::open(pair.spare, binding_of(pair.main), false,
                                       no_log());
        if (opened) store = std::move(*opened);
      });
    for (std::thread& t : threads) t.join();
    int winners = 0;
    for (auto& store : stores)
      winners += store && store->commit({pending(1, 1)}).ok();
    both += winners == 2;
    one += winners == 1;
  }
  EXPECT_EQ(both, 0);
  EXPECT_GT(one, 0);
  EXPECT_TRUE(pair.open()) << "and SPARE is none the worse";
}

// Contract M4, for commits that wait for the same one and then share a record.
TEST(RemapSweep, of_two_commits_at_once_one_gets_the_last_room_for_pending) {
  Pair pair;
  FaultyBackend spare(pair.spare);
  auto store = pair.open(spare);
  const std::uint64_t room = store->status().pending_capacity;
  std::vector<RemapEntry> many;
  for (std::uint64_t block = 0; block + 1 < room; ++block) {
    many.push_back(pending(block, 1));
    if (many.size() < store->max_entries() && block + 2 < room) continue;
    ASSERT_TRUE(store->commit(many));
    many.clear();
  }
  for (std::uint64_t valid = 2; valid < 12; ++valid) {
    std::atomic<bool> held = false;
    std::atomic<int> calls = 0;
    spare.set_hook([&](const Operation& o) {
      if (o.op != FaultOp::write || held.exchange(true)) return;
      while (calls < 2) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    });
    std::array<bool, 2> acked{};
    std::thread first([&] {
      EXPECT_TRUE(store->commit({pending(0, valid)})) << "it needs no room";
    });
    std::vector<std::thread> threads;
    for (const std::uint64_t n : {0, 1})
      threads.emplace_back([&, n] {
        while (!held) std::this_thread::yield();
        ++calls;
        acked.at(n) = store->commit({pending(room + n, 1)}).ok();
      });
    first.join();
    for (std::thread& t : threads) t.join();
    spare.set_hook({});
    EXPECT_EQ(acked[0] + acked[1], 1);
    EXPECT_EQ(store->table().pending_count(), room);
    ASSERT_TRUE(store->commit({clean(acked[0] ? room : room + 1)}));
  }
}

}  // namespace
}  // namespace nbd_remap
