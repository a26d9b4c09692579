// SPDX-License-Identifier: BSD-3-Clause
// What an owner asks of the map: remap, unmap, retest, check, clear.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{60'000};

MapStep act(Rig& rig, MapAction action, std::uint64_t block,
            std::uint64_t blocks = 1) {
  return rig.volume->map_step(action, VolumeOffset{rig.at(block)},
                              blocks * rig.options.block_bytes, kLong);
}

std::vector<std::string> history(const Rig& rig, std::uint64_t block) {
  std::vector<std::string> out;
  for (const MapEvent& e : rig.volume->history(BlockNo{block}).events)
    out.emplace_back(map_event_name(e.what));
  return out;
}
using Names = std::vector<std::string>;

// Both ends: mistake 19.
class EitherEnd : public testing::TestWithParam<std::uint32_t> {
 protected:
  // The last block is not whole.
  Rig rig_{{.main_bytes = (1 << 20) - 3 * GetParam(), .logical = GetParam()}};
  const std::array<std::uint64_t, 2> ends_{0, rig_.last_block()};
  std::uint64_t bytes(std::uint64_t block) const {
    return std::min<std::uint64_t>(rig_.options.block_bytes,
                                   rig_.options.main_bytes - rig_.at(block));
  }
};

TEST_P(EitherEnd, a_block_moves_to_spare_and_back_and_keeps_its_content) {
  for (const std::uint64_t block : ends_) {
    ASSERT_EQ(rig_.write(rig_.at(block), bytes(block), block), 0);
    MapStep step = rig_.volume->map_step(
        MapAction::remap, VolumeOffset{rig_.at(block)}, bytes(block), kLong);
    ASSERT_TRUE(step.status) << step.status.error().text();
    EXPECT_EQ(step.counts.remapped, 1U);
    EXPECT_EQ(step.next.value, rig_.at(block) + bytes(block));
    EXPECT_TRUE(rig_.entry(block).remapped());
    EXPECT_EQ(rig_.entry(block).valid, 0xFFU);
  }
  // What is on MAIN no longer counts.
  const auto rule = rig_.spoil(FaultOp::read, 0, rig_.last_block() + 1);
  for (bool restarted : {false, true}) {
    if (restarted) rig_.reopen();
    for (const std::uint64_t block : ends_)
      EXPECT_TRUE(rig_.holds(rig_.at(block), bytes(block), block));
  }
  EXPECT_EQ(rig_.main.fired(rule), 0U);
  rig_.main.remove(rule);
  for (const std::uint64_t block : ends_) {
    ASSERT_EQ(rig_.write(rig_.at(block), bytes(block), block + 100), 0);
    const MapStep step = rig_.volume->map_step(
        MapAction::unmap, VolumeOffset{rig_.at(block)}, bytes(block), kLong);
    ASSERT_TRUE(step.status) << step.status.error().text();
    EXPECT_EQ(step.counts.unmapped, 1U);
  }
  EXPECT_EQ(rig_.store().slots.used, 0U);
  for (bool restarted : {false, true}) {
    if (restarted) rig_.reopen();
    EXPECT_TRUE(rig_.entries().empty());
    for (const std::uint64_t block : ends_)
      EXPECT_TRUE(rig_.holds(rig_.at(block), bytes(block), block + 100));
  }
}
INSTANTIATE_TEST_SUITE_P(VolumeMap, EitherEnd, testing::Values(512, 1024));

// Contract C4: the slot's data is durable and read back before its record.
TEST(VolumeMap, remap_verifies_the_slot_before_it_is_mapped) {
  Rig rig;
  ASSERT_EQ(rig.write(rig.at(5), 4096, 7), 0);
  rig.spare.clear_trace();
  ASSERT_EQ(act(rig, MapAction::remap, 5).counts.remapped, 1U);
  const std::uint64_t slot = rig.slot(rig.entry(5).slot_or_none);
  int step = 0;
  for (const Operation& o : rig.spare.trace()) {
    const bool in_slot = o.offset == slot && o.length == 4096;
    if (o.op == FaultOp::write && in_slot) {
      EXPECT_EQ(step++, 0);
      EXPECT_TRUE(o.fua);
    } else if (o.op == FaultOp::read && in_slot) {
      EXPECT_EQ(step++, 1);
    } else if (o.op == FaultOp::write) {
      EXPECT_GE(step, 2) << "a record before the data is known to be there";
      ++step;
    }
  }
  EXPECT_GE(step, 4) << "two copies of the record";
}

