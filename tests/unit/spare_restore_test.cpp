// SPDX-License-Identifier: BSD-3-Clause
// What spare dump writes goes back by spare restore, whole or not at all.
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <set>
#include <sstream>

#include "plugins/remap/remap_grow.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_restore_fixture.hpp"

namespace nbd_remap {
namespace {

using json = nlohmann::ordered_json;

TEST_F(SpareRestore, a_dump_is_read_to_the_last_bit) {
  ASSERT_GT(worn_.truth.entries.size(), 60U);  // Mistake 51
  ASSERT_GT(worn_.truth.retired.size(), 2U);
  EXPECT_TRUE(same(saved_.state, worn_.truth));
  const Superblock sb = survey_metadata(spare())->superblock;
  EXPECT_EQ(saved_.superblock.layout, sb.layout);
  EXPECT_EQ(saved_.superblock.main_bytes, sb.main_bytes);
  EXPECT_EQ(saved_.superblock.main_identity, sb.main_identity);
  EXPECT_EQ(saved_.superblock.spare_identity, sb.spare_identity);
  EXPECT_EQ(saved_.superblock.created_unix_seconds, sb.created_unix_seconds);
  // White space is all that others may change.
  EXPECT_TRUE(same(parse(json::parse(dump_).dump(4))->state, worn_.truth));
  EXPECT_LT(json::parse(dump_).dump(8).size(),
            max_dump_bytes(kSmallSpareBytes));
}

TEST_F(SpareRestore, a_map_that_is_lost_in_both_copies_comes_back) {
  for (bool superblocks : {false, true}) {
    const auto disk = twin_of(spare());
    ruin_maps(*disk, superblocks);
    const auto survey = survey_metadata(*disk);
    ASSERT_FALSE(survey && survey->best);
    expect_no(*disk, {}, "type --replace=" + uuid_text(uuid_));
    expect_no(*disk, {random_uuid(), false}, "is " + uuid_text(uuid_));
    ASSERT_TRUE(restore(*disk, {uuid_, false}));
    EXPECT_EQ(reached_, superblocks ? 0 : saved_.sequence);
    expect_restored(*disk);
  }
}

TEST_F(SpareRestore, a_map_that_can_be_read_is_not_overwritten_unless_forced) {
  expect_no(spare(), {uuid_, false}, "its own map can still be read");
  {
    auto store = worn_.pair.open();
    map_blocks(*store, 500'000, 3);
  }
  const auto disk = twin_of(spare());
  expect_no(*disk, {uuid_, false}, "--lose-newer-data");
  expect_no(*disk, {std::nullopt, true}, "type --replace=");
  const Superblock before = survey_metadata(*disk)->superblock;
  ASSERT_GT(before.sequence, saved_.superblock.sequence);
  ASSERT_TRUE(restore(*disk, {uuid_, true}));
  EXPECT_GT(reached_, saved_.sequence);
  const Superblock after = survey_metadata(*disk)->superblock;
  EXPECT_GT(after.owner_epoch, before.owner_epoch)
      << "a server that still has it is fenced off";
  EXPECT_GT(after.sequence, before.sequence)
      << "of an old and a new superblock the old one would be believed";
  expect_restored(*disk);
}

// The dangerous case: an old dump, and no map on SPARE to compare it with but
// what is left of newer records.
TEST_F(SpareRestore, an_older_dump_than_what_the_disk_shows_is_refused) {
  {
    auto store = worn_.pair.open();
    map_blocks(*store, 500'000, 3);
  }
  const Layout& l = worn_.layout;
  for (bool superblocks : {false, true}) {
    const auto disk = twin_of(spare());
    for (CopyIndex c : kCopies) {
      for (unsigned area : {0U, 1U})
        ruin(*disk, {l.checkpoint(c, area).value, 4096});
      if (superblocks) ruin(*disk, {l.superblock(c).value, 512});
    }
    expect_no(*disk, {uuid_, false}, "it had reached sequence");
    ASSERT_TRUE(restore(*disk, {uuid_, true}));
    expect_restored(*disk);
  }
  // The superblocks alone tell it too, after an orderly stop.
  {
    auto store = worn_.pair.open();
    ASSERT_TRUE(store->close());
  }
  const auto disk = twin_of(spare());
  ruin_maps(*disk, false);
  expect_no(*disk, {uuid_, false}, "it had reached sequence");
}

TEST_F(SpareRestore, a_spare_that_was_formatted_by_mistake_gets_its_map_back) {
  const auto disk = twin_of(spare());
  FormatRequest format;
  format.replace = uuid_;
  const Uuid fresh = format_spare(*disk, worn_.pair.main, format)->uuid;
  expect_no(*disk, {}, "type --replace=" + uuid_text(fresh));
  expect_no(*disk, {uuid_, false}, "is " + uuid_text(fresh));
  const auto used = twin_of(*disk);
  ASSERT_TRUE(restore(*disk, {fresh, false}));
  EXPECT_EQ(reached_, 0U) << "nothing tells how far the old map had got";
  expect_restored(*disk);

  ASSERT_TRUE(worn_.pair.open(*used));
  expect_no(*used, {fresh, false}, "another SPARE, " + uuid_text(fresh));
  ASSERT_TRUE(restore(*used, {fresh, true}));
  expect_restored(*used);
}

TEST_F(SpareRestore, what_a_format_with_other_blocks_overwrote_is_not_led_to) {
  Pair pair(16 << 20);
  map_blocks(*pair.open(), 0, 9);
  saved_ = *parse(dump_of(pair.spare));
  FormatRequest format;
  format.replace = saved_.superblock.uuid;
  format.block_bytes = 8192;
  const auto other = format_spare(pair.spare, pair.main, format);
  ASSERT_TRUE(other) << other.error().text();
  expect_no(pair.spare, {other->uuid, true}, "blocks of 8192");
}

TEST_F(SpareRestore, the_map_of_an_enlarged_spare_comes_back) {
  BackendInfo info = spare().info();
  info.size_bytes *= 4;
  MemoryBackend large(info);
  ASSERT_TRUE(large.write({0}, content_of(spare()), Durability::cached));
  const auto grown = grow_spare(large, no_log());
  ASSERT_TRUE(grown) << grown.error().text();
  worn_.layout = grown->layout;
  ASSERT_TRUE(worn_.layout.grown());
  {
    auto store = worn_.pair.open(large);
    for (std::uint64_t block = 600'000;; ++block) {
      const auto slot = store->take_slot();
      if (!slot) break;
      ASSERT_TRUE(store->commit({remapped(block, *slot)}));
    }
    ASSERT_TRUE(store->close());
  }
  worn_.truth = map_on(large);
  ASSERT_GT(worn_.truth.entries.size(), saved_.state.entries.size());
  const auto old = parse(dump_);
  saved_ = *parse(dump_of(large));
  EXPECT_TRUE(same(saved_.state, worn_.truth));
  ruin_maps(large, true);
  ASSERT_FALSE(plan_restore(large, *old, {uuid_, true})) << "of another size";
  ASSERT_TRUE(restore(large, {uuid_, false}));
  const auto survey = survey_metadata(large);
  ASSERT_TRUE(survey && survey->best);
  EXPECT_EQ(survey->superblock.layout, worn_.layout);
  EXPECT_TRUE(same(survey->chosen().state, worn_.truth));
  // A number over the head copy is no slot.
  std::uint64_t none = 0;
  while (worn_.layout.has_slot({none})) ++none;
  ASSERT_LT(none, worn_.layout.slot_end());
  for (RemapEntry& e : saved_.state.entries)
    if (e.remapped()) {
      e.slot_or_none = none;
      break;
    }
  EXPECT_FALSE(check_saved(saved_));
}

// Mistake 12
TEST_F(SpareRestore, another_disk_is_refused) {
  BackendInfo info = spare().info();
  info.identity = "serial 2";
  MemoryBackend other(info);
  expect_no(other, {uuid_, true}, "the data that it leads to is not here");
  info = spare().info();
  info.size_bytes += 1 << 20;
  MemoryBackend larger(info);
  expect_no(larger, {uuid_, true}, "is the map of a SPARE of");
  info = spare().info();
  info.can_flush = false;
  MemoryBackend unsure(info);
  expect_no(unsure, {uuid_, true}, "no FLUSH");
  info.can_flush = info.read_only = true;
  MemoryBackend fixed(info);
  expect_no(fixed, {uuid_, true}, "read-only");
}

TEST_F(SpareRestore, a_map_that_no_spare_can_have_is_refused) {
  const SavedMap good = saved_;
  const std::vector<std::pair<std::function<void()>, std::string>> lies{
      {[&] { saved_.superblock.features.read_only_compatible = 1; },
       "features of a newer build"},
      {[&] { saved_.superblock.main_bytes = (std::uint64_t{1} << 61) + 512; },
       "bytes of MAIN"},
      {[&] { saved_.superblock.main_bytes = 511; }, "bytes of MAIN"},
      {[&] { saved_.superblock.features.incompatible ^= kFeatureGrown; },
       "does not follow from its sizes"},
      {[&] { saved_.superblock.main_identity.clear(); }, "identity"},
      {[&] { saved_.sequence = 0; }, "impossible sequence"},
      {[&] {
         const std::uint64_t room = saved_.superblock.layout.pending_capacity();
         saved_.state.entries.clear();
         for (std::uint64_t b = 0; b <= room; ++b)
           saved_.state.entries.push_back(pending(b, 1));
       },
       "pending blocks"}};
  for (const auto& [lie, words] : lies) {
    saved_ = good;
    lie();
    expect_no(spare(), {uuid_, true}, words);
  }
}

TEST_F(SpareRestore, a_disk_that_says_what_cannot_be_or_cannot_be_read) {
  const auto patch = [&](Backend& disk, auto&& change) {
    for (const CopyIndex c : kCopies) {
      std::vector<std::byte> bytes(kSuperblockBytes);
      const DeviceOffset at = worn_.layout.superblock(c);
      ASSERT_TRUE(disk.read(at, bytes));
      Superblock sb = *unpack_superblock(bytes);
      change(sb);
      pack_superblock(sb, bytes);
      ASSERT_TRUE(disk.write(at, bytes, Durability::cached));
    }
  };
  const auto newer = twin_of(spare());
  patch(*newer,
        [](Superblock& sb) { sb.features.read_only_compatible = 1 << 30; });
  expect_no(*newer, {uuid_, true}, "need a newer build to write");
  const auto far = twin_of(spare());
  patch(*far, [](Superblock& sb) { sb.sequence = kMaxSequence + 1; });
  expect_no(*far, {uuid_, true}, "can be read, not written");

  // No superblock, and a record that no server wrote.
  const auto odd = twin_of(spare());
  ruin_maps(*odd, true);
  Record record;
  record.uuid = uuid_;
  record.sequence = kMaxSequence + 1;
  AlignedBuffer bytes(worn_.layout.block_bytes);
  pack_record(record, bytes.bytes());
  ASSERT_TRUE(odd->write(worn_.layout.record(CopyIndex::head, 0), bytes.bytes(),
                         Durability::cached));
  expect_no(*odd, {uuid_, true}, "shows an impossible sequence");

  // No superblock, and then the disk goes.
  const auto ruined = twin_of(spare());
  ruin_maps(*ruined, true);
  FaultyBackend faulty(*ruined);
  const auto rule = faulty.add_failing_call(FaultOp::read, ENODEV,
                                            {.nth = 3, .sticky = true});
  const auto plan = plan_restore(faulty, saved_, {uuid_, true});
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().errnum, ENODEV);
  EXPECT_GE(faulty.fired(rule), 1U);
}

TEST_F(SpareRestore, a_power_cut_leaves_no_map_or_the_whole_one) {
  const auto ruined = twin_of(spare());
  ruin_maps(*ruined, false);
  CrashBackend base(kSmallSpareBytes);
  ASSERT_TRUE(base.write({0}, content_of(*ruined), Durability::fua));
  saved_.superblock.spare_identity = stored_identity(base.info().identity);
  const RestoreRequest request{uuid_, false};
  std::set<std::string> ends;
  bool finished = false;
  for (std::uint64_t cut = 0; !finished; ++cut)
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      SCOPED_TRACE(testing::Message() << "cut " << cut << " seed " << seed);
      auto disk = base.crashed_copy([](auto, auto) { return 0; });
      const auto plan = plan_restore(*disk, saved_, request);
      ASSERT_TRUE(plan) << plan.error().text();
      disk->power_cut_after(cut);
      finished = write_fresh_map(*disk, plan->superblock, saved_.state).ok();
      disk->crash(seed);
      const auto survey = survey_metadata(*disk);
      if (!survey || !survey->best) {
        ends.insert("none");
        // And it can be done again.
        ASSERT_TRUE(restore(*disk, request));
      } else {
        ends.insert("whole");
      }
      EXPECT_TRUE(same(map_on(*disk), worn_.truth));
    }
  EXPECT_EQ(ends, (std::set<std::string>{"none", "whole"}));
}

}  // namespace
}  // namespace nbd_remap
