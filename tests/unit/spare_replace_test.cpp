// SPDX-License-Identifier: BSD-3-Clause
// SPARE is replaced while the volume is served: what is on the new disk, what
// a restart finds, and disks that do not fit, are bad, or hang.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <future>

#include "plugins/remap/remap_move.hpp"
#include "tests/fakes/spare_replace_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kSpareBytes = kLeastBytesWithStateArea;

BackendInfo spare_disk(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.direct = true;
  return info;
}

std::string text_of(const Status& status) {
  return status ? "" : status.error().text();
}

bool has(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

struct SpareRig {
  explicit SpareRig(
      std::uint64_t next_bytes = kSpareBytes,
      std::chrono::milliseconds bound = std::chrono::milliseconds(20'000))
      : next_disk(spare_disk("next", next_bytes)),
        world({main, spare, next}, bound) {
    format_for(spare_disk_, main_disk, kBlock);
    EXPECT_TRUE(world.open("spare"));
    EXPECT_EQ(world.write(0, 4 * kMiB, 1), 0);
    EXPECT_TRUE(world.remap(10, 50));
    EXPECT_EQ(world.write(20 * kBlock, kBlock, 2), 0);
  }
  std::uint64_t place(std::uint64_t block) const {
    return world.volume->status()
        .store.superblock.layout.slot(world.entry(block).slot())
        .value;
  }

  MemoryBackend main_disk{spare_disk("main", 4 * kMiB)};
  MemoryBackend spare_disk_{spare_disk("spare", kSpareBytes)};
  MemoryBackend next_disk;
  FaultyBackend main{main_disk};
  FaultyBackend spare{spare_disk_};
  FaultyBackend next{next_disk};
  SpareReplaceWorld world;
};

bool same_as_written(SpareReplaceWorld& world) {
  const std::vector<std::byte> right = pattern(1, 4 * kMiB);
  std::vector<std::byte> now(kBlock);
  for (std::uint64_t b = 0; b < 4 * kMiB / kBlock; ++b) {
    if (b == 20) continue;
    if (!world.volume->read(VolumeOffset{b * kBlock}, now)) return false;
    if (!std::equal(now.begin(), now.end(),
                    right.begin() + static_cast<long>(b * kBlock)))
      return false;
  }
  return world.holds(20 * kBlock, kBlock, 2);
}

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