// Contract C3: write MAIN, flush, verify, durable un-map.
TEST(VolumeMap, unmap_verifies_main_before_the_mapping_goes) {
  Rig rig;
  ASSERT_EQ(rig.write(rig.at(5), 4096, 7), 0);
  ASSERT_EQ(act(rig, MapAction::remap, 5).counts.remapped, 1U);
  std::string order;
  rig.main.set_hook([&](const Operation& o) {
    order += o.op == FaultOp::write ? "W" : o.op == FaultOp::flush ? "F" : "R";
  });
  rig.spare.set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write) order += "m";
  });
  ASSERT_EQ(act(rig, MapAction::unmap, 5).counts.unmapped, 1U);
  EXPECT_EQ(order, "WFRmm");
  rig.main.set_hook({});
  rig.spare.set_hook({});
  EXPECT_EQ(history(rig, 5), (Names{"remapped", "unmapped"}));
}

TEST(VolumeMap, remap_takes_what_can_be_read_and_invents_nothing) {
  Rig rig;
  for (std::uint64_t b = 0; b < 40; ++b)
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
  const auto sector =
      rig.main.add_bad_range(FaultOp::read, rig.at(20) + 3 * 512, 512, EIO);
  const auto block = rig.spoil(FaultOp::read, 30);
  const MapStep step = act(rig, MapAction::remap, 0, 40);
  ASSERT_TRUE(step.status) << step.status.error().text();
  EXPECT_EQ(step.counts.looked_at, 40U);
  EXPECT_EQ(step.counts.remapped, 39U);
  EXPECT_EQ(step.counts.pending, 1U);
  EXPECT_GE(rig.main.fired(sector), 1U);
  EXPECT_GE(rig.main.fired(block), 1U);
  for (bool restarted : {false, true}) {
    if (restarted) rig.reopen();
    EXPECT_EQ(rig.entry(20).valid, 0xF7U);
    EXPECT_FALSE(rig.entry(30).remapped());
    EXPECT_EQ(rig.entry(30).valid, 0U);
    EXPECT_EQ(rig.read(rig.at(20) + 3 * 512, 512), EIO);
    EXPECT_EQ(rig.read(rig.at(30), 512), EIO);
    for (std::uint64_t b = 0; b < 40; ++b)
      EXPECT_TRUE(b == 20 || b == 30 || rig.holds(rig.at(b), 4096, b)) << b;
    const auto whole = pattern(20, 4096);
    EXPECT_TRUE(rig.holds(rig.at(20), ConstBytes(whole).first(3 * 512)));
    EXPECT_TRUE(rig.holds(rig.at(20) + 2048, ConstBytes(whole).subspan(2048)));
  }
  const MapStep again = act(rig, MapAction::remap, 0, 20);
  EXPECT_EQ(again.counts.already, 20U);
  EXPECT_EQ(again.counts.remapped, 0U);
}

// Mistake 17
TEST(VolumeMap, a_slot_that_does_not_read_back_is_retired) {
  Rig rig;
  ASSERT_EQ(rig.write(rig.at(5), 4096, 7), 0);
  const auto rule =
      rig.spare.add_bad_range(FaultOp::read, rig.slot(0), 2 * 4096, EIO);
  ASSERT_EQ(act(rig, MapAction::remap, 5).counts.remapped, 1U);
  EXPECT_GE(rig.spare.fired(rule), 2U);
  EXPECT_EQ(rig.entry(5).slot_or_none, 2U);
  EXPECT_EQ(rig.store().slots.retired, 2U);
  EXPECT_EQ(history(rig, 5),
            (Names{"slot-retired", "slot-retired", "remapped"}));
  rig.reopen();
  EXPECT_EQ(rig.store().slots.retired, 2U);
  EXPECT_TRUE(rig.holds(rig.at(5), 4096, 7));
}

