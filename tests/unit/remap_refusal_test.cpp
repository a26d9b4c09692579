// SPDX-License-Identifier: BSD-3-Clause
// What the map, its log and its recovery refuse, and what they do when the disk
// says what it should not: a log that has failed, copies that contradict each
// other.
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "plugins/remap/remap_grow.hpp"
#include "plugins/remap/remap_move.hpp"
#include "plugins/remap/spare_repair.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

// A superblock as somebody else might have left it, under a right checksum.
void patch(Backend& spare, CopyIndex copy,
           const std::function<void(Superblock&)>& change) {
  std::vector<std::byte> bytes(kSuperblockBytes);
  const DeviceOffset at = superblock_place(spare.info().size_bytes, copy);
  ASSERT_TRUE(spare.read(at, bytes));
  auto superblock = unpack_superblock(bytes);
  ASSERT_TRUE(superblock) << superblock.error().text();
  change(*superblock);
  pack_superblock(*superblock, bytes);
  ASSERT_TRUE(spare.write(at, bytes, Durability::cached));
}
void patch_both(Backend& spare,
                const std::function<void(Superblock&)>& change) {
  for (const CopyIndex c : kCopies) patch(spare, c, change);
}
TEST(RemapRefusal, a_log_that_has_failed_takes_no_change_of_any_kind) {
  Pair pair;
  FaultyBackend faulty(pair.spare);
  auto store = pair.open(faulty);
  map_blocks(*store, 0, 5);
  const auto before = store->table().snapshot();
  const auto rule = faulty.add_failing_call(FaultOp::flush, EIO);
  ASSERT_FALSE(store->commit({pending(50, 0x0f)}));
  ASSERT_EQ(faulty.fired(rule), 1U);
  const auto content = content_of(pair.spare);
  EXPECT_TRUE(has(words_of(store->grow_main(2 * kMainBytes)), "failed"));
  EXPECT_TRUE(has(words_of(store->grow_spare(2 * kSmallSpareBytes)), "failed"));
  const Status other = store->set_main("another", kMainBytes);
  EXPECT_TRUE(has(words_of(other), "failed"));
  EXPECT_EQ(other.error().error_class, ErrorClass::caller);
  MemoryBackend next(kSmallSpareBytes);
  Status why;
  EXPECT_EQ(store->move_to(next, {}, why), Moved::no);
  EXPECT_EQ(why.error().error_class, ErrorClass::caller);
  EXPECT_TRUE(has(words_of(store->close()), "not closed"));
  EXPECT_EQ(content_of(pair.spare), content) << "nothing was written";
  store.reset();
  store = pair.open();
  const auto now = store->table().snapshot();
  EXPECT_TRUE(now == before || now.size() == before.size() + 1);
}

TEST(RemapRefusal, without_a_checkpoint_the_log_is_not_said_to_have_a_hole) {
  Pair pair;
  map_blocks(*pair.open(), 0, 5);
  const Layout layout = survey_metadata(pair.spare)->superblock.layout;
  for (const unsigned area : {0U, 1U})
    ruin(pair.spare, layout.checkpoint(CopyIndex::tail, area), 512);
  const auto survey = survey_metadata(pair.spare);
  ASSERT_TRUE(survey);
  std::string all;
  for (const std::string& words : survey->copy(CopyIndex::tail).damages)
    all += words + "\n";
  EXPECT_TRUE(has(all, "no checkpoint")) << all;
  EXPECT_FALSE(has(all, "hole")) << all;
}

