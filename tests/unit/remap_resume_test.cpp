// SPDX-License-Identifier: BSD-3-Clause
// A SPARE that was lost while the map was written, and is back: commits go on
// by themselves, and what had failed does not count.
#include <gtest/gtest.h>

#include <cstdio>

#include "plugins/remap/remap_move.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

BackendInfo remote_info() {
  BackendInfo info = fake_disk_info("remote", kSmallSpareBytes, 512, 4096);
  info.remote = true;
  info.flush_covers_failed = true;
  return info;
}

class RemapResume : public testing::Test {
 protected:
  explicit RemapResume(const BackendInfo& info = remote_info())
      : main_(kMainBytes), disk_(info), spare_(disk_) {
    EXPECT_TRUE(format_spare(disk_, main_, {}));
  }
  std::unique_ptr<RemapStore> open(Backend& disk) {
    auto store = RemapStore::open(disk, binding_of(main_), false, log_.sink());
    EXPECT_TRUE(store) << store.error().text();
    return store ? std::move(*store) : nullptr;
  }
  Status map(RemapStore& store, std::uint64_t block) {
    const auto slot = store.take_slot();
    EXPECT_TRUE(slot);
    return store.commit({remapped(block, *slot)});
  }

  MemoryBackend main_;
  CrashBackend disk_;
  FaultyBackend spare_;
  LogLines log_;
};

// Every operation of a commit in turn, and of the checkpoint when the log is
// full, fails as a lost connection does.
TEST_F(RemapResume, commits_go_on_when_spare_is_back) {
  auto store = open(spare_);
  ASSERT_TRUE(store);
  std::uint64_t block = 0;
  int failures = 0;
  for (std::uint64_t nth = 1; nth < 30; ++nth) {
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(map(*store, block++));
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(store->commit({clean(--block)}));
    ASSERT_TRUE(map(*store, block++));
    const auto before = store->table().snapshot();
    const auto rule = spare_.add_failing_call(kAnyOp, ETIMEDOUT,
                                              {.nth = nth, .sticky = true});
    // Enough for the log to be full in between.
    Status status;
    std::uint64_t done = 0;
    for (; status && done < 70; ++done)
      status = store->commit({done % 2 == 0 ? pending(9999, 1) : clean(9999)});
    EXPECT_GE(spare_.fired(rule), 1U);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().error_class, ErrorClass::transport);
    const auto failed = map(*store, 8888);
    ASSERT_FALSE(failed) << "still away";
    EXPECT_FALSE(store->status().failed.empty());
    ++failures;
    spare_.remove(rule);
    const std::uint64_t resumes = store->resumes();
    ASSERT_TRUE(store->commit({clean(9999)})) << log_.all();
    EXPECT_EQ(store->resumes(), resumes + 1);
    EXPECT_TRUE(store->status().failed.empty());
    ASSERT_EQ(store->table().snapshot(), before);
    EXPECT_EQ(store->status().slots.used, store->status().remapped)
        << "slots of commits that failed are free again";
    auto copy = disk_.crashed_copy(nth);
    EXPECT_EQ(map_on(*copy).entries, before);
  }
  EXPECT_EQ(failures, 29);
  ASSERT_TRUE(store->close());
  EXPECT_TRUE(survey_metadata(disk_)->chosen().closed);
}

TEST_F(RemapResume, a_stop_makes_up_for_it_too) {
  auto store = open(spare_);
  ASSERT_TRUE(map(*store, 1));
  const auto rule = spare_.add_failing_call(FaultOp::flush, ETIMEDOUT);
  ASSERT_FALSE(map(*store, 2));
  EXPECT_EQ(spare_.fired(rule), 1U);
  ASSERT_TRUE(store->close());
  EXPECT_EQ(map_on(disk_).entries.size(), 1U);
  EXPECT_TRUE(survey_metadata(disk_)->chosen().closed);
}

// Contract M5.
TEST_F(RemapResume, a_spare_that_another_server_took_meanwhile_is_left_alone) {
  auto store = open(spare_);
  ASSERT_TRUE(map(*store, 1));
  const auto rule = spare_.add_failing_call(FaultOp::flush, ETIMEDOUT);
  ASSERT_FALSE(map(*store, 2));
  EXPECT_EQ(spare_.fired(rule), 1U);
  auto other = open(disk_);
  ASSERT_TRUE(other);
  ASSERT_TRUE(map(*other, 77));
  const auto theirs = other->table().snapshot();
  spare_.clear_trace();
  const Status status = map(*store, 3);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().text().find("another server"), std::string::npos);
  for (const Operation& op : spare_.trace())
    EXPECT_FALSE(kChanges.has(op.op)) << "wrote at " << op.offset;
  EXPECT_EQ(map_on(disk_).entries, theirs);
}

