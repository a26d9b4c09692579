// SPDX-License-Identifier: BSD-3-Clause
// SPARE is replaced by disks that do not fit, are bad, or hang, from one that
// is bad itself, and at moments when it must wait.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <future>

#include "plugins/remap/remap_move.hpp"
#include "tests/unit/spare_replace_rig.hpp"

namespace nbd_remap {
namespace {

TEST(SpareReplace, what_is_no_disk_for_it_is_refused_and_nothing_changes) {
  SpareRig rig;
  const auto refusal = [&](Backend& disk, bool force = false) {
    SpareReplaceWorld world({rig.main, rig.spare, disk});
    EXPECT_TRUE(world.open("spare"));
    const Status status = world.replacer->start("next", force);
    EXPECT_TRUE(!status || world.replacer->abort());
    EXPECT_NE(world.phase(), ReplacePhase::copying);
    return text_of(status);
  };
  rig.world.kill();
  MemoryBackend small(spare_disk("small", kSpareBytes - 4096));
  EXPECT_TRUE(has(refusal(small), "expected at least")) << refusal(small);
  EXPECT_TRUE(has(refusal(rig.main), "is MAIN"));
  EXPECT_TRUE(has(refusal(rig.spare), "is SPARE itself"));
  BackendInfo info = spare_disk("read-only", kSpareBytes);
  info.read_only = true;
  MemoryBackend read_only(info);
  EXPECT_TRUE(has(refusal(read_only), "read-only"));
  info = spare_disk("hasty", kSpareBytes);
  info.can_flush = false;
  MemoryBackend hasty(info);
  EXPECT_TRUE(has(refusal(hasty), "FLUSH"));
  MemoryBackend coarse(fake_disk_info("coarse", kSpareBytes, 512, 8192));
  EXPECT_TRUE(has(refusal(coarse), "do not fit"));
  for (const std::uint64_t at : {std::uint64_t{1024}, kSpareBytes - 512}) {
    MemoryBackend full(spare_disk("full", kSpareBytes));
    ASSERT_TRUE(
        full.write(DeviceOffset{at}, pattern(1, 512), Durability::cached));
    EXPECT_TRUE(has(refusal(full), "is not empty"));
    EXPECT_EQ(refusal(full, true), "");
  }
  // Another volume's, with or without --force (contract M3).
  MemoryBackend other_main(spare_disk("other main", 4 * kMiB));
  MemoryBackend other(spare_disk("other", kSpareBytes));
  format_for(other, other_main, kBlock);
  EXPECT_TRUE(has(refusal(other), "is not empty"));
  EXPECT_TRUE(has(refusal(other, true), "is SPARE"));
}

// The client hears nothing of it.
TEST(SpareReplace, a_new_disk_that_fails_ends_it) {
  enum class When { copy, client, flush, switching };
  for (const When when :
       {When::copy, When::client, When::flush, When::switching}) {
    SCOPED_TRACE(static_cast<int>(when));
    SpareRig rig;
    ASSERT_TRUE(rig.world.replacer->start("next", false));
    FaultyBackend::Rule rule = 0;
    if (when == When::flush)
      rule = rig.next.add_failing_call(FaultOp::flush, EIO);
    else if (when == When::switching)
      rule = rig.next.add_bad_range(FaultOp::write, 0, 512, EIO);
    else
      rule = rig.next.add_bad_range(FaultOp::write,
                                    rig.place(when == When::copy ? 50 : 10),
                                    kBlock, ENODEV);
    if (when == When::client) {
      ASSERT_EQ(rig.world.write(10 * kBlock, kBlock, 3), 0);
    }
    ASSERT_TRUE(rig.world.run_to(ReplacePhase::failed));
    EXPECT_GE(rig.next.fired(rule), 1U);
    EXPECT_TRUE(
        has(rig.world.replacer->status().reason, "the new disk failed"));
    EXPECT_EQ(rig.world.volume->status().spare.info.name,
              rig.spare_disk_.info().name);
    EXPECT_EQ(rig.world.write(12 * kBlock, kBlock, 4, Durability::fua), 0);
    ASSERT_TRUE(rig.world.remap(100, 1));
    rig.world.kill();
    EXPECT_FALSE(rig.world.open("next"));
    ASSERT_TRUE(rig.world.open("spare"));
    EXPECT_EQ(rig.world.phase(), ReplacePhase::failed);
    EXPECT_TRUE(rig.world.holds(12 * kBlock, kBlock, 4));
  }
}

// Contract L3, mistake 25.
TEST(SpareReplace,
     a_new_disk_that_hangs_holds_up_nobody_for_longer_than_its_bound) {
  SpareRig rig(kSpareBytes, std::chrono::milliseconds(200));
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  Barrier barrier;
  rig.next.set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write) barrier.arrive_and_wait();
  });
  ASSERT_EQ(rig.world.write(10 * kBlock, kBlock, 3), 0);
  EXPECT_TRUE(barrier.wait_for_arrival());
  ASSERT_EQ(rig.world.write(11 * kBlock, kBlock, 4, Durability::fua), 0);
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::failed));
  EXPECT_TRUE(rig.world.holds(10 * kBlock, kBlock, 3));
  EXPECT_TRUE(rig.world.holds(11 * kBlock, kBlock, 4));
  rig.next.set_hook({});
  barrier.open();
}