TEST(VolumeMap, remap_fills_spare_to_the_last_slot_and_then_says_so) {
  Rig rig({.spare_slots = 21});
  for (std::uint64_t b = 0; b < 40; ++b)
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
  const std::uint64_t slots = rig.store().slots.slots;
  const MapStep step = act(rig, MapAction::remap, 0, 40);
  ASSERT_FALSE(step.status);
  EXPECT_EQ(step.status.error().error_class, ErrorClass::full);
  EXPECT_EQ(step.counts.remapped, slots);
  EXPECT_EQ(step.next.value, rig.at(slots));
  EXPECT_EQ(rig.store().slots.used, slots);
  for (std::uint64_t b = 0; b < 40; ++b)
    EXPECT_TRUE(rig.holds(rig.at(b), 4096, b)) << b;
}

// Contract C10, mistake 27.
TEST(VolumeMap, a_main_that_is_dead_is_not_eaten_up) {
  for (const MapAction action : {MapAction::remap, MapAction::check}) {
    Rig rig;
    const auto rule = rig.spoil(FaultOp::read, 0, rig.last_block() + 1);
    const MapStep step = act(rig, action, 0, 100);
    ASSERT_FALSE(step.status);
    EXPECT_EQ(step.status.error().error_class, ErrorClass::transport);
    EXPECT_GE(rig.main.fired(rule), 16U);
    EXPECT_LT(rig.entries().size(), rig.options.volume.breaker);
    EXPECT_EQ(rig.store().slots.used, 0U);
    EXPECT_TRUE(rig.volume->status().breaker_open);
  }
}

TEST(VolumeMap, what_cannot_go_back_stays_on_spare) {
  Rig rig;
  for (std::uint64_t b = 0; b < 4; ++b)
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
  const auto lost = rig.main.add_bad_range(FaultOp::read, rig.at(1), 512, EIO);
  ASSERT_EQ(act(rig, MapAction::remap, 0, 4).counts.remapped, 4U);
  rig.main.remove(lost);
  const auto refuses = rig.spoil(FaultOp::write, 2);
  const auto rots = rig.spoil(FaultOp::read, 3);  // written, not read back
  const MapStep step = act(rig, MapAction::unmap, 0, 4);
  ASSERT_TRUE(step.status) << step.status.error().text();
  EXPECT_EQ(step.counts.unmapped, 1U);
  EXPECT_EQ(step.counts.incomplete, 1U);
  EXPECT_EQ(step.counts.main_bad, 2U);
  EXPECT_GE(rig.main.fired(refuses), 1U);
  EXPECT_GE(rig.main.fired(rots), 1U);
  rig.reopen();
  EXPECT_EQ(rig.entries().size(), 3U);
  EXPECT_EQ(rig.read(rig.at(1), 512), EIO) << "healed is not rewritten";
  for (const std::uint64_t b : {0, 2, 3})
    EXPECT_TRUE(rig.holds(rig.at(b), 4096, b)) << b;
}

TEST(VolumeMap, a_slot_that_cannot_be_read_is_not_copied_back) {
  Rig rig;
  ASSERT_EQ(rig.write(rig.at(0), 4096, 1), 0);
  ASSERT_EQ(act(rig, MapAction::remap, 0).counts.remapped, 1U);
  ASSERT_EQ(rig.write(rig.at(0), 4096, 2), 0);
  const auto rule =
      rig.spare.add_bad_range(FaultOp::read, rig.slot(0), 512, EIO);
  EXPECT_EQ(act(rig, MapAction::unmap, 0).counts.incomplete, 1U);
  EXPECT_EQ(rig.spare.fired(rule), 1U);
  EXPECT_TRUE(rig.entry(0).remapped());
  EXPECT_EQ(rig.read(0, 512), EIO);
}

