// SPDX-License-Identifier: BSD-3-Clause
// RemapStore on a SPARE that fails: order of operations, failed writes and
// flushes, a copy that falls out of step, two servers.
#include <gtest/gtest.h>

#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

class RemapFault : public testing::Test {
 protected:
  RemapFault() : faulty_(pair_.spare) {}

  void open_with_mappings() {
    store_ = pair_.open(faulty_);
    map_blocks(*store_, 0, 5);
    before_ = store_->table().snapshot();
    ASSERT_EQ(before_.size(), 5U);  // Mistake 51
    faulty_.clear_trace();
  }
  void reopen() {
    store_.reset();
    store_ = pair_.open(faulty_);
    ASSERT_TRUE(store_);
  }
  DeviceOffset next_record(CopyIndex copy) const {
    return store_->layout().record(copy, store_->status().log_length);
  }
  std::uint32_t in_step() const {
    return store_->status().superblock.copies_in_step;
  }
  // Of the trace, without reads: what was done where.
  std::string changes() const {
    const Layout& l = store_->layout();
    std::string text;
    for (const Operation& o : faulty_.trace()) {
      if (o.op == FaultOp::read) continue;
      auto in = [&](DeviceOffset begin, std::uint64_t bytes) {
        return o.offset >= begin.value && o.offset < begin.value + bytes;
      };
      std::string what = o.op == FaultOp::flush ? "flush" : "other";
      for (CopyIndex c : kCopies) {
        const std::string copy = c == CopyIndex::head ? "head" : "tail";
        if (o.op == FaultOp::flush) continue;
        if (in(l.superblock(c), kSuperblockPlaceBytes))
          what = copy + " superblock";
        for (unsigned area : {0U, 1U}) {
          if (in(l.checkpoint(c, area), l.checkpoint_bytes))
            what = copy + " body";
          if (in(l.checkpoint(c, area), l.block_bytes)) what = copy + " header";
        }
        if (in(l.record(c, 0), l.log_records * l.block_bytes))
          what = copy + " record";
      }
      if (o.injected) what += " failed";
      text += (text.empty() ? "" : ", ") + what;
    }
    return text;
  }

  Pair pair_;
  FaultyBackend faulty_;
  std::unique_ptr<RemapStore> store_;
  std::vector<RemapEntry> before_;
};

// Mistake 7: the record, its flush, and only then the table.
TEST_F(RemapFault, a_mapping_is_visible_only_when_its_record_is_durable) {
  open_with_mappings();
  const SlotNo slot = *store_->take_slot();
  int seen = 0;
  faulty_.set_hook([&](const Operation&) {
    ++seen;
    EXPECT_EQ(store_->table().snapshot(), before_);
  });
  ASSERT_TRUE(store_->commit({remapped(1, slot)}));
  faulty_.set_hook(nullptr);
  EXPECT_GE(seen, 3);
  EXPECT_EQ(changes(), "head record, tail record, flush");
  EXPECT_EQ(faulty_.trace().back().op, FaultOp::flush) << "nothing after it";
  EXPECT_EQ(entry_of(*store_, 1), remapped(1, slot));
}

TEST_F(RemapFault, a_slot_is_free_only_when_the_removal_is_durable) {
  open_with_mappings();
  const std::uint64_t used = store_->status().slots.used;
  int seen = 0;
  faulty_.set_hook([&](const Operation&) {
    ++seen;
    EXPECT_EQ(store_->status().slots.used, used);
  });
  ASSERT_TRUE(store_->commit({clean(0)}));
  faulty_.set_hook(nullptr);
  EXPECT_GE(seen, 3);
  EXPECT_EQ(store_->status().slots.used, used - 1);
}

TEST_F(RemapFault, a_slot_is_not_free_when_the_removal_failed) {
  open_with_mappings();
  const std::uint64_t used = store_->status().slots.used;
  const auto rule = faulty_.add_failing_call(FaultOp::flush, EIO);
  EXPECT_FALSE(store_->commit({clean(0)}));
  EXPECT_EQ(faulty_.fired(rule), 1U);
  EXPECT_EQ(store_->status().slots.used, used);
  EXPECT_EQ(store_->table().snapshot(), before_);
}

