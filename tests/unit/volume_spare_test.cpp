// SPDX-License-Identifier: BSD-3-Clause
// SPARE's own errors.
#include <gtest/gtest.h>

#include <cerrno>
#include <set>

// The fixture comes first, see there.
// clang-format off
#include "tests/fakes/volume_fixture.hpp"
#include "plugins/volume/health.hpp"
// clang-format on

namespace nbd_remap {
namespace {

// Mistakes 17 and 19.
TEST(VolumeSpare, a_slot_that_fails_is_retired_for_good_and_the_next_is_taken) {
  Rig rig({.spare_slots = 12});
  const std::uint64_t slots = rig.store().slots.slots;
  const auto bad =
      rig.spare.add_bad_range(FaultOp::write, rig.slot(0), 4096, EIO);
  rig.spare.extend(bad, rig.slot(1) + 512, 512);
  rig.spare.extend(bad, rig.slot(4), 4096);
  rig.spare.extend(bad, rig.slot(slots - 1), 4096);
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 0, 200);
  const std::uint64_t good = slots - 4;
  for (std::uint64_t b = 0; b < good; ++b)
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0) << b;
  EXPECT_GE(rig.main.fired(rule), good);
  EXPECT_GE(rig.spare.fired(bad), 3U);
  EXPECT_EQ(rig.write(rig.at(150), 4096, 1), EIO) << "the last one is bad";
  EXPECT_EQ(rig.spare.fired(bad), 4U);
  EXPECT_EQ(rig.store().slots.retired, 4U);
  EXPECT_EQ(rig.volume->stats().slots_retired, 4U);
  // Also when the fault is gone, and after restarts.
  rig.spare.remove(bad);
  for (int restart = 0; restart < 3; ++restart) {
    EXPECT_EQ(rig.write(rig.at(150), 4096, 1), EIO);
    rig.reopen();
    EXPECT_EQ(rig.store().slots.retired, 4U);
    std::set<std::uint64_t> used;
    for (const RemapEntry& entry : rig.entries())
      used.insert(entry.slot_or_none);
    EXPECT_EQ(used.size(), good);
    for (std::uint64_t retired :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4}, slots - 1})
      EXPECT_FALSE(used.contains(retired));
    for (std::uint64_t b = 0; b < good; ++b)
      EXPECT_TRUE(rig.holds(rig.at(b), 4096, b));
  }
}

TEST(VolumeSpare, a_slot_that_fails_later_gives_its_block_to_another) {
  for (std::uint64_t block : {std::uint64_t{0}, std::uint64_t{1023}}) {
    Rig rig;
    ASSERT_EQ(rig.write(rig.at(block), 4096, 1), 0);
    const auto main_bad = rig.spoil({FaultOp::read, FaultOp::write}, block);
    ASSERT_EQ(rig.write(rig.at(block), 4096, 1), 0);
    ASSERT_GE(rig.main.fired(main_bad), 1U);
    const std::uint64_t old_slot = rig.entry(block).slot_or_none;
    const auto rule =
        rig.spare.add_bad_range(FaultOp::write, rig.slot(old_slot), 4096, EIO);
    ASSERT_EQ(rig.write(rig.at(block) + 512, 512, 2), 0);
    EXPECT_GE(rig.spare.fired(rule), 1U);
    rig.spare.remove(rule);
    auto expected = pattern(1, 4096);
    const auto sector = pattern(2, 512);
    std::copy(sector.begin(), sector.end(), expected.begin() + 512);
    for (bool restarted : {false, true}) {
      if (restarted) rig.reopen();
      EXPECT_TRUE(rig.holds(rig.at(block), expected));
      EXPECT_NE(rig.entry(block).slot_or_none, old_slot);
      EXPECT_EQ(rig.store().slots.retired, 1U);
      EXPECT_EQ(rig.store().slots.used, 1U);
      EXPECT_EQ(rig.entries().size(), 1U);
    }
  }
}

