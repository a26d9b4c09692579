// SPDX-License-Identifier: BSD-3-Clause
// RemapStore when any call fails, and when two servers start at once.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
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

}  // namespace
}  // namespace nbd_remap