TEST_F(RemapFault, a_full_log_is_begun_anew_after_body_then_header) {
  open_with_mappings();
  while (store_->status().log_length < store_->layout().log_records)
    ASSERT_TRUE(store_->commit({pending(99, store_->status().sequence % 255)}));
  faulty_.clear_trace();
  ASSERT_TRUE(store_->commit({pending(98, 1)}));
  EXPECT_EQ(changes(),
            "head body, tail body, flush, head header, tail header, flush, "
            "head superblock, flush, tail superblock, flush, "
            "head record, tail record, flush");
  EXPECT_EQ(store_->status().log_length, 1U);
}

TEST_F(RemapFault, a_commit_that_fails_is_not_visible) {
  // Mistake 7: each call of a commit fails in turn, for each kind of error.
  for (int errnum : {EIO, ENOSPC, ESHUTDOWN, ETIMEDOUT})
    for (std::uint64_t nth = 1; nth <= 3; ++nth) {
      SCOPED_TRACE(testing::Message() << errnum << " " << nth);
      Pair pair;
      FaultyBackend faulty(pair.spare);
      auto store = pair.open(faulty);
      map_blocks(*store, 0, 5);
      const auto before = store->table().snapshot();
      // Sticky: a medium error on one copy alone would be survived.
      const auto rule =
          faulty.add_failing_call({FaultOp::write, FaultOp::flush}, errnum,
                                  {.nth = nth, .sticky = true});
      const Status status = store->commit({remapped(1, *store->take_slot())});
      ASSERT_FALSE(status);
      EXPECT_NE(status.error().error_class, ErrorClass::medium)
          << "would say that the slot is bad";
      EXPECT_GE(faulty.fired(rule), 1U);
      EXPECT_EQ(store->table().snapshot(), before);
      EXPECT_NE(store->status().failed, "");
      // What is mapped stays; what is on SPARE is the old map or the new one.
      faulty.remove_all();
      store.reset();
      store = pair.open(faulty);
      ASSERT_TRUE(store);
      const auto after = store->table().snapshot();
      for (const RemapEntry& e : before)
        EXPECT_EQ(entry_of(*store, e.block.value), e);
      EXPECT_TRUE(after == before || after.size() == before.size() + 1);
    }
}

TEST_F(RemapFault, after_a_failed_flush_the_log_stays_failed) {
  open_with_mappings();
  const auto rule = faulty_.add_failing_call(FaultOp::flush, EIO);
  ASSERT_FALSE(store_->commit({pending(50, 1)}));
  EXPECT_EQ(faulty_.fired(rule), 1U);
  faulty_.clear_trace();
  for (int i = 0; i < 3; ++i) {
    const Status status = store_->commit({pending(51, 1)});
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().error_class, ErrorClass::medium);
  }
  EXPECT_FALSE(store_->close());
  EXPECT_EQ(changes(), "") << "nothing more is written";
  EXPECT_TRUE(pair_.log.have("until a restart"));
  EXPECT_EQ(store_->table().snapshot(), before_);
  reopen();
  EXPECT_TRUE(store_->commit({pending(51, 1)}));
}

TEST_F(RemapFault, a_failed_flush_of_a_superblock_is_not_taken_for_a_bad_copy) {
  open_with_mappings();
  // The head's record cannot be written, so superblocks are; then the flush
  // after the first of them fails.
  faulty_.add_bad_range(kChanges, next_record(CopyIndex::head).value, 512, EIO);
  const auto flush = faulty_.add_failing_call(FaultOp::flush, EIO);
  EXPECT_FALSE(store_->commit({pending(50, 1)}));
  EXPECT_EQ(faulty_.fired(flush), 1U);
  EXPECT_FALSE(store_->commit({pending(50, 1)})) << "and it stays failed";
}

