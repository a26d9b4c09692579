// SPDX-License-Identifier: BSD-3-Clause
// SPARE is replaced while the volume is served: what is on the new disk, and
// what a restart finds.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <future>

#include "plugins/remap/remap_move.hpp"
#include "tests/unit/spare_replace_rig.hpp"

namespace nbd_remap {
namespace {

// Contract M3: exactly one of the two is SPARE, before and after.
TEST(SpareReplace, the_new_disk_is_spare_and_the_old_one_is_refused) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  ASSERT_EQ(rig.world.entry(15).remapped(), true);
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  EXPECT_EQ(rig.world.volume->status().spare.info.name,
            rig.next_disk.info().name);
  EXPECT_TRUE(same_as_written(rig.world));
  // It works as a SPARE does: a mapping more, and one less.
  rig.spare.clear_trace();
  ASSERT_TRUE(rig.world.remap(100, 3));
  ASSERT_EQ(rig.world.write(100 * kBlock, kBlock, 3, Durability::fua), 0);
  EXPECT_TRUE(rig.spare.trace().empty()) << "the old disk is used";
  for (const bool orderly : {false, true}) {
    orderly ? rig.world.stop() : rig.world.kill();
    const Status old = rig.world.open("spare");
    ASSERT_FALSE(old);
    EXPECT_TRUE(has(text_of(old), "was replaced by")) << text_of(old);
    EXPECT_EQ(spare_replaced_by(rig.spare),
              "SPARE was replaced by next; start with that");
    const Status opened = rig.world.open("next");
    ASSERT_TRUE(opened) << text_of(opened);
    EXPECT_EQ(rig.world.phase(), ReplacePhase::done);
    EXPECT_TRUE(rig.world.holds(100 * kBlock, kBlock, 3));
    EXPECT_EQ(rig.world.volume->status().store.remapped, 53U);
    // And the other way round, to a third: the old disk, which is nobody's.
    EXPECT_FALSE(rig.world.replacer->start("spare", false));
  }
  ASSERT_TRUE(rig.world.replacer->start("spare", true));
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  rig.world.kill();
  EXPECT_FALSE(rig.world.open("next"));
  ASSERT_TRUE(rig.world.open("spare"));
  EXPECT_TRUE(rig.world.holds(100 * kBlock, kBlock, 3));
  EXPECT_TRUE(rig.world.holds(20 * kBlock, kBlock, 2));
}

// Contract C1, mistakes 1 and 2.
TEST(SpareReplace, what_clients_write_meanwhile_is_on_the_new_disk) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  // A slot that is not copied yet, in part; a block that gets one; one that
  // loses it to another.
  ASSERT_EQ(rig.world.write(30 * kBlock + 512, 1024, 5), 0);
  ASSERT_TRUE(rig.world.remap(200, 2));
  ASSERT_EQ(rig.world.write(200 * kBlock, kBlock, 6), 0);
  ASSERT_TRUE(rig.world.volume
                  ->map_step(MapAction::unmap, VolumeOffset{31 * kBlock},
                             kBlock, std::chrono::seconds(60))
                  .status);
  while (rig.world.replacer->status().copied_bytes < 40 * kBlock)
    (void)rig.world.replacer->step();
  ASSERT_EQ(rig.world.phase(), ReplacePhase::copying);
  ASSERT_EQ(rig.world.write(32 * kBlock, kBlock, 7), 0);
  ASSERT_EQ(rig.world.write(33 * kBlock + 1024, 512, 8), 0);
  ASSERT_TRUE(rig.world.remap(300, 1));
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  rig.world.kill();
  ASSERT_TRUE(rig.world.open("next"));
  EXPECT_TRUE(rig.world.holds(30 * kBlock + 512, 1024, 5));
  EXPECT_TRUE(rig.world.holds(200 * kBlock, kBlock, 6));
  EXPECT_TRUE(rig.world.holds(32 * kBlock, kBlock, 7));
  EXPECT_TRUE(rig.world.holds(33 * kBlock + 1024, 512, 8));
  EXPECT_FALSE(rig.world.entry(31).remapped());
  EXPECT_TRUE(rig.world.entry(300).remapped());
  EXPECT_EQ(rig.world.volume->status().store.remapped, 52U);
}