// Found by fuzzing: the next epoch was one that no start believes.
TEST(RemapRefusal, what_counts_too_high_is_read_and_never_written) {
  const std::vector<std::function<void(Superblock&)>> ways{
      [](Superblock& sb) { sb.sequence = kMaxCount; },
      [](Superblock& sb) { sb.owner_epoch = kMaxCount; },
      [](Superblock& sb) { sb.owner_epoch = kMaxSequence + 1; },
  };
  for (const auto& change : ways) {
    Pair pair;
    auto store = pair.open();
    map_blocks(*store, 0, 5);
    const auto map = store->table().snapshot();
    store.reset();
    patch(pair.spare, CopyIndex::tail, change);
    const auto content = content_of(pair.spare);
    EXPECT_TRUE(has(words_of(pair.try_open(pair.spare)), "not written"));
    const auto survey = survey_metadata(pair.spare);
    ASSERT_TRUE(survey && survey->best);
    EXPECT_TRUE(has(words_of(repair_spare(pair.spare, *survey, no_log())),
                    "not written"));
    EXPECT_EQ(content_of(pair.spare), content) << "nothing was written";
    store = std::move(*pair.try_open(pair.spare, true));
    EXPECT_EQ(store->table().snapshot(), map);
    store.reset();
    FormatRequest request;
    request.replace = survey->superblock.uuid;
    ASSERT_TRUE(format_spare(pair.spare, pair.main, request));
    map_blocks(*pair.open(), 0, 5);
  }
}

TEST(RemapRefusal, the_highest_count_is_still_written) {
  Pair pair;
  patch_both(pair.spare, [](Superblock& sb) { sb.owner_epoch = kMaxSequence; });
  const auto survey = survey_metadata(pair.spare);
  ASSERT_TRUE(survey && survey->best);
  EXPECT_TRUE(check_may_write(*survey, pair.spare));
}

TEST(RemapRefusal, a_map_that_is_only_read_does_not_grow) {
  Pair pair;
  auto store = pair.try_open(pair.spare, true);
  ASSERT_TRUE(store);
  const Status grown = (*store)->grow_main(2 * kMainBytes);
  ASSERT_FALSE(grown);
  EXPECT_EQ(grown.error().errnum, EROFS);
}

TEST(RemapRefusal, a_disk_that_cannot_keep_it_is_not_repaired) {
  Pair pair;
  const auto survey = survey_metadata(pair.spare);
  ASSERT_TRUE(survey);
  BackendInfo info = pair.spare.info();
  info.read_only = true;
  MemoryBackend fixed(info);
  EXPECT_TRUE(
      has(words_of(repair_spare(fixed, *survey, no_log())), "read-only"));
  info.read_only = info.can_flush = false;
  MemoryBackend unsure(info);
  EXPECT_TRUE(
      has(words_of(repair_spare(unsure, *survey, no_log())), "no FLUSH"));
}

TEST(RemapRefusal, a_candidate_is_no_spare) {
  Pair pair;
  patch_both(pair.spare, [](Superblock& sb) {
    sb.features.incompatible |= kFeatureCandidate;
  });
  const auto survey = survey_metadata(pair.spare);
  ASSERT_TRUE(survey) << survey.error().text();
  const Status may = check_may_write(*survey, pair.spare);
  ASSERT_FALSE(may);
  EXPECT_TRUE(has(may.error().place, "was about to take the place"));
  EXPECT_FALSE(pair.try_open(pair.spare));
}

// Both whole, both as new: nobody knows which is right.
TEST(RemapRefusal, copies_that_contradict_each_other_are_not_chosen_from) {
  const std::vector<std::function<void(Superblock&)>> lies{
      [](Superblock& sb) { sb.main_bytes += kSectorBytes; },
      [](Superblock& sb) { sb.main_identity += "?"; },
      [](Superblock& sb) { sb.spare_identity += "?"; },
      [](Superblock& sb) { ++sb.map_sequence; },
      [](Superblock& sb) { sb.copies_in_step = 1; }};
  for (std::size_t i = 0; i < lies.size(); ++i) {
    SCOPED_TRACE(i);
    Pair pair;
    patch(pair.spare, CopyIndex::tail, lies[i]);
    const auto survey = survey_metadata(pair.spare);
    ASSERT_TRUE(survey);
    EXPECT_FALSE(survey->best);
    EXPECT_TRUE(has(survey->refusal, "different things")) << survey->refusal;
  }
}

