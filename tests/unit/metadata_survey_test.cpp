// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/metadata_survey.hpp"

#include <gtest/gtest.h>

#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

// A record that fills its block, so that it can be torn at all.
class TornTail : public testing::Test {
 protected:
  TornTail() {
    auto store = pair_.open();
    map_blocks(*store, 0, 10);
    before_ = store->table().snapshot();
    std::vector<RemapEntry> many;
    for (std::uint64_t i = 0; i < store->max_entries(); ++i)
      many.push_back(pending(i * 11 + 1, 0x3f));
    for (CopyIndex c : kCopies)
      place_.push_back(
          store->layout().record(c, store->status().log_length).value);
    EXPECT_TRUE(store->commit(many));
    after_ = store->table().snapshot();
    EXPECT_GT(after_.size(), before_.size());
  }
  void tear(MemoryBackend& disk, std::size_t copy, unsigned sectors) {
    const std::vector<std::byte> old(512);
    for (unsigned s = 0; s < 8; ++s)
      if (!(sectors >> s & 1U)) {
        ASSERT_TRUE(
            disk.write({place_[copy] + s * 512}, old, Durability::cached));
      }
  }

  Pair pair_;
  std::vector<RemapEntry> before_, after_;
  std::vector<std::uint64_t> place_;
};

// Contract M2a, mistake 8: each of the 256 subsets of a record's sectors.
TEST_F(TornTail, is_cut_and_is_no_damage) {
  for (unsigned sectors = 0; sectors < 256; ++sectors) {
    const auto disk = twin_of(pair_.spare);
    tear(*disk, 0, sectors);
    tear(*disk, 1, sectors);
    const auto survey = survey_metadata(*disk);
    ASSERT_TRUE(survey && survey->best) << sectors;
    EXPECT_EQ(survey->chosen().state.entries,
              sectors == 255 ? after_ : before_);
    EXPECT_TRUE(survey->copies_agree());
  }
}

TEST_F(TornTail, in_one_copy_is_made_whole_from_the_other) {
  for (std::size_t copy : {0U, 1U})
    for (unsigned sectors : {0U, 1U, 127U, 254U}) {
      const auto disk = twin_of(pair_.spare);
      tear(*disk, copy, sectors);
      EXPECT_TRUE(survey_metadata(*disk)->copy(kCopies[copy]).sound());
      auto store = pair_.open(*disk);
      ASSERT_TRUE(store);
      EXPECT_EQ(store->table().snapshot(), after_);
      EXPECT_TRUE(survey_metadata(*disk)->copies_agree());
    }
}

TEST(MetadataSurvey, an_older_copy_is_damaged_and_not_believed) {
  Pair pair;
  { map_blocks(*pair.open(), 0, 10); }
  const auto old = twin_of(pair.spare);
  const Layout layout = survey_metadata(pair.spare)->superblock.layout;
  { map_blocks(*pair.open(), 1000, 10); }
  const MapState truth = map_on(pair.spare);
  ASSERT_EQ(truth.entries.size(), 20U);
  for (CopyIndex c : kCopies) {
    const auto disk = twin_of(pair.spare);
    const std::uint64_t begin = layout.checkpoint(c, 0).value;
    AlignedBuffer b(layout.record(c, layout.log_records).value - begin);
    ASSERT_TRUE(old->read({begin}, b.bytes()));
    ASSERT_TRUE(disk->write({begin}, b.bytes(), Durability::cached));
    const auto survey = survey_metadata(*disk);
    EXPECT_FALSE(survey->copy(c).sound());
    for (const CopySurvey& copy : survey->copies)
      for (const std::string& note : copy.notes)
        EXPECT_FALSE(has(note, "the last one")) << "it does not lag: " << note;
    EXPECT_EQ(survey->best, other_copy(c));
    EXPECT_TRUE(same(survey->chosen().state, truth));
  }
}