// Contract C1: what is read after it failed is read after the switch too, even
// if it fails when all seemed to be copied.
TEST(SpareReplace, a_write_that_failed_is_not_on_the_new_disk_alone) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  int tries = 0;
  rig.world.before_switch = [&] {
    if (++tries != 1) return;
    const auto rule = rig.spare.add_failing_call(FaultOp::write, ENODEV);
    EXPECT_NE(rig.world.write(20 * kBlock, kBlock, 9), 0);
    EXPECT_EQ(rig.spare.fired(rule), 1U);
    EXPECT_TRUE(rig.world.holds(20 * kBlock, kBlock, 2));
  };
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  EXPECT_EQ(tries, 2);
  EXPECT_TRUE(same_as_written(rig.world));
}

TEST(SpareReplace, two_writes_of_one_slot_at_once_leave_the_same_on_both) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  Barrier barrier;
  std::atomic<int> writes{0};
  rig.next.set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write && ++writes == 1) barrier.arrive_and_wait();
  });
  const auto writer = [&](std::uint64_t tag) {
    return std::async(std::launch::async, [&rig, tag] {
      return rig.world.write(20 * kBlock, kBlock, tag);
    });
  };
  auto first = writer(5);
  ASSERT_TRUE(barrier.wait_for_arrival());
  auto second = writer(6);
  // It would be done by then if nothing kept it.
  (void)second.wait_for(std::chrono::milliseconds(300));
  barrier.open();
  EXPECT_EQ(first.get(), 0);
  EXPECT_EQ(second.get(), 0);
  rig.next.set_hook({});
  std::vector<std::byte> old(kBlock);
  std::vector<std::byte> next(kBlock);
  const DeviceOffset at{rig.place(20)};
  ASSERT_TRUE(rig.spare_disk_.read(at, old));
  ASSERT_TRUE(rig.next_disk.read(at, next));
  EXPECT_EQ(old, next);
}

// Never zeroes, and nobody else's bytes; mistake 18.
TEST(SpareReplace,
     a_sector_that_cannot_be_read_is_one_without_data_afterwards) {
  SpareRig rig;
  const auto rule = rig.spare.add_bad_range(FaultOp::read, rig.place(40) + 1024,
                                            512, EIO, {.heal_on_write = true});
  rig.spare.extend(rule, rig.place(41), 512);
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  while (rig.world.replacer->status().copied_bytes < 50 * kBlock)
    (void)rig.world.replacer->step();
  EXPECT_GE(rig.spare.fired(rule), 2U);
  EXPECT_EQ(rig.world.replacer->status().lost_sectors, 2U);
  // One of them is written before the switch: that content counts.
  ASSERT_EQ(rig.world.write(41 * kBlock, 512, 9), 0);
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  for (const bool restarted : {false, true}) {
    if (restarted) {
      rig.world.kill();
      ASSERT_TRUE(rig.world.open("next"));
    }
    EXPECT_EQ(rig.world.entry(40).valid, 0xFFU & ~4U);
    EXPECT_EQ(rig.world.read(40 * kBlock + 1024, 512), EIO);
    EXPECT_EQ(rig.world.read(40 * kBlock, 1024), 0);
    EXPECT_EQ(rig.world.entry(41).valid, 0xFFU);
    EXPECT_TRUE(rig.world.holds(41 * kBlock, 512, 9));
  }
  ASSERT_EQ(rig.world.write(40 * kBlock + 1024, 512, 10), 0);
  EXPECT_TRUE(rig.world.holds(40 * kBlock + 1024, 512, 10));
}