// Either superblock tells whose it is.
TEST_F(RemapResume, one_superblock_that_can_be_read_is_enough) {
  for (const CopyIndex copy : kCopies) {
    spare_.remove_all();
    auto store = open(spare_);
    ASSERT_TRUE(map(*store, 1));
    const auto rule = spare_.add_failing_call(FaultOp::flush, ETIMEDOUT);
    ASSERT_FALSE(map(*store, 2));
    EXPECT_EQ(spare_.fired(rule), 1U);
    const auto bad = spare_.add_bad_range(
        FaultOp::read, superblock_place(kSmallSpareBytes, copy).value, 512,
        EIO);
    const Status status = map(*store, 3);
    EXPECT_TRUE(status) << status.error().text();
    EXPECT_GE(spare_.fired(bad), 1U);
  }
}

class RemapResumeNot : public RemapResume {
 protected:
  RemapResumeNot()
      : RemapResume(fake_disk_info("local", kSmallSpareBytes, 512, 4096)) {}
};

// Contract C12: a local disk that failed a flush may have dropped the data.
TEST_F(RemapResumeNot, a_disk_that_does_not_cover_failed_flushes_stays_failed) {
  auto store = open(spare_);
  const auto rule = spare_.add_failing_call(FaultOp::flush, ETIMEDOUT);
  ASSERT_FALSE(map(*store, 2));
  EXPECT_EQ(spare_.fired(rule), 1U);
  ASSERT_FALSE(map(*store, 3));
  ASSERT_FALSE(store->close());
  EXPECT_EQ(store->resumes(), 0U);
}

// A cut anywhere: the map is the acked one, or has the record that failed as
// well until it is known not to count.
TEST_F(RemapResume, a_cut_while_it_comes_back_leaves_one_map_or_the_other) {
  std::uint64_t seed = 0;
  int with = 0;
  int without = 0;
  int failures = 0;
  // A record first; then the checkpoint of a full log before it.
  for (std::uint64_t n = 0; n < 20; ++n) {
    const bool full = n >= 6;
    const std::uint64_t nth = full ? n - 5 : n + 1;
    auto store = open(spare_);
    ASSERT_TRUE(store);
    ASSERT_TRUE(map(*store, n));
    while (full && store->status().log_length < store->layout().log_records)
      ASSERT_TRUE(store->commit({pending(700, 1)}));
    const MapState acked{store->table().snapshot(), {}};
    const auto rule =
        spare_.add_failing_call({FaultOp::write, FaultOp::flush}, ETIMEDOUT,
                                {.nth = nth, .sticky = true});
    const auto slot = store->take_slot();
    ASSERT_TRUE(slot);
    const Status failed = store->commit({remapped(500, *slot)});
    if (failed) {  // it takes no more operations
      EXPECT_EQ(spare_.fired(rule), 0U);
      spare_.remove(rule);
      ASSERT_TRUE(store->commit({clean(500)}));
      ASSERT_TRUE(store->close());
      continue;
    }
    ++failures;
    EXPECT_GE(spare_.fired(rule), 1U);
    spare_.remove(rule);
    MapState landed = acked;
    landed.entries.push_back(remapped(500, *slot));
    std::sort(landed.entries.begin(), landed.entries.end(),
              [](const auto& x, const auto& y) { return x.block < y.block; });
    bool is_over = false;
    const auto check = [&] {
      for (int i = 0; i < 12 && !HasFailure(); ++i) {
        SCOPED_TRACE(testing::Message() << "seed " << seed + 1);
        auto copy = disk_.crashed_copy(++seed);
        if (seed % 3 == 0) {
          copy->power_cut_after(seed % 41);
          (void)RemapStore::open(*copy, binding_of(main_), false, no_log());
          copy->crash(seed);
        }
        const auto again = open(*copy);
        ASSERT_TRUE(again) << log_.all();
        const MapState now{again->table().snapshot(), {}};
        const bool is_acked = same(now, acked);
        ASSERT_TRUE(is_acked || (!is_over && same(now, landed)));
        ++(is_acked ? without : with);
      }
    };
    spare_.set_hook([&](const Operation&) { check(); });
    ASSERT_TRUE(store->resume()) << log_.all();
    spare_.set_hook(nullptr);
    is_over = true;
    check();
    ASSERT_EQ(store->table().snapshot(), acked.entries);
    ASSERT_TRUE(store->close());
  }
  std::printf("%d cuts with the record that failed, %d without\n", with,
              without);
  EXPECT_GE(failures, 12);
  EXPECT_GT(with, 50);
  EXPECT_GT(without, 500);
}

// What is found when a SPARE that was lost is back.
class RemapBack : public testing::Test {
 protected:
  RemapBack() : disk_(remote_info()), faulty_(disk_) {
    EXPECT_TRUE(format_spare(disk_, main_, {}));
  }
  void open() {
    auto store =
        RemapStore::open(faulty_, binding_of(main_), false, log_.sink());
    ASSERT_TRUE(store) << store.error().text();
    store_ = std::move(*store);
    map_blocks(*store_, 0, 5);
  }
  void lose() {
    const auto rule =
        faulty_.add_failing_call(kAnyOp, ETIMEDOUT, {.sticky = true});
    ASSERT_FALSE(store_->commit({pending(50, 0x0f)}));
    ASSERT_GE(faulty_.fired(rule), 1U);
    faulty_.remove(rule);
  }

