#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A SPARE with a long past, its dump, and what restoring it should give.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>

#include "plugins/remap/fresh_map.hpp"
#include "plugins/spare_tool/dump_command.hpp"
#include "plugins/spare_tool/saved_map.hpp"
#include "tests/unit/worn_spare.hpp"

namespace nbd_remap {

inline std::string dump_of(Backend& spare) {
  const auto survey = survey_metadata(spare);
  EXPECT_TRUE(survey) << survey.error().text();
  std::string out;
  EXPECT_TRUE(write_dump("s", *survey, true, [&](std::string_view text) {
    out += text;
    return true;
  }));
  return out;
}

inline Result<SavedMap> parse(const std::string& text) {
  std::istringstream in(text);
  return parse_saved_map(in, "d.json");
}

inline void expect_refused(const std::string& text, const std::string& part) {
  const auto saved = parse(text);
  ASSERT_FALSE(saved) << part;
  EXPECT_EQ(saved.error().error_class, ErrorClass::caller);
  EXPECT_NE(saved.error().place.find(part), std::string::npos)
      << saved.error().place << "\nexpected: " << part;
  EXPECT_EQ(saved.error().place.find('\n'), std::string::npos);
  EXPECT_TRUE(saved.error().place.starts_with("d.json: "));
}

class SpareRestore : public testing::Test {
 protected:
  SpareRestore()
      : worn_(true),
        dump_(dump_of(spare())),
        saved_(*parse(dump_)),
        uuid_(saved_.superblock.uuid) {}

  Backend& spare() { return worn_.pair.spare; }
  void ruin(Backend& disk, const Range& range) {
    std::mt19937_64 random(7);
    const Range whole{round_down(range.begin, 512),
                      round_up(range.length, 512)};
    AlignedBuffer b(whole.length);
    for (std::byte& byte : b.bytes()) byte = static_cast<std::byte>(random());
    ASSERT_TRUE(disk.write({whole.begin}, b.bytes(), Durability::cached));
  }
  // All but the superblocks, or all.
  void ruin_maps(Backend& disk, bool superblocks) {
    for (CopyIndex c : kCopies) {
      const Layout& l = worn_.layout;
      const std::uint64_t begin = l.checkpoint(c, 0).value;
      ruin(disk, {begin, l.record(c, l.log_records).value - begin});
      if (superblocks) ruin(disk, {l.superblock(c).value, 512});
    }
  }
  Status restore(Backend& disk, const RestoreRequest& request) {
    const auto before = content_of(disk);
    const auto plan = plan_restore(disk, saved_, request);
    EXPECT_EQ(before, content_of(disk)) << "a plan writes nothing";
    if (!plan) return plan.error();
    reached_ = plan->reached;
    return write_fresh_map(disk, plan->superblock, saved_.state);
  }
  void expect_restored(Backend& disk) {
    const auto survey = survey_metadata(disk);
    ASSERT_TRUE(survey) << survey.error().text();
    ASSERT_TRUE(survey->best) << survey->refusal;
    EXPECT_TRUE(survey->copies_agree());
    EXPECT_TRUE(same(survey->chosen().state, worn_.truth));
    EXPECT_EQ(survey->superblock.uuid, uuid_);
    EXPECT_GT(survey->chosen().last_sequence, saved_.sequence);
    // And the server takes it, to go on with it.
    auto store =
        RemapStore::open(disk, binding_of(worn_.pair.main), false, no_log());
    ASSERT_TRUE(store) << store.error().text();
    EXPECT_EQ((*store)->table().snapshot(), worn_.truth.entries);
    EXPECT_EQ((*store)->status().slots.retired, worn_.truth.retired.size());
    EXPECT_TRUE((*store)->commit({remapped(3, *(*store)->take_slot())}));
  }
  void expect_no(Backend& disk, const RestoreRequest& request,
                 const std::string& part) {
    const Status status = restore(disk, request);
    ASSERT_FALSE(status) << part;
    EXPECT_NE(status.error().place.find(part), std::string::npos)
        << status.error().place << "\nexpected: " << part;
  }

  Worn worn_;
  const std::string dump_;
  SavedMap saved_;
  const Uuid uuid_;
  std::uint64_t reached_ = 0;
};

}  // namespace nbd_remap