TEST(VolumeSpare,
     sectors_of_a_failing_slot_that_cannot_be_read_are_lost_alone) {
  Rig rig({.logical = 4096});
  rig.spoil({FaultOp::read, FaultOp::write}, 2);
  ASSERT_EQ(rig.write(rig.at(2), 4096, 1), 0);
  const std::uint64_t slot = rig.slot(rig.entry(2).slot_or_none);
  const auto rule =
      rig.spare.add_bad_range(FaultOp::read, slot + 2048, 512, EIO);
  EXPECT_EQ(rig.read(rig.at(2), 4096), EIO);
  ASSERT_EQ(rig.write(rig.at(2) + 512, 512, 2), 0) << "read-modify-write";
  EXPECT_GE(rig.spare.fired(rule), 1U);
  EXPECT_EQ(rig.entry(2).valid, 0b11101111U);
  EXPECT_EQ(rig.store().slots.retired, 1U);
  const auto one = pattern(1, 4096);
  EXPECT_TRUE(rig.holds(rig.at(2), ConstBytes(one).first(512)));
  EXPECT_TRUE(rig.holds(rig.at(2) + 512, 512, 2));
  EXPECT_TRUE(rig.holds(rig.at(2) + 1024, ConstBytes(one).subspan(1024, 1024)));
  EXPECT_EQ(rig.read(rig.at(2) + 2048, 512), EIO);
  EXPECT_TRUE(rig.holds(rig.at(2) + 2560, ConstBytes(one).subspan(2560)));
}

TEST(VolumeSpare, a_slot_that_cannot_be_read_once_is_tried_again) {
  Rig rig;
  rig.spoil({FaultOp::read, FaultOp::write}, 2);
  ASSERT_EQ(rig.write(rig.at(2), 4096, 1), 0);
  const auto rule = rig.spare.add_bad_range(FaultOp::read,
                                            rig.slot(rig.entry(2).slot_or_none),
                                            4096, EIO, {.times = 2});
  EXPECT_TRUE(rig.holds(rig.at(2), 4096, 1));
  EXPECT_EQ(rig.spare.fired(rule), 2U);
  EXPECT_EQ(rig.entry(2).valid, 0xffU);
}

// Mistake 17: no loop.
TEST(VolumeSpare, one_request_does_not_try_slots_without_end) {
  Rig rig({.main_bytes = 16 << 20, .spare_slots = 1000});
  const auto bad = rig.spare.add_bad_range(FaultOp::write, rig.slot(0),
                                           rig.store().slots.slots * 4096, EIO);
  const auto rule = rig.spoil(FaultOp::write, 0, 8);
  EXPECT_EQ(rig.write(0, 8 * 4096, 1), EIO);
  EXPECT_GE(rig.main.fired(rule), 1U);
  const std::uint64_t tried = rig.spare.fired(bad);
  EXPECT_GE(tried, 2U);
  EXPECT_LE(tried, 64U);
  EXPECT_EQ(rig.store().slots.retired, tried);
  EXPECT_EQ(rig.store().slots.used, 0U) << "none is leaked";
  EXPECT_TRUE(rig.entries().empty());
  rig.spare.remove(bad);
  EXPECT_EQ(rig.write(0, 8 * 4096, 1), 0);
  rig.reopen();
  EXPECT_EQ(rig.store().slots.retired, tried);
  EXPECT_TRUE(rig.holds(0, 8 * 4096, 1));
}

// Mistakes 3, 4, 11 and 17.
TEST(VolumeSpare, filled_to_the_last_slot_it_keeps_all_and_refuses_the_rest) {
  Rig rig({.spare_slots = 30});
  const std::uint64_t slots = rig.store().slots.slots;
  ASSERT_GE(slots, 30U);
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 0, 100);
  for (std::uint64_t b = 0; b < slots; ++b) {
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
    if (b % 5 == 0) rig.reopen();
    ASSERT_EQ(rig.entries().size(), b + 1);
    for (std::uint64_t earlier = 0; earlier <= b; ++earlier)
      ASSERT_TRUE(rig.holds(rig.at(earlier), 4096, earlier)) << earlier;
  }
  EXPECT_GE(rig.main.fired(rule), slots);
  const Health health = assess_health(rig.volume->status());
  EXPECT_EQ(health.state, HealthState::failed);
  const std::uint64_t records = rig.store().sequence;
  for (int i = 0; i < 1000; ++i)
    ASSERT_EQ(rig.write(rig.at(slots), 4096, 1), EIO);
  EXPECT_EQ(rig.store().sequence, records)
      << "a refusal is no news for the log";
  EXPECT_EQ(rig.write(rig.at(slots - 1), 8192, 50), EIO);
  // What needs no new slot goes on.
  EXPECT_EQ(rig.write(rig.at(0), 4096, 77), 0);
  EXPECT_EQ(rig.write(rig.at(200), 4096, 78, Durability::fua), 0);
  EXPECT_EQ(told(rig.volume->flush()), 0);
  rig.reopen();
  EXPECT_EQ(rig.entries().size(), slots);
  EXPECT_TRUE(rig.holds(rig.at(0), 4096, 77));
  EXPECT_TRUE(rig.holds(rig.at(200), 4096, 78));
}

