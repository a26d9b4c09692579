#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the tests of damaged metadata damage.

#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {

struct Range {
  std::uint64_t begin = 0;
  std::uint64_t length = 0;
};

// A SPARE after some life: mappings, pending blocks, retired slots, both
// checkpoint areas used, old records behind the newest ones.
class Worn {
 public:
  explicit Worn(bool closed) {
    auto store = pair.open();
    map_blocks(*store, 0, 60);
    for (std::uint64_t i = 0; i < 8; ++i)
      EXPECT_TRUE(store->commit({pending(i * 1000 + 1, i)}));
    for (std::uint64_t i = 0; i < 50; ++i)
      EXPECT_TRUE(store->commit({remapped(i * 7, *store->take_slot(), i)}));
    for (std::uint64_t i = 0; i < 44; ++i) {
      const SlotNo old = entry_of(*store, i * 7).slot();
      EXPECT_TRUE(store->commit(
          {remapped(i * 7, *store->take_slot())},
          i % 10 ? std::vector<SlotNo>{} : std::vector<SlotNo>{old}));
    }
    layout = store->layout();
    if (closed) {
      EXPECT_TRUE(store->close());
    }
    const auto survey = survey_metadata(pair.spare);
    truth = survey->chosen().state;
    length = survey->chosen().log_length;
    area = survey->chosen().area;
    // Mistake 51
    EXPECT_EQ(truth.entries.size(), 68U);
    EXPECT_EQ(truth.retired.size(), 5U);
    EXPECT_TRUE(survey->copies_agree());
    if (!closed) {
      EXPECT_GT(length, 20U);
      EXPECT_LT(length, layout.log_records - 5);
    }
  }

  // All of a copy's bytes.
  Range region(CopyIndex c) const {
    if (c == CopyIndex::head) return {0, layout.slot({0}).value};
    const std::uint64_t begin = layout.checkpoint(c, 0).value;
    return {begin, kSmallSpareBytes - begin};
  }

  Pair pair;
  Layout layout;
  MapState truth;
  std::uint64_t length = 0;
  unsigned area = 0;
};

}  // namespace nbd_remap