TEST(VolumeMap, retest_finds_what_has_come_back_and_no_more) {
  Rig rig;
  for (std::uint64_t b = 0; b < 8; ++b)
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
  const auto passing = rig.spoil(FaultOp::read, 2);
  const auto lasting =
      rig.main.add_bad_range(FaultOp::read, rig.at(5) + 512, 512, EIO);
  EXPECT_EQ(rig.read(rig.at(2), 4096), EIO);
  EXPECT_EQ(rig.read(rig.at(5), 4096), EIO);
  ASSERT_EQ(rig.store().pending, 2U);
  EXPECT_GE(rig.main.fired(lasting), 1U);
  MapStep step = act(rig, MapAction::retest, 0, 8);
  EXPECT_EQ(step.counts.pending, 2U);
  EXPECT_EQ(step.counts.readable, 0U);
  rig.main.remove(passing);
  EXPECT_EQ(rig.read(rig.at(2), 4096), EIO) << "pending fails at once";
  step = act(rig, MapAction::retest, 0, 8);
  EXPECT_EQ(step.counts.readable, 1U);
  EXPECT_EQ(step.counts.pending, 1U);
  EXPECT_EQ(history(rig, 2), (Names{"pending", "readable"}));
  rig.reopen();
  EXPECT_EQ(rig.entries().size(), 1U);
  EXPECT_TRUE(rig.holds(rig.at(2), 4096, 2));
  EXPECT_EQ(rig.entry(5).valid, 0xFDU);
}

TEST(VolumeMap, retest_reads_nothing_that_is_clean_and_check_does) {
  Rig rig;
  const auto rule =
      rig.main.add_bad_range(FaultOp::read, rig.at(37) + 1024, 1024, EIO);
  EXPECT_EQ(act(rig, MapAction::retest, 0, 100).counts.looked_at, 0U);
  EXPECT_EQ(rig.main.fired(rule), 0U);
  const MapStep step = act(rig, MapAction::check, 0, 100);
  ASSERT_TRUE(step.status) << step.status.error().text();
  EXPECT_EQ(step.counts.looked_at, 100U);
  EXPECT_EQ(step.counts.pending, 1U);
  EXPECT_GE(rig.main.fired(rule), 1U);
  ASSERT_EQ(rig.entries().size(), 1U);
  EXPECT_EQ(rig.entry(37).valid, 0xF3U);
  EXPECT_EQ(rig.read(rig.at(37), 1024), 0);
}

TEST(VolumeMap, clear_zeroes_what_cannot_be_read_and_nothing_else) {
  for (const bool heals : {false, true}) {
    Rig rig;
    for (std::uint64_t b = 0; b < 8; ++b)
      ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
    const auto bad = rig.main.add_bad_range(
        FaultOp::read, rig.at(2) + 1024, 2048, EIO, {.heal_on_write = heals});
    ASSERT_EQ(rig.read(rig.at(2), 4096), EIO);
    ASSERT_EQ(rig.entry(2).valid, 0xC3U);
    const MapStep step = rig.volume->map_step(
        MapAction::clear, VolumeOffset{rig.at(0)}, rig.at(2) + 2048, kLong);
    ASSERT_TRUE(step.status) << step.status.error().text();
    EXPECT_EQ(step.counts.cleared_sectors, 2U) << "no more than was named";
    EXPECT_GE(rig.main.fired(bad), 1U);
    rig.reopen();
    EXPECT_TRUE(rig.zeroes(rig.at(2) + 1024, 1024));
    EXPECT_EQ(rig.read(rig.at(2) + 2048, 512), EIO);
    const auto whole = pattern(2, 4096);
    EXPECT_TRUE(rig.holds(rig.at(2), ConstBytes(whole).first(1024)));
    EXPECT_TRUE(rig.holds(rig.at(2) + 3072, ConstBytes(whole).subspan(3072)));
    for (const std::uint64_t b : {0, 1, 3})
      EXPECT_TRUE(rig.holds(rig.at(b), 4096, b));
    EXPECT_EQ(rig.entry(2).remapped(), !heals);
    EXPECT_EQ(act(rig, MapAction::clear, 2).counts.cleared_sectors, 2U);
    EXPECT_TRUE(rig.zeroes(rig.at(2) + 1024, 2048));
  }
}

// 64 sectors fill the word that holds one bit for each.
TEST(VolumeMap, clear_zeroes_the_largest_block_to_its_last_sector) {
  Rig rig({.block_bytes = kMaxBlockBytes});
  const auto bad =
      rig.main.add_bad_range(FaultOp::read, rig.at(2), kMaxBlockBytes, EIO);
  ASSERT_EQ(rig.read(rig.at(2), kMaxBlockBytes), EIO);
  ASSERT_EQ(rig.entry(2).valid, 0U);
  EXPECT_EQ(act(rig, MapAction::clear, 2).counts.cleared_sectors, 64U);
  EXPECT_GE(rig.main.fired(bad), 1U);
  EXPECT_TRUE(rig.zeroes(rig.at(2), kMaxBlockBytes));
}