TEST_F(RemapFault, a_bad_copy_falls_out_of_step_and_the_volume_goes_on) {
  for (CopyIndex bad : kCopies) {
    SCOPED_TRACE(copy_name(bad));
    Pair pair;
    FaultyBackend faulty(pair.spare);
    auto store = pair.open(faulty);
    map_blocks(*store, 0, 5);
    const DeviceOffset place =
        store->layout().record(bad, store->status().log_length);
    std::vector<std::byte> old(4096);
    ASSERT_TRUE(pair.spare.read(place, old));
    const auto rule = faulty.add_bad_range(kChanges, place.value, 4096, EIO);
    map_blocks(*store, 1000, 40);
    EXPECT_EQ(faulty.fired(rule), 1U) << "once, then left alone";
    EXPECT_EQ(store->status().superblock.copies_in_step,
              copy_bit(other_copy(bad)));
    EXPECT_TRUE(pair.log.have("going on with the other"));
    const auto before = store->table().snapshot();
    ASSERT_EQ(before.size(), 45U);
    store.reset();
    // Its sectors can be read again, with old content: it is not believed.
    std::vector<std::byte> now(4096);
    ASSERT_TRUE(pair.spare.read(place, now));
    ASSERT_EQ(old, now);
    const auto survey = survey_metadata(faulty);
    ASSERT_TRUE(survey);
    EXPECT_EQ(survey->best, other_copy(bad));
    EXPECT_FALSE(survey->copies_agree());
    EXPECT_TRUE(same(survey->chosen().state, {before, {}}));
    // Still bad: it stays out. Good again: it is made anew.
    store = pair.open(faulty);
    ASSERT_TRUE(store);
    EXPECT_EQ(store->table().snapshot(), before);
    EXPECT_EQ(store->status().superblock.copies_in_step,
              copy_bit(other_copy(bad)));
    store.reset();
    faulty.remove_all();
    store = pair.open(faulty);
    ASSERT_TRUE(store);
    EXPECT_EQ(store->table().snapshot(), before);
    EXPECT_EQ(store->status().superblock.copies_in_step, 3U);
    EXPECT_TRUE(survey_metadata(faulty)->copies_agree());
  }
}

// The superblocks say that it is out of step, both of them, and durably: with
// the good copy gone the old map must not come back.
TEST_F(RemapFault, a_copy_out_of_step_is_not_believed_when_it_is_all_there_is) {
  for (CopyIndex bad : kCopies)
    for (bool checkpoint : {false, true}) {
      SCOPED_TRACE(testing::Message() << copy_name(bad) << checkpoint);
      Pair pair;
      FaultyBackend faulty(pair.spare);
      auto store = pair.open(faulty);
      const Layout l = store->layout();
      if (checkpoint) {
        for (unsigned area : {0U, 1U})
          faulty.add_bad_range(kChanges, l.checkpoint(bad, area).value, 512,
                               EIO);
        map_blocks(*store, 0, 70);
      } else {
        map_blocks(*store, 0, 5);
        faulty.add_bad_range(kChanges,
                             l.record(bad, store->status().log_length).value,
                             512, EIO);
        map_blocks(*store, 1000, 5);
      }
      EXPECT_EQ(faulty.fired(), 1U);
      store.reset();
      const CopyIndex good = other_copy(bad);
      const auto disk = twin_of(pair.spare);
      ASSERT_TRUE(disk->zero(l.superblock(good), kSuperblockPlaceBytes,
                             ZeroMode::keep_allocated, Durability::cached));
      EXPECT_TRUE(pair.try_open(*disk, true)) << "its map is still whole";
      ASSERT_TRUE(disk->zero(
          l.checkpoint(good, 0),
          l.record(good, l.log_records).value - l.checkpoint(good, 0).value,
          ZeroMode::keep_allocated, Durability::cached));
      const auto before = content_of(*disk);
      const auto opened = pair.try_open(*disk);
      ASSERT_FALSE(opened);
      EXPECT_NE(opened.error().text().find("out of step"), std::string::npos)
          << opened.error().text();
      EXPECT_EQ(before, content_of(*disk));
    }
}

