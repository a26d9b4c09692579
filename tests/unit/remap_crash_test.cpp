// SPDX-License-Identifier: BSD-3-Clause
// Power cuts at every operation of a history, and of the recovery after it.
//
// The map after a cut is the one after the last acked commit, or after the one
// that was under way: there whole or not at all. Each cut takes a copy of the
// disk with a seeded choice of what survived of every unflushed sector, so
// that the history itself runs once.
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

class RemapCrash : public testing::Test {
 protected:
  RemapCrash() : main_(kMainBytes), disk_(kSmallSpareBytes), spy_(disk_) {
    // Else a cut costs more page faults than work.
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    EXPECT_TRUE(format_spare(disk_, main_, {}));
    acked_ = map_on(disk_);
  }

  Result<std::unique_ptr<RemapStore>> open(Backend& disk) const {
    return RemapStore::open(disk, binding_of(main_), false, no_log());
  }

  // From now on every operation is cut, with so many choices of what survives
  // (times NBD_REMAP_CRASH_FACTOR, for long runs).
  void cut_every_operation(std::uint64_t choices) {
    const char* factor = std::getenv("NBD_REMAP_CRASH_FACTOR");
    if (factor) choices *= std::strtoull(factor, nullptr, 10);
    spy_.set_hook([this, choices](const Operation&) {
      for (std::uint64_t i = 0; i < choices; ++i) cut(++seed_);
    });
  }

  void TearDown() override {
    std::printf("%llu cuts, %llu with something to lose, %llu recoveries cut\n",
                static_cast<unsigned long long>(cuts_),
                static_cast<unsigned long long>(torn_),
                static_cast<unsigned long long>(recoveries_cut_));
  }

  void cut(std::uint64_t seed) {
    if (HasFailure()) return;
    SCOPED_TRACE(testing::Message()
                 << "seed " << seed << ", operation " << disk_.operations());
    ++cuts_;
    torn_ += disk_.unflushed_sectors() > 0;
    auto copy = disk_.crashed_copy(seed);
    std::mt19937_64 random(seed);
    // Contract M2a: recovery is cut too, up to three times.
    std::uint64_t again = random() % 4 ? 0 : 1 + random() % 3;
    for (; again > 0; --again) {
      copy->power_cut_after(random() % 60);
      if (const auto store = open(*copy); !store) ++recoveries_cut_;
      copy->crash(random());
    }
    const auto store = open(*copy);
    ASSERT_TRUE(store) << store.error().text();
    MapState now{(*store)->table().snapshot(), {}};
    // The retired ones and the repair cost another look at all of it.
    const auto count = (*store)->status().slots.retired;
    const bool is_new = trying_ && now.entries == trying_->entries &&
                        count == trying_->retired.size();
    now.retired = is_new ? trying_->retired : acked_.retired;
    if (random() % 4 == 0) {
      const auto survey = survey_metadata(*copy);
      ASSERT_TRUE(survey && survey->best);
      EXPECT_TRUE(survey->copies_agree());
      now = survey->chosen().state;
    }
    largest_ = std::max(largest_, now.entries.size());
    EXPECT_EQ(count, now.retired.size());
    EXPECT_TRUE(same(now, acked_) || (trying_ && same(now, *trying_)))
        << now.entries.size() << " entries, acked " << acked_.entries.size();
    saw_new_ += is_new;
    saw_old_ += trying_ && !is_new;
    // What was recovered can be changed, and that lasts too.
    if (seed % 16 != 0) return;
    ASSERT_TRUE((*store)->commit({pending(kMainBlocks - 1, 5)}));
    copy->crash(seed + 1);
    const MapState later = map_on(*copy);
    ASSERT_EQ(later.entries.size(), now.entries.size() + 1);
    EXPECT_EQ(later.entries.back(), pending(kMainBlocks - 1, 5));
  }

  // What the map will be.
  MapState after(const std::vector<RemapEntry>& entries,
                 const std::vector<SlotNo>& retire) const {
    MapState state = acked_;
    for (const RemapEntry& e : entries) {
      std::erase_if(state.entries,
                    [&](const RemapEntry& x) { return x.block == e.block; });
      if (e != clean(e.block.value)) state.entries.push_back(e);
    }
    std::sort(state.entries.begin(), state.entries.end(),
              [](const auto& a, const auto& b) { return a.block < b.block; });
    state.retired.insert(state.retired.end(), retire.begin(), retire.end());
    std::sort(state.retired.begin(), state.retired.end());
    return state;
  }

  bool commit(RemapStore& store, const std::vector<RemapEntry>& entries,
              const std::vector<SlotNo>& retire = {}) {
    trying_ = after(entries, retire);
    const bool ok = store.commit(entries, retire).ok();
    if (ok) {
      acked_ = *trying_;
      trying_.reset();
    }
    return ok;
  }