TEST(VolumeMap, a_step_ends_with_its_time_and_tells_where_to_go_on) {
  Rig rig;
  MapStep step = rig.volume->map_step(MapAction::remap, VolumeOffset{100},
                                      rig.at(40), milliseconds(0));
  ASSERT_TRUE(step.status);
  EXPECT_EQ(step.next.value, rig.at(16));
  EXPECT_EQ(step.counts.remapped, 16U);
}

TEST(VolumeMap, what_cannot_be_asked_changes_nothing) {
  Rig rig;
  const auto step = [&](MapAction action, std::uint64_t offset,
                        std::uint64_t length) {
    return rig.volume
        ->map_step(action, VolumeOffset{offset}, length, milliseconds(0))
        .status;
  };
  EXPECT_FALSE(step(MapAction::remap, rig.options.main_bytes, 1));
  EXPECT_FALSE(step(MapAction::remap, ~std::uint64_t{0}, 2));
  EXPECT_FALSE(step(MapAction::clear, 1, 512));
  EXPECT_FALSE(step(MapAction::clear, 0, 100));
  EXPECT_TRUE(step(MapAction::clear, 0, 512));
  rig.volume->close_gate();
  const Status closed = step(MapAction::remap, 0, 4096);
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().errnum, ESHUTDOWN);
  EXPECT_TRUE(rig.entries().empty());
}

// The log fails while a block of content 1 changes its place: after a restart
// it may be found in either.
void each_move_in_doubt(void (*then)(Rig&)) {
  for (const MapAction action : {MapAction::remap, MapAction::unmap}) {
    int lost = 0;
    for (std::uint64_t nth = 1; nth < 20; ++nth) {
      SCOPED_TRACE(nth);
      Rig rig;
      ASSERT_TRUE(action == MapAction::remap ||
                  act(rig, MapAction::remap, 0).counts.remapped == 1);
      ASSERT_EQ(rig.write(0, 4096, 1), 0);
      const auto rule = rig.spare.add_failing_call(
          {FaultOp::write, FaultOp::flush}, EIO, {.nth = nth, .sticky = true});
      lost += !act(rig, action, 0).status;
      if (rig.spare.fired(rule) == 0) break;
      rig.spare.remove(rule);
      then(rig);
    }
    EXPECT_GE(lost, 1);
  }
}

// No write may be acknowledged that one of the two lacks.
TEST(VolumeMap, a_block_whose_move_is_in_doubt_is_written_no_more) {
  each_move_in_doubt([](Rig& rig) {
    const bool written = rig.write(0, 4096, 2) == 0;
    rig.open();  // as after kill -9
    EXPECT_TRUE(rig.holds(0, 4096, written ? 2 : 1));
  });
}

TEST(VolumeMap, what_is_trimmed_does_not_come_back_after_a_move_in_doubt) {
  each_move_in_doubt([](Rig& rig) {
    EXPECT_TRUE(rig.volume->trim(VolumeOffset{0}, 4096, Durability::cached));
    const bool there = rig.holds(0, 4096, 1);
    rig.open();
    EXPECT_EQ(rig.holds(0, 4096, 1), there);
  });
}

TEST(VolumeMap, the_history_says_what_was_forgotten) {
  MapEvents events;
  for (std::uint64_t i = 0; i < MapEvents::kKept + 3; ++i)
    events.record({MapEvent::What::pending, BlockNo{i % 2}, 0, i + 1, EIO, ""});
  const auto history = events.of(BlockNo{1});
  EXPECT_EQ(history.events.size(), MapEvents::kKept / 2);
  EXPECT_EQ(history.forgotten, 3U);
  EXPECT_EQ(history.complete_at, 4U);
  EXPECT_EQ(history.events.front().unix_seconds, 4U);
  EXPECT_TRUE(events.of(BlockNo{2}).events.empty());
}

}  // namespace
}  // namespace nbd_remap