// The one is whole and has forgotten what was acked; the other one remembers
// that there was more, and not what.
TEST(MetadataSurvey, a_sound_copy_is_not_believed_if_the_damaged_one_is_newer) {
  for (const CopyIndex old : kCopies) {
    Pair pair;
    auto store = pair.open();
    map_blocks(*store, 0, 5);
    const Layout layout = store->layout();
    const DeviceOffset log = layout.record(old, 0);
    std::vector<std::byte> forgetful(layout.log_records * layout.block_bytes);
    ASSERT_TRUE(pair.spare.read(log, forgetful));
    map_blocks(*store, 100, 5);
    store.reset();
    ASSERT_TRUE(pair.spare.write(log, forgetful, Durability::cached));
    for (const unsigned area : {0U, 1U})
      ruin(pair.spare, layout.checkpoint(other_copy(old), area), 512);
    const auto survey = survey_metadata(pair.spare);
    ASSERT_TRUE(survey);
    EXPECT_TRUE(survey->copy(old).map_sound);
    EXPECT_FALSE(survey->best);
    EXPECT_TRUE(has(survey->refusal, "which is damaged, reached"))
        << survey->refusal;
    const auto content = content_of(pair.spare);
    EXPECT_FALSE(pair.try_open(pair.spare));
    EXPECT_EQ(content_of(pair.spare), content) << "nothing was written";
  }
}

// Behind the end of a log that began anew is what it was before.
TEST(MetadataSurvey, a_copy_that_lags_says_where_its_log_ends_and_why) {
  Pair pair;
  auto store = pair.open();
  std::uint64_t block = 0;
  const auto commit = [&] {
    ASSERT_TRUE(store->commit({pending(block++ % 100, 1)}));
  };
  const std::uint64_t records = store->layout().log_records;
  while (store->status().log_length < records) commit();
  const std::uint64_t older = store->status().sequence - records + 3;
  while (store->status().log_length > 2) commit();
  for (const CopyIndex late : kCopies) {
    const DeviceOffset place =
        store->layout().record(late, store->status().log_length);
    std::vector<std::byte> was(4096);
    ASSERT_TRUE(pair.spare.read(place, was));
    ASSERT_EQ(unpack_record(was)->sequence,
              older + store->status().log_length - 2);
    commit();
    const auto disk = twin_of(pair.spare);
    ASSERT_TRUE(disk->write(place, was, Durability::cached));
    const auto survey = survey_metadata(*disk);
    ASSERT_TRUE(survey && survey->best);
    EXPECT_EQ(survey->best, other_copy(late));
    std::string notes;
    for (const std::string& note : survey->copy(late).notes) notes += note;
    const auto ends = notes.find("the log ends before record " +
                                 std::to_string(survey->copy(late).log_length) +
                                 " at byte " + std::to_string(place.value));
    EXPECT_NE(ends, std::string::npos) << notes;
    EXPECT_EQ(notes.find("the log ends", ends + 1), std::string::npos) << notes;
  }
}

// Entries that contradict one another, under right checksums.
TEST(MetadataSurvey, a_slot_of_two_blocks_is_refused) {
  // Mistake 4: no honest store writes this; the survey sees it all the same.
  Pair pair;
  auto store = pair.open();
  const SlotNo slot = *store->take_slot();
  ASSERT_TRUE(store->commit({remapped(1, slot)}));
  ASSERT_TRUE(store->commit({remapped(2, slot)}));
  const auto survey = survey_metadata(pair.spare);
  ASSERT_TRUE(survey);
  EXPECT_FALSE(survey->best);
  EXPECT_NE(survey->refusal.find("used twice"), std::string::npos);
}

TEST(MetadataSurvey, entries_outside_the_volume_are_refused) {
  for (const RemapEntry& bad :
       {remapped(8, {0}), remapped(1, {1'000'000}), pending(1, 0x100)}) {
    // A MAIN of eight blocks, the same layout, the same MAIN by name.
    Pair pair(kSmallSpareBytes, 8 * 4096);
    {
      auto store = pair.open();
      ASSERT_TRUE(store->commit({pending(1, 1)}));
      // The store refuses what lies outside; the disk is written past it.
      const Layout layout = store->layout();
      const Superblock sb = store->status().superblock;
      Record record;
      record.uuid = sb.uuid;
      record.sequence = store->status().sequence + 1;
      record.owner_epoch = sb.owner_epoch;
      record.entries = {
          {bad.remapped() ? EntryKind::remapped : EntryKind::pending, bad.block,
           bad.remapped() ? bad.slot() : SlotNo{}, bad.valid}};
      AlignedBuffer b(4096);
      pack_record(record, b.bytes());
      for (CopyIndex c : kCopies)
        ASSERT_TRUE(
            pair.spare.write(layout.record(c, store->status().log_length),
                             b.bytes(), Durability::cached));
    }
    const auto survey = survey_metadata(pair.spare);
    ASSERT_TRUE(survey);
    EXPECT_FALSE(survey->best);
    EXPECT_NE(survey->refusal.find("outside"), std::string::npos)
        << survey->refusal;
  }
}

}  // namespace
}  // namespace nbd_remap