// The server's own superblocks, as they were before it took SPARE over.
TEST(RemapRefusal, a_disk_that_lost_who_has_it_takes_no_change) {
  Pair pair;
  std::vector<std::vector<std::byte>> old;
  for (const CopyIndex c : kCopies) {
    old.emplace_back(kSuperblockBytes);
    ASSERT_TRUE(
        pair.spare.read(superblock_place(kSmallSpareBytes, c), old.back()));
  }
  auto store = pair.open();
  map_blocks(*store, 0, 3);
  for (const CopyIndex c : kCopies)
    ASSERT_TRUE(pair.spare.write(superblock_place(kSmallSpareBytes, c),
                                 old.at(static_cast<std::size_t>(c)),
                                 Durability::cached));
  EXPECT_TRUE(
      has(words_of(store->commit({pending(50, 0x0f)})), "no superblock"));
  EXPECT_FALSE(store->commit({pending(51, 0x0f)}));
}

TEST(RemapRefusal, one_superblock_is_enough_to_know_who_has_it_none_is_not) {
  Pair pair;
  auto store = pair.open();
  ruin(pair.spare, superblock_place(kSmallSpareBytes, CopyIndex::head), 512);
  ASSERT_TRUE(store->commit({pending(50, 0x0f)}));
  ruin(pair.spare, superblock_place(kSmallSpareBytes, CopyIndex::tail), 512);
  EXPECT_FALSE(store->commit({pending(51, 0x0f)}));
}

// The first superblock cannot be read, from the beginning or any more when all
// was looked at, and in the other one somebody else has written since.
TEST(RemapRefusal, one_superblock_is_enough_to_see_that_another_was_first) {
  for (const bool ruined : {true, false}) {
    Pair pair;
    const DeviceOffset head =
        superblock_place(kSmallSpareBytes, CopyIndex::head);
    if (ruined) ruin(pair.spare, head, 512);
    FaultyBackend faulty(pair.spare);
    FaultyBackend::Rule rule = 0;
    bool done = false;
    faulty.set_hook([&](const Operation& op) {
      if (op.op != FaultOp::flush || done) return;
      done = true;
      patch(pair.spare, CopyIndex::tail,
            [](Superblock& sb) { ++sb.owner_token; });
      rule = faulty.add_bad_range(FaultOp::read, head.value, 512, EIO);
    });
    const auto store = pair.try_open(faulty);
    ASSERT_TRUE(done);
    ASSERT_FALSE(store);
    EXPECT_TRUE(ruined || faulty.fired(rule) != 0);
    EXPECT_TRUE(has(store.error().text(), "another server is taking it over"))
        << store.error().text();
  }
}

// Of the metadata only the superblocks take writes.
TEST(RemapRefusal, without_a_copy_that_takes_a_checkpoint_nothing_starts) {
  Pair pair;
  const Layout layout = survey_metadata(pair.spare)->superblock.layout;
  // One copy is to be repaired.
  ruin(pair.spare, layout.checkpoint(CopyIndex::tail, 0), 512);
  ruin(pair.spare, layout.checkpoint(CopyIndex::tail, 1), 512);
  FaultyBackend faulty(pair.spare);
  std::vector<FaultyBackend::Rule> rules;
  for (const CopyIndex c : kCopies)
    rules.push_back(faulty.add_bad_range(kChanges,
                                         layout.checkpoint(c, 0).value,
                                         2 * layout.checkpoint_bytes, EIO));
  const auto store = pair.try_open(faulty);
  ASSERT_FALSE(store);
  EXPECT_TRUE(has(store.error().text(), "neither copy can be written"));
  for (const auto rule : rules) EXPECT_GE(faulty.fired(rule), 1U);
  EXPECT_TRUE(pair.open()) << "what was believed still is";
}

TEST(RemapRefusal, a_full_log_without_a_place_for_a_checkpoint_fails) {
  Pair pair;
  FaultyBackend faulty(pair.spare);
  auto store = pair.open(faulty);
  const Layout layout = store->layout();
  for (const CopyIndex c : kCopies)
    faulty.add_bad_range(kChanges, layout.checkpoint(c, 0).value,
                         2 * layout.checkpoint_bytes, EIO);
  Status status;
  std::uint64_t done = 0;
  for (; status && done < 2 * layout.log_records; ++done)
    status = store->commit({pending(done, 0x0f)});
  ASSERT_FALSE(status);
  EXPECT_TRUE(has(words_of(status), "no copy takes a checkpoint"));
  EXPECT_GE(faulty.fired(), 2U);
  store.reset();
  // Each that was acked is there.
  EXPECT_EQ(map_on(pair.spare).entries.size(), done - 1);
}