TEST(SpareReplace, slots_that_were_retired_are_slots_again) {
  SpareRig rig;
  const auto rule =
      rig.spare.add_bad_range(FaultOp::write, rig.place(12), kBlock, EIO);
  ASSERT_EQ(rig.world.write(12 * kBlock, kBlock, 4), 0);
  EXPECT_GE(rig.spare.fired(rule), 1U);
  ASSERT_EQ(rig.world.volume->status().store.slots.retired, 1U);
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  EXPECT_EQ(rig.world.volume->status().store.slots.retired, 0U);
  EXPECT_TRUE(rig.world.holds(12 * kBlock, kBlock, 4));
  rig.world.kill();
  ASSERT_TRUE(rig.world.open("next"));
  EXPECT_EQ(rig.world.volume->status().store.slots.retired, 0U);
  EXPECT_EQ(rig.world.volume->status().store.slots.used, 50U);
  EXPECT_TRUE(rig.world.holds(12 * kBlock, kBlock, 4));
}

TEST(SpareReplace, a_larger_disk_is_used_whole_if_it_can_be) {
  for (const std::uint64_t more : {kBlock, 64 * kMiB}) {
    SpareRig rig(kSpareBytes + more);
    const std::uint64_t slots = rig.world.volume->status().store.slots.slots;
    ASSERT_TRUE(rig.world.replacer->start("next", false));
    ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
    for (const bool restarted : {false, true}) {
      if (restarted) {
        rig.world.kill();
        const Status opened = rig.world.open("next");
        ASSERT_TRUE(opened) << text_of(opened);
      }
      const std::uint64_t now = rig.world.volume->status().store.slots.slots;
      EXPECT_EQ(now > slots, more > kMiB) << now;
      EXPECT_TRUE(same_as_written(rig.world));
      ASSERT_TRUE(rig.world.remap(400, 4));
      EXPECT_TRUE(rig.world.entry(403).remapped());
    }
  }
}

TEST(SpareReplace, what_servers_noted_goes_with_it) {
  SpareRig rig;
  StateArea& before = *rig.world.volume->state_area();
  const std::vector<std::byte> scan = pattern(7, 600);
  const std::vector<std::byte> health = pattern(8, 300);
  ASSERT_TRUE(before.write(StateKind::scan, scan));
  ASSERT_TRUE(before.write(StateKind::health, health));
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  ASSERT_TRUE(rig.world.volume->state_area()->write(StateKind::health, scan));
  rig.world.kill();
  ASSERT_TRUE(rig.world.open("next"));
  StateArea& after = *rig.world.volume->state_area();
  EXPECT_EQ(*after.read(StateKind::scan), scan);
  EXPECT_EQ(*after.read(StateKind::health), scan);
}

TEST(SpareReplace, a_server_that_was_killed_begins_anew_with_the_same_disk) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  (void)rig.world.replacer->step();
  rig.world.kill();
  EXPECT_FALSE(rig.world.open("next"));
  ASSERT_TRUE(rig.world.open("spare"));
  EXPECT_EQ(rig.world.phase(), ReplacePhase::copying);
  ASSERT_EQ(rig.world.write(10 * kBlock, kBlock, 3), 0);
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.world.holds(10 * kBlock, kBlock, 3));
  rig.world.kill();
  ASSERT_TRUE(rig.world.open("next"));
  EXPECT_TRUE(rig.world.holds(10 * kBlock, kBlock, 3));
}

TEST(SpareReplace, an_abort_leaves_spare_what_it_was) {
  SpareRig rig;
  EXPECT_FALSE(rig.world.replacer->abort());
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  (void)rig.world.replacer->step();
  ASSERT_EQ(rig.world.write(11 * kBlock, kBlock, 3), 0);
  ASSERT_TRUE(rig.world.replacer->abort());
  rig.next.clear_trace();
  ASSERT_EQ(rig.world.write(12 * kBlock, kBlock, 4, Durability::fua), 0);
  EXPECT_TRUE(rig.next.trace().empty());
  rig.world.kill();
  EXPECT_FALSE(rig.world.open("next"));
  ASSERT_TRUE(rig.world.open("spare"));
  EXPECT_EQ(rig.world.phase(), ReplacePhase::aborted);
  EXPECT_TRUE(rig.world.holds(11 * kBlock, kBlock, 3));
  EXPECT_TRUE(rig.world.holds(12 * kBlock, kBlock, 4));
}

}  // namespace
}  // namespace nbd_remap