// Contract C9.
TEST(VolumeSpare, that_is_gone_fails_only_what_needs_it_and_loses_nothing) {
  Rig rig;
  rig.spoil({FaultOp::read, FaultOp::write}, 0, 10);
  ASSERT_EQ(rig.write(0, 8192, 1), 0);
  ASSERT_EQ(rig.write(rig.at(20), 4096, 2), 0);
  ASSERT_EQ(told(rig.volume->flush()), 0);
  const auto gone = rig.spare.add_failing_call(kAnyOp, ENXIO, {.sticky = true});
  EXPECT_EQ(rig.write(rig.at(5), 4096, 3), EIO) << "needs a slot";
  EXPECT_EQ(rig.write(0, 4096, 3), EIO) << "is in a slot";
  EXPECT_EQ(rig.read(0, 512), EIO);
  EXPECT_TRUE(rig.holds(rig.at(20), 4096, 2));
  EXPECT_EQ(rig.write(rig.at(20), 4096, 4), 0);
  EXPECT_EQ(rig.write(rig.at(21), 4096, 4, Durability::fua), 0);
  EXPECT_EQ(rig.write(rig.at(22) + 3, 10, 4, Durability::fua), 0);
  EXPECT_GE(rig.spare.fired(gone), 3U);
  EXPECT_EQ(rig.store().slots.retired, 0U) << "no slot is to blame";
  rig.spare.remove(gone);
  EXPECT_TRUE(rig.holds(0, 8192, 1)) << "nothing mapped is lost";
  EXPECT_EQ(rig.write(rig.at(5), 4096, 5), 0) << "and mapping goes on";
  rig.reopen();
  EXPECT_TRUE(rig.holds(0, 8192, 1));
  EXPECT_TRUE(rig.holds(rig.at(5), 4096, 5));
}

// Mistake 7.
TEST(VolumeSpare, a_mapping_whose_record_failed_is_not_used_and_not_acked) {
  for (FaultOp op : {FaultOp::write, FaultOp::flush}) {
    Rig rig;
    ASSERT_EQ(rig.write(rig.at(3), 4096, 1), 0);
    ASSERT_EQ(told(rig.volume->flush()), 0);
    const auto main_bad = rig.spoil(FaultOp::write, 3);
    const std::uint64_t slots_begin = rig.slot(0);
    const std::uint64_t slots_end = rig.slot(rig.store().slots.slots);
    FaultyBackend::Rule rule = 0;
    if (op == FaultOp::write) {  // the record in both copies
      rule = rig.spare.add_bad_range(op, 0, slots_begin, EIO);
      rig.spare.extend(rule, slots_end, ~std::uint64_t{0});
    } else {  // the flush after the record; the first is the slot data's
      rule = rig.spare.add_failing_call(op, EIO, {.nth = 2});
    }
    EXPECT_EQ(rig.write(rig.at(3), 4096, 2), EIO);
    EXPECT_GE(rig.main.fired(main_bad), 1U);
    EXPECT_GE(rig.spare.fired(rule), 1U);
    EXPECT_TRUE(rig.entries().empty());
    EXPECT_TRUE(rig.holds(rig.at(3), 4096, 1)) << "MAIN still has it";
    EXPECT_EQ(rig.write(rig.at(3), 4096, 2), EIO) << "and it stays so";
    EXPECT_EQ(rig.write(rig.at(4), 4096, 2), 0);
    EXPECT_EQ(assess_health(rig.volume->status()).state, HealthState::failed);
    rig.spare.remove(rule);
    rig.volume.reset();
    rig.open();
    // Of a write that failed either version may be there, nothing else.
    EXPECT_TRUE(rig.holds(rig.at(3), 4096, 1) || rig.holds(rig.at(3), 4096, 2));
    EXPECT_EQ(rig.write(rig.at(3), 4096, 3), 0);
    EXPECT_TRUE(rig.holds(rig.at(3), 4096, 3));
  }
}

// Contract C4: what is not durable in the slot must not be mapped.
TEST(VolumeSpare, slot_data_that_could_not_be_flushed_is_not_mapped) {
  Rig rig;
  ASSERT_EQ(told(rig.volume->flush()), 0);
  const auto main_bad = rig.spoil(FaultOp::write, 3);
  const auto rule = rig.spare.add_failing_call(FaultOp::flush, EIO);
  const std::uint64_t records = rig.store().sequence;
  EXPECT_EQ(rig.write(rig.at(3), 4096, 2), EIO);
  EXPECT_GE(rig.main.fired(main_bad), 1U);
  EXPECT_EQ(rig.spare.fired(rule), 1U);
  EXPECT_TRUE(rig.entries().empty());
  EXPECT_EQ(rig.store().sequence, records);
  EXPECT_EQ(rig.store().slots.used, 0U);
}

}  // namespace
}  // namespace nbd_remap