// Contract C1: nobody knows what a restart will find, so both have all.
TEST(SpareReplace,
     an_old_disk_that_fails_while_it_is_marked_leaves_both_whole) {
  for (const bool marked : {false, true}) {
    SCOPED_TRACE(marked);
    SpareRig rig;
    ASSERT_TRUE(rig.world.replacer->start("next", false));
    // The switch writes a superblock of the old disk, and nothing else there.
    FaultyBackend::Rule rule = 0;
    bool armed = false;
    rig.next.set_hook([&](const Operation& o) {
      // The candidate is whole: the last thing before the mark.
      if (armed || o.op != FaultOp::write || o.offset < kSpareBytes - 32768)
        return;
      armed = true;
      rule = rig.spare.add_failing_call(
          FaultOp::write, ENODEV, {.nth = 1, .sticky = false, .done = marked});
    });
    EXPECT_FALSE(rig.world.run_to(ReplacePhase::done));
    ASSERT_TRUE(armed);
    EXPECT_EQ(rig.spare.fired(rule), 1U);
    EXPECT_TRUE(has(rig.world.replacer->status().waits_for, "both disks"));
    EXPECT_FALSE(rig.world.replacer->abort());
    ASSERT_EQ(rig.world.write(10 * kBlock, kBlock, 3), 0);
    ASSERT_EQ(told(rig.world.volume->flush()), 0);
    EXPECT_NE(told(rig.world.volume
                       ->map_step(MapAction::remap, VolumeOffset{900 * kBlock},
                                  kBlock, std::chrono::seconds(60))
                       .status),
              0)
        << "a mapping that one of the two would not know";
    const auto lost = rig.next.add_failing_call(FaultOp::write, EIO);
    EXPECT_NE(rig.world.write(11 * kBlock, kBlock, 4), 0)
        << "acked, and on one disk alone";
    EXPECT_EQ(rig.next.fired(lost), 1U);
    rig.world.kill();
    const bool old = rig.world.open("spare").ok();
    if (old) rig.world.kill();
    EXPECT_EQ(old, !marked);
    const bool next = rig.world.open("next").ok();
    EXPECT_EQ(next, marked);
    if (!next) {
      ASSERT_TRUE(rig.world.open("spare"));
    }
    EXPECT_TRUE(rig.world.holds(10 * kBlock, kBlock, 3));
    EXPECT_FALSE(rig.world.entry(900).remapped());
  }
}

// A candidate whose old SPARE is away may be SPARE or not: it is not started.
TEST(SpareReplace, a_candidate_asks_the_old_disk) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  bool marked = false;
  rig.next.set_hook([&](const Operation& o) {
    const auto sb = find_superblock(rig.spare_disk_);
    const bool now = sb && *sb && (*sb)->was_replaced();
    if (marked || !now || o.op != FaultOp::write) return;
    marked = true;
    (void)rig.next.add_failing_call(kAnyOp, ENODEV, {.sticky = true});
  });
  ASSERT_TRUE(rig.world.run_to(ReplacePhase::done));
  ASSERT_TRUE(marked);
  rig.world.kill();
  rig.next.set_hook({});
  rig.next.remove_all();
  ASSERT_TRUE((*find_superblock(rig.next))->is_candidate());
  EXPECT_FALSE(rig.world.open("spare"));
  const auto away =
      rig.spare.add_failing_call(FaultOp::read, ENODEV, {.sticky = true});
  const Status refused = rig.world.open("next");
  EXPECT_TRUE(has(text_of(refused), "cannot be read")) << text_of(refused);
  rig.spare.remove(away);
  const Status opened = rig.world.open("next");
  ASSERT_TRUE(opened) << text_of(opened);
  EXPECT_TRUE(same_as_written(rig.world));
  // From now on it needs nobody's word.
  rig.world.kill();
  (void)rig.spare.add_failing_call(kAnyOp, ENODEV, {.sticky = true});
  EXPECT_TRUE(rig.world.open("next"));
}

TEST(SpareReplace, nothing_is_switched_while_a_snapshot_is_taken) {
  SpareRig rig;
  ASSERT_TRUE(rig.world.replacer->start("next", false));
  while (rig.world.replacer->status().copied_bytes < 50 * kBlock)
    (void)rig.world.replacer->step();
  ASSERT_TRUE(rig.world.volume->quiesce(std::chrono::seconds(5),
                                        std::chrono::seconds(60)));
  EXPECT_FALSE(rig.world.run_to(ReplacePhase::done));
  EXPECT_TRUE(has(rig.world.replacer->status().waits_for, "quiesced"));
  rig.world.volume->resume();
  for (int i = 0; i < 10; ++i) (void)rig.world.replacer->step();
  EXPECT_EQ(rig.world.phase(), ReplacePhase::done);
}

}  // namespace
}  // namespace nbd_remap