TEST_F(RemapFault, a_copy_that_takes_no_checkpoint_falls_out_of_step) {
  for (CopyIndex bad : kCopies)
    for (std::uint64_t part : {0U, 1U}) {  // header, body
      SCOPED_TRACE(testing::Message() << copy_name(bad) << " " << part);
      Pair pair;
      FaultyBackend faulty(pair.spare);
      auto store = pair.open(faulty);
      std::uint64_t fired = 0;
      for (unsigned area : {0U, 1U}) {
        const std::uint64_t at =
            store->layout().checkpoint(bad, area).value + part * 4096;
        faulty.add_bad_range(kChanges, at, 4096, EIO);
      }
      map_blocks(*store, 0, 90);
      fired = faulty.fired();
      EXPECT_EQ(fired, 1U);
      EXPECT_EQ(store->status().superblock.copies_in_step,
                copy_bit(other_copy(bad)));
      faulty.remove_all();
      store.reset();
      store = pair.open(faulty);
      ASSERT_TRUE(store);
      EXPECT_EQ(store->table().remapped_count(), 90U);
      EXPECT_EQ(store->status().superblock.copies_in_step, 3U);
    }
}

TEST_F(RemapFault, an_unwritable_superblock_costs_a_copy_not_the_volume) {
  for (CopyIndex bad : kCopies) {
    SCOPED_TRACE(copy_name(bad));
    Pair pair;
    FaultyBackend faulty(pair.spare);
    { map_blocks(*pair.open(faulty), 0, 30); }
    // Can be read, with old content; cannot be written.
    const auto rule = faulty.add_bad_range(
        kChanges, superblock_place(kSmallSpareBytes, bad).value, 512, EIO);
    for (std::uint64_t run = 0; run < 3; ++run) {
      auto store = pair.open(faulty);
      ASSERT_TRUE(store);
      map_blocks(*store, 1000 * (run + 1), 20);
      EXPECT_EQ(store->status().superblock.copies_in_step,
                copy_bit(other_copy(bad)));
      EXPECT_EQ(store->table().remapped_count(), 30 + 20 * (run + 1));
      ASSERT_TRUE(store->close());
    }
    EXPECT_GT(faulty.fired(rule), 0U);
    faulty.remove_all();
    auto store = pair.open(faulty);
    ASSERT_TRUE(store);
    EXPECT_EQ(store->table().remapped_count(), 90U);
    EXPECT_EQ(store->status().superblock.copies_in_step, 3U);
  }
}

TEST_F(RemapFault, both_copies_failing_fails_the_commit_and_keeps_the_map) {
  open_with_mappings();
  for (CopyIndex c : kCopies)
    faulty_.add_bad_range(kChanges, next_record(c).value, 4096, EIO);
  EXPECT_FALSE(store_->commit({pending(50, 1)}));
  EXPECT_EQ(faulty_.fired(), 2U);
  EXPECT_EQ(store_->table().snapshot(), before_);
  faulty_.remove_all();
  reopen();
  EXPECT_EQ(store_->table().snapshot(), before_);
}

// Mistake 23
TEST_F(RemapFault, a_second_server_fences_off_the_first) {
  open_with_mappings();
  auto second = pair_.open(faulty_);
  ASSERT_TRUE(second);
  faulty_.clear_trace();
  const Status status = store_->commit({pending(50, 1)});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().error_class, ErrorClass::transport);
  EXPECT_NE(status.error().text().find("another server"), std::string::npos);
  EXPECT_EQ(changes(), "") << "the first writes nothing more";
  EXPECT_FALSE(store_->close());
  EXPECT_EQ(changes(), "");
  EXPECT_TRUE(second->commit({pending(50, 3)}));
  second.reset();
  EXPECT_EQ(map_on(pair_.spare).entries.size(), 6U);
}

TEST_F(RemapFault, a_server_whose_spare_was_formatted_anew_writes_nothing) {
  open_with_mappings();
  FormatRequest request;
  request.replace = survey_metadata(faulty_)->superblock.uuid;
  ASSERT_TRUE(format_spare(faulty_, pair_.main, request));
  faulty_.clear_trace();
  EXPECT_FALSE(store_->commit({pending(50, 1)}));
  EXPECT_EQ(changes(), "");
}

}  // namespace
}  // namespace nbd_remap