  // One commit of a kind that the dice choose.
  bool random_commit(RemapStore& store, std::mt19937_64& random) {
    auto block = [&] { return random() % 40 * 1000; };
    const std::uint64_t b = block();
    const RemapEntry old = entry_of(store, b);
    switch (random() % 6) {
      case 0:
        return commit(store, {pending(b, random() % 255)});
      case 1:
        return commit(store, {clean(b)});
      case 2:  // its slot failed
        if (old.remapped() && acked_.retired.size() < 20)
          return commit(store, {remapped(b, *store.take_slot())}, {old.slot()});
        [[fallthrough]];
      case 3: {  // several at once, more than a sector holds
        std::vector<RemapEntry> many;
        for (std::uint64_t i = 0; i < 40; ++i)
          many.push_back(pending(i * 1000 + 1, random() % 255));
        return commit(store, many);
      }
      default:
        return commit(store, {remapped(b, *store.take_slot())});
    }
  }

  const MemoryBackend main_;
  CrashBackend disk_;
  FaultyBackend spy_;
  MapState acked_;                  // as of the last acked commit
  std::optional<MapState> trying_;  // as of the one that is under way
  std::uint64_t seed_ = 0;
  std::uint64_t cuts_ = 0, torn_ = 0, recoveries_cut_ = 0;
  std::uint64_t saw_new_ = 0, saw_old_ = 0;
  std::size_t largest_ = 0;
};

TEST_F(RemapCrash, a_cut_at_any_operation_loses_no_acked_commit) {
  std::mt19937_64 random(7);
  cut_every_operation(3);
  std::uint64_t checkpoints = 0;
  for (int run = 0; run < 5; ++run) {
    auto store = open(spy_);
    ASSERT_TRUE(store);
    EXPECT_EQ((*store)->table().snapshot(), acked_.entries);
    std::uint64_t length = 0;
    for (int i = 0; i < 45; ++i) {
      ASSERT_TRUE(random_commit(**store, random));
      checkpoints += (*store)->status().log_length < length;
      length = (*store)->status().log_length;
      if (HasFailure()) return;
    }
    if (run % 2) {
      ASSERT_TRUE((*store)->close());
    }
  }
  // Mistake 51
  EXPECT_GE(cuts_, 3500U);
  EXPECT_GE(torn_, 1000U);
  EXPECT_GE(recoveries_cut_, 500U);
  EXPECT_GE(saw_new_, 100U);
  EXPECT_GE(saw_old_, 100U);
  EXPECT_GE(checkpoints, 2U);
  EXPECT_GE(largest_, 50U);
}

// The server is killed while the disk lives on, with a record in its cache
// that may or may not last; the next server is cut.
TEST_F(RemapCrash, a_kill_with_a_record_under_way_and_then_a_cut) {
  std::mt19937_64 random(8);
  std::set<bool> kept;
  for (int round = 0; round < 24; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    auto store = open(spy_);
    ASSERT_TRUE(store);
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(random_commit(**store, random));
    // The log sees its flush fail and stops.
    const auto rule = spy_.add_failing_call(FaultOp::flush, ESHUTDOWN);
    const std::vector<RemapEntry> entries{
        pending(random() % 1000 * 1000 + 2, 3)};
    ASSERT_FALSE(commit(**store, entries));
    ASSERT_EQ(spy_.fired(rule), 1U);
    ASSERT_GT(disk_.unflushed_sectors(), 0U);
    store->reset();
    // Half of the time the cache has lost something already.
    if (round % 2) disk_.crash(random());
    cut_every_operation(2);
    auto next = open(spy_);
    spy_.set_hook(nullptr);
    ASSERT_TRUE(next);
    // Now it is known which it was, and it stays so.
    const bool is_new = (*next)->table().snapshot() == trying_->entries;
    kept.insert(is_new);
    if (is_new) acked_ = *trying_;
    trying_.reset();
    EXPECT_EQ((*next)->table().snapshot(), acked_.entries);
    cut(++seed_);
    if (HasFailure()) return;
  }
  EXPECT_EQ(kept.size(), 2U);
  EXPECT_GE(cuts_, 500U);
}

// One copy fails in the middle of the history; from then on it must not be
// believed, whatever can be read of it.
TEST_F(RemapCrash, a_cut_around_the_loss_of_a_copy) {
  for (CopyIndex bad : kCopies)
    for (bool checkpoint : {false, true}) {
      SCOPED_TRACE(testing::Message() << copy_name(bad) << checkpoint);
      std::mt19937_64 random(9);
      auto store = open(spy_);
      ASSERT_TRUE(store);
      for (int i = 0; i < 10; ++i) ASSERT_TRUE(random_commit(**store, random));
      const Layout& l = (*store)->layout();
      const DeviceOffset at =
          checkpoint ? l.checkpoint(bad, 0)
                     : l.record(bad, (*store)->status().log_length + 2);
      const auto rule = spy_.add_bad_range(
          kChanges, at.value,
          checkpoint ? 2 * l.checkpoint_bytes : l.block_bytes, EIO);
      cut_every_operation(1);
      for (int i = 0; i < 70; ++i) ASSERT_TRUE(random_commit(**store, random));
      spy_.set_hook(nullptr);
      EXPECT_GE(spy_.fired(rule), 1U);
      EXPECT_EQ((*store)->status().superblock.copies_in_step,
                copy_bit(other_copy(bad)));
      spy_.remove_all();
      if (HasFailure()) return;
    }
  EXPECT_GE(cuts_, 1000U);
  EXPECT_GE(recoveries_cut_, 100U);
}

}  // namespace
}  // namespace nbd_remap