  MemoryBackend main_{kMainBytes};
  MemoryBackend disk_;
  FaultyBackend faulty_;
  LogLines log_;
  std::unique_ptr<RemapStore> store_;
};

TEST_F(RemapBack, a_disk_without_a_map_is_not_gone_on_with) {
  open();
  lose();
  const Layout& l = store_->layout();
  for (const CopyIndex c : kCopies)
    for (const unsigned area : {0U, 1U})
      ruin(disk_, l.checkpoint(c, area), 512);
  EXPECT_TRUE(has(words_of(store_->commit({pending(51, 0x0f)})),
                  "no copy can be believed"));
  EXPECT_TRUE(has(words_of(store_->commit({pending(51, 0x0f)})),
                  "no copy can be believed"));
}

// Every call of a resume in turn fails as a lost connection does.
TEST_F(RemapBack, a_resume_that_is_cut_is_done_again) {
  open();
  const auto before = store_->table().snapshot();
  std::uint64_t cut = 0;
  for (std::uint64_t nth = 1; nth < 200; ++nth) {
    lose();
    // One copy has to be written anew as well.
    ruin(disk_, store_->layout().record(CopyIndex::tail, 0), 512);
    const auto rule = faulty_.add_failing_call(kAnyOp, ETIMEDOUT, {.nth = nth});
    const Status status = store_->resume();
    const bool fired = faulty_.fired(rule) != 0;
    faulty_.remove(rule);
    if (status && !fired) break;
    cut += !status;
    const Status again = store_->resume();
    ASSERT_TRUE(again) << nth << ": " << again.error().text();
    ASSERT_EQ(store_->table().snapshot(), before);
    ASSERT_EQ(map_on(disk_).entries, before);
  }
  EXPECT_GT(cut, 8U);
}

// Calls are lost while SPARE grows, or only their answers.
TEST_F(RemapBack, a_growth_that_may_have_counted_is_not_guessed_at) {
  constexpr std::uint64_t kMore = 2 * kSmallSpareBytes;
  std::uint64_t unknown = 0;
  std::uint64_t went_on = 0;
  for (std::uint64_t i = 2; i < 120; ++i) {
    const std::uint64_t nth = i / 2;
    SCOPED_TRACE(i);
    MemoryBackend disk(remote_info());
    ASSERT_TRUE(format_spare(disk, main_, {}));
    FaultyBackend faulty(disk);
    auto opened =
        RemapStore::open(faulty, binding_of(main_), false, log_.sink());
    ASSERT_TRUE(opened) << opened.error().text();
    RemapStore& store = **opened;
    map_blocks(store, 0, 5);
    const auto before = store.table().snapshot();
    disk.enlarge(kMore);
    ASSERT_TRUE(disk.grow());
    const auto rule = faulty.add_failing_call(
        kAnyOp, ETIMEDOUT, {.nth = nth, .sticky = true, .done = i % 2 == 0});
    const Status grown = store.grow_spare(kMore);
    const bool fired = faulty.fired(rule) != 0;
    faulty.remove(rule);
    if (!fired) {
      EXPECT_TRUE(grown);
      break;
    }
    const Status next = store.commit({pending(500, 0x0f)});
    if (next)
      ++went_on;
    else if (has(words_of(next), "unknown to what size it grew"))
      ++unknown;
    else
      ADD_FAILURE() << words_of(next);
    const auto survey = survey_metadata(disk, SpareSize::or_enlarged, kMore);
    ASSERT_TRUE(survey) << survey.error().text();
    ASSERT_TRUE(survey->best) << survey->refusal;
    MapState found = survey->chosen().state;
    std::erase_if(found.entries,
                  [](const RemapEntry& e) { return e.block.value == 500; });
    EXPECT_EQ(found.entries, before);
  }
  EXPECT_GT(went_on, 0U);
  EXPECT_GT(unknown, 0U);
}

// The answer to "you were replaced" is lost, and so was the question.
TEST_F(RemapBack, a_disk_that_was_not_told_that_it_is_replaced_is_spare) {
  open();
  const Superblock before = survey_metadata(disk_)->superblock;
  BackendInfo info = remote_info();
  info.identity = "next";
  MemoryBackend next(info);
  ASSERT_TRUE(prepare_candidate(next, store_->layout()));
  FaultyBackend::Rule rule = 0;
  MoveRequest request;
  request.lost = [](SlotNo) { return 0; };
  request.beside = [] { return Status(); };
  request.decides = [&] {
    rule = faulty_.add_failing_call(FaultOp::write, ETIMEDOUT);
  };
  request.exchange = [] { FAIL() << "it is not known"; };
  Status why;
  EXPECT_EQ(store_->move_to(next, request, why), Moved::undecided);
  EXPECT_EQ(faulty_.fired(rule), 1U);
  EXPECT_FALSE(why);
  ASSERT_TRUE(store_->commit({pending(50, 0x0f)}));
  const auto now = survey_metadata(disk_);
  ASSERT_TRUE(now && now->best);
  EXPECT_EQ(now->superblock.spare_identity, before.spare_identity);
  EXPECT_EQ(now->superblock.features.incompatible,
            before.features.incompatible);
}

}  // namespace
}  // namespace nbd_remap