// The last block of a MAIN that ended in the middle, on a SPARE whose sectors
// are larger than the volume's: the old part is kept.
TEST(RemapRefusal, a_last_block_is_completed_by_whole_sectors_of_spare) {
  BackendInfo info = fake_disk_info("big", kSmallSpareBytes, 4096, 4096);
  MemoryBackend spare(info);
  constexpr std::uint64_t kOdd = 100 * 4096 + 1024;
  BackendInfo main_info = fake_disk_info("main", kOdd, 512, 4096);
  MemoryBackend small(main_info);
  ASSERT_TRUE(format_spare(spare, small, {}));
  DeviceOffset place;
  {
    auto store = RemapStore::open(spare, binding_of(small), false, no_log());
    ASSERT_TRUE(store) << store.error().text();
    const auto slot = (*store)->take_slot();
    ASSERT_TRUE((*store)->commit({remapped(100, *slot)}));
    place = (*store)->layout().slot(*slot);
    const std::vector<std::byte> own(4096, std::byte{0x11});
    ASSERT_TRUE(spare.write(place, own, Durability::cached));
    ASSERT_TRUE((*store)->close());
  }
  main_info.size_bytes = 300 * 4096;
  MemoryBackend main(main_info);
  const std::vector<std::byte> theirs(4096, std::byte{0x22});
  ASSERT_TRUE(main.write({100 * 4096}, theirs, Durability::cached));
  ASSERT_TRUE(grow_main(main, spare, no_log()));
  std::vector<std::byte> now(4096);
  ASSERT_TRUE(spare.read(place, now));
  for (std::size_t i = 0; i < now.size(); ++i)
    ASSERT_EQ(now[i], i < 1024 ? std::byte{0x11} : std::byte{0x22}) << i;
}

TEST(RemapRefusal, growing_another_main_is_refused_by_its_name) {
  Pair pair;
  BackendInfo info = fake_disk_info("stranger", 2 * kMainBytes, 512, 4096);
  info.name = "/dev/stranger";
  info.identity = "wwn=2";
  MemoryBackend other(info);
  const auto content = content_of(pair.spare);
  EXPECT_TRUE(
      has(words_of(grow_main(other, pair.spare, no_log())), "/dev/stranger"));
  EXPECT_EQ(content_of(pair.spare), content);
}

TEST(RemapRefusal, a_layout_that_nothing_computes_is_impossible) {
  const Layout good = *compute_layout(kSmallSpareBytes, 4096);
  ASSERT_TRUE(is_possible(good));
  const std::vector<std::function<void(Layout&)>> lies{
      [](Layout& l) { l.block_bytes = 0; },
      [](Layout& l) { l.block_bytes = 4097; },
      [](Layout& l) { l.block_bytes = 512; },
      [](Layout& l) { l.block_bytes = 2 * kMaxBlockBytes; },
      [](Layout& l) { l.spare_bytes = kMaxSpareBytes + 1; },
      [](Layout& l) { l.spare_bytes = 4096; },
      [](Layout& l) { l.state_at = 1; },
      [](Layout& l) { l.state_at = kSuperblockPlaceBytes; },
      [](Layout& l) { ++l.slots; },
      [](Layout& l) { l.log_records -= 1; }};
  for (std::size_t i = 0; i < lies.size(); ++i) {
    Layout bad = good;
    lies[i](bad);
    EXPECT_FALSE(is_possible(bad)) << i;
  }
  const Layout large = *fresh_layout(kLeastBytesWithStateArea, 4096);
  ASSERT_TRUE(is_possible(large));
  ASSERT_TRUE(large.state_at != 0);
  for (const std::uint64_t at :
       {large.state_at + 512, large.slots_at, large.slots_at + 65536}) {
    Layout bad = large;
    bad.state_at = at;
    EXPECT_FALSE(is_possible(bad)) << at;
  }
}

}  // namespace
}  // namespace nbd_remap
