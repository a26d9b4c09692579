// SPDX-License-Identifier: BSD-3-Clause
// MAIN is replaced by a disk that is bad, lost, hanging or none at all, and
// with a SPARE that takes no notes.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <future>

#include "tests/fakes/replace_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

bool contains(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

std::string words_of(const Status& status) {
  return status ? "" : status.error().text();
}

// The client hears nothing of it.
TEST(ReplaceFaults, a_new_disk_that_is_bad_ends_it) {
  for (const bool copier : {false, true}) {
    ReplaceRig rig;
    ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
    ASSERT_TRUE(rig.start());
    const auto rule = rig.next.add_bad_range(FaultOp::write,
                                             copier ? 0 : 3 * kMiB, 4096, EIO);
    if (!copier) {
      ASSERT_EQ(rig.write(3 * kMiB, 8192, 2), 0);
    }
    ASSERT_TRUE(rig.run_to(ReplacePhase::failed));
    EXPECT_GE(rig.next.fired(rule), 1U);
    EXPECT_TRUE(contains(rig.replacer->status().reason, "the new disk is bad"));
    EXPECT_EQ(rig.volume->status().main.info.name, rig.main_disk.info().name);
    EXPECT_EQ(rig.volume->status().store.remapped, 0U);
    EXPECT_EQ(rig.write(0, 4096, 3, Durability::fua), 0);
    EXPECT_TRUE(rig.holds(0, 4096, 3));
    rig.stop();
    ASSERT_TRUE(rig.open(rig.main));
    EXPECT_EQ(rig.phase(), ReplacePhase::failed);
  }
}

TEST(ReplaceFaults,
     a_new_disk_that_holds_something_else_than_was_written_ends_it) {
  ReplaceRig rig;
  ASSERT_TRUE(rig.copy_all(1));
  ASSERT_TRUE(rig.next_disk.write(DeviceOffset{2 * kMiB}, pattern(9, 512),
                                  Durability::fua));
  ASSERT_TRUE(rig.run_to(ReplacePhase::failed));
  EXPECT_TRUE(contains(rig.replacer->status().reason, "not what was written"));
}

TEST(ReplaceFaults,
     a_new_disk_that_is_lost_is_waited_for_and_nothing_is_forgotten) {
  for (const bool restart : {false, true}) {
    ReplaceRig rig;
    ASSERT_TRUE(rig.copy_all(1));
    rig.settle();
    EXPECT_GE(rig.replacer->status().regions_in_sync, 3U);
    const auto rule = rig.next.add_failing_call(
        OpSet{FaultOp::write, FaultOp::flush}, ENODEV, {.sticky = true});
    ASSERT_EQ(rig.write(kMiB, 4096, 2), 0);
    EXPECT_GE(rig.next.fired(rule), 1U);
    ASSERT_EQ(rig.write(2 * kMiB, 4096, 3), 0);  // sent to the old one alone
    ASSERT_EQ(told(rig.volume->flush()), 0);
    EXPECT_FALSE(rig.run_to(ReplacePhase::done));
    EXPECT_TRUE(contains(rig.replacer->status().waits_for, "is lost"));
    rig.next.remove(rule);
    if (restart) {
      rig.kill();
      ASSERT_TRUE(rig.open(rig.main));
    } else {
      ASSERT_TRUE(rig.start());
    }
    const auto reads = rig.main_disk.calls().read;
    ASSERT_TRUE(rig.run_to(ReplacePhase::done));
    EXPECT_LE(rig.main_disk.calls().read - reads, 3U)
        << "what was in sync is copied again";
    EXPECT_TRUE(rig.holds(kMiB, 4096, 2));
    EXPECT_TRUE(rig.holds(2 * kMiB, 4096, 3));
    EXPECT_TRUE(rig.holds(0, kMiB, 1));
  }
}

// Contract L3: mistakes 25 and 31.
TEST(ReplaceFaults,
     a_new_disk_that_hangs_holds_up_nobody_for_longer_than_the_bound) {
  ReplaceRigOptions options;
  options.bound = std::chrono::milliseconds(200);
  ReplaceRig rig(options);
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  Barrier barrier;
  rig.next.set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write) barrier.arrive_and_wait();
  });
  ASSERT_EQ(rig.write(0, 4096, 2), 0);
  EXPECT_TRUE(barrier.wait_for_arrival());
  ASSERT_EQ(rig.write(4096, 4096, 3, Durability::fua), 0);
  EXPECT_FALSE(rig.run_to(ReplacePhase::done));
  const Status again = rig.start();
  ASSERT_FALSE(again) << "its late write would cover a newer one";
  EXPECT_TRUE(contains(words_of(again), "hangs"));
  EXPECT_TRUE(rig.replacer->abort());
  EXPECT_TRUE(rig.holds(0, 4096, 2));
  EXPECT_TRUE(rig.holds(4096, 4096, 3));
  rig.next.set_hook({});
  barrier.open();
}

TEST(ReplaceFaults, a_region_loses_its_note_before_the_first_write_to_it) {
  ReplaceRig rig;
  ASSERT_TRUE(rig.copy_all(1));
  rig.settle();
  const auto noted = [&] { return unpack_replace_state(rig.notes)->in_sync; };
  ASSERT_EQ(noted(), std::vector<bool>(4, true));
  std::vector<bool> at_write;
  rig.main.set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write) at_write = noted();
  });
  const auto written = rig.notes_written;
  ASSERT_EQ(rig.write(kMiB, 4096, 2), 0);
  const std::vector<bool> expected{true, false, true, true};
  EXPECT_EQ(at_write, expected);
  EXPECT_EQ(rig.notes_written, written + 2) << "both places must say so";
  ASSERT_EQ(rig.write(kMiB, 4096, 3), 0);
  EXPECT_EQ(rig.notes_written, written + 2) << "once is enough";
  rig.main.set_hook({});
  // A note that fails: the write must not happen on either disk.
  rig.before_note = [] { return make_error(ENODEV, "spare"); };
  EXPECT_EQ(rig.write(2 * kMiB, 4096, 4), EIO);
  EXPECT_EQ(rig.volume->status().store.remapped, 0U);
  rig.before_note = {};
  EXPECT_TRUE(rig.holds(2 * kMiB, kMiB / 2, 1) ||
              rig.read(2 * kMiB, 4096) == 0);
}

// Found by the simulation: MAIN refuses a block, SPARE cannot take it, and what
// the client was told has failed is on the new disk alone.
TEST(ReplaceFaults, what_main_did_not_take_of_a_write_is_copied_again) {
  ReplaceRig rig;
  ASSERT_TRUE(rig.copy_all(1));
  rig.settle();
  constexpr std::uint64_t kBad = 16384;
  const auto on = [](MemoryBackend& disk) {
    std::vector<std::byte> bytes(4096);
    EXPECT_TRUE(disk.read(DeviceOffset{kBad}, bytes));
    return bytes;
  };
  ASSERT_EQ(on(rig.main_disk), on(rig.next_disk));
  const auto bad = rig.main.add_bad_range(FaultOp::write, kBad, 4096, EIO);
  const auto flush = rig.spare.add_failing_call(FaultOp::flush, EIO);
  ASSERT_EQ(rig.write(0, 131072, 2), EIO);
  EXPECT_GE(rig.main.fired(bad), 1U);
  EXPECT_EQ(rig.spare.fired(flush), 1U);
  ASSERT_NE(on(rig.main_disk), on(rig.next_disk));
  for (int i = 0; i < 20; ++i) rig.settle();
  const auto state = unpack_replace_state(rig.notes);
  ASSERT_TRUE(state);
  EXPECT_TRUE(!state->in_sync.at(0) || on(rig.main_disk) == on(rig.next_disk));
}

// Another build may have written to MAIN meanwhile, or a tool.
TEST(ReplaceFaults, notes_that_are_not_of_the_last_server_are_not_believed) {
  ReplaceRig rig;
  ASSERT_TRUE(rig.copy_all(1));
  rig.settle();
  rig.stop();
  const auto notes = rig.notes;
  ASSERT_TRUE(rig.open(rig.main));
  EXPECT_EQ(rig.replacer->status().regions_in_sync, 4U);
  rig.stop();
  rig.notes = notes;
  ASSERT_TRUE(rig.open(rig.main));
  EXPECT_EQ(rig.replacer->status().regions_in_sync, 0U);
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.holds(0, 4 * kMiB, 1));
}

TEST(ReplaceFaults,
     a_switch_that_spare_did_not_note_for_sure_keeps_both_disks) {
  ReplaceRig rig;
  ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  while (rig.replacer->status().checked_bytes < 4 * kMiB)
    (void)rig.replacer->step();
  const auto rule = rig.spare.add_failing_call(
      OpSet{FaultOp::write, FaultOp::flush}, ENODEV, {.sticky = true});
  EXPECT_FALSE(rig.run_to(ReplacePhase::done, 20));
  EXPECT_GE(rig.spare.fired(rule), 1U);
  EXPECT_TRUE(contains(rig.replacer->status().waits_for, "SPARE failed"));
  EXPECT_FALSE(rig.replacer->abort());
  ASSERT_EQ(rig.write(0, 4096, 2), 0);
  std::vector<std::byte> on_next(4096);
  ASSERT_TRUE(rig.next_disk.read(DeviceOffset{0}, on_next));
  EXPECT_EQ(on_next, pattern(2, 4096));
  // One that reaches the old disk alone would be lost after a restart.
  (void)rig.next.add_bad_range(FaultOp::write, kMiB, 4096, EIO);
  EXPECT_EQ(rig.write(kMiB, 4096, 3), EIO);
  EXPECT_EQ(rig.volume->status().store.remapped, 0U);
}

TEST(ReplaceFaults, sectors_without_a_free_slot_hold_up_the_switch_and_say_so) {
  ReplaceRigOptions options;
  options.spare_slots = 1;
  ReplaceRig rig(options);
  ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
  std::uint64_t free = rig.volume->status().store.slots.slots;
  ASSERT_TRUE(rig.volume
                  ->map_step(MapAction::remap, VolumeOffset{0}, free * 4096,
                             std::chrono::seconds(60))
                  .status);
  const auto rule = rig.main.add_bad_range(FaultOp::read, 3 * kMiB, 512, EIO);
  ASSERT_TRUE(rig.start());
  EXPECT_FALSE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(contains(rig.replacer->status().waits_for, "no slot is free"))
      << rig.replacer->status().waits_for;
  EXPECT_EQ(rig.phase(), ReplacePhase::copying);
  // Its owner gives the sector up.
  rig.main.remove(rule);
  ASSERT_EQ(rig.write(3 * kMiB, 4096, 2), 0);
  for (int i = 0; i < 20; ++i) (void)rig.replacer->step();
  EXPECT_EQ(rig.phase(), ReplacePhase::done);
  EXPECT_TRUE(rig.holds(3 * kMiB, 4096, 2));
  EXPECT_TRUE(rig.holds(0, kMiB, 1));
}

TEST(ReplaceFaults, a_larger_disk_is_taken_and_the_volume_keeps_its_size) {
  ReplaceRigOptions options;
  options.next_bytes = 8 << 20;
  options.next_logical = 4096;
  ReplaceRig rig(options);
  ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  ASSERT_EQ(rig.write(kMiB + 512, 1024, 2), 0);  // less than its sectors
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.holds(kMiB + 512, 1024, 2));
  for (const bool restarted : {false, true}) {
    if (restarted) {
      rig.stop();
      ASSERT_TRUE(rig.open(rig.next));
    }
    EXPECT_EQ(rig.volume->size(), 4 * kMiB);
    EXPECT_TRUE(rig.holds(0, kMiB, 1));
  }
  const auto grown = rig.volume->grow_main();
  ASSERT_TRUE(grown) << grown.error().text();
  EXPECT_EQ(*grown, 8 * kMiB);
  rig.stop();
  ASSERT_TRUE(rig.open(rig.next));
  EXPECT_EQ(rig.volume->size(), 8 * kMiB);
  EXPECT_TRUE(rig.holds(0, kMiB, 1));
}

TEST(ReplaceFaults, what_is_no_disk_for_it_is_refused_in_one_line) {
  {
    ReplaceRigOptions options;
    options.next_bytes = 3 << 20;
    ReplaceRig rig(options);
    EXPECT_TRUE(contains(words_of(rig.start()), "expected at least"));
    EXPECT_EQ(rig.phase(), ReplacePhase::none);
    EXPECT_EQ(rig.notes_written, 0U);
    EXPECT_EQ(rig.next_disk.calls().write, 0U);
  }
  for (const std::uint64_t at : {std::uint64_t{0}, 4 * kMiB - 512}) {
    ReplaceRig rig;
    ASSERT_TRUE(rig.next_disk.write(DeviceOffset{at}, pattern(1, 512),
                                    Durability::fua));
    EXPECT_TRUE(contains(words_of(rig.start()), "--force"));
    EXPECT_EQ(rig.notes_written, 0U);
    EXPECT_TRUE(rig.start(true));
    EXPECT_TRUE(contains(words_of(rig.start()), "being replaced"));
    EXPECT_FALSE(rig.volume->grow_main());
  }
  ReplaceRig rig;
  rig.no_next = make_error(ErrorClass::caller, EBUSY, "next: in use");
  EXPECT_TRUE(contains(words_of(rig.start()), "in use"));
  EXPECT_EQ(rig.notes_written, 0U);
  EXPECT_TRUE(contains(words_of(rig.replacer->abort()), "not being replaced"));
}

// The switch is one sector of SPARE: a server that was killed before anybody
// knew whether it was written finds one disk or the other, and all on it.
TEST(ReplaceFaults, a_restart_while_the_switch_is_undecided_finds_one_of_them) {
  for (const bool written : {false, true}) {
    SCOPED_TRACE(written);
    ReplaceRig rig;
    ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
    ASSERT_TRUE(rig.start());
    bool armed = false;
    FaultyBackend::Rule rule = 0;
    rig.spare.set_hook([&](const Operation& o) {
      if (armed || o.op != FaultOp::write || o.offset != 0) return;
      armed = true;
      rule =
          rig.spare.add_failing_call(FaultOp::write, ENODEV, {.done = written});
    });
    EXPECT_FALSE(rig.run_to(ReplacePhase::switched));
    ASSERT_TRUE(armed);
    ASSERT_EQ(rig.spare.fired(rule), 1U);
    EXPECT_TRUE(contains(rig.replacer->status().waits_for, "both disks"));
    EXPECT_FALSE(rig.replacer->abort());
    ASSERT_EQ(rig.write(kMiB, 4096, 2), 0);
    ASSERT_EQ(told(rig.volume->flush()), 0);
    rig.kill();
    EXPECT_EQ(unpack_replace_state(rig.notes)->phase, ReplacePhase::copying);
    EXPECT_FALSE(rig.open(written ? rig.main : rig.next));
    ASSERT_TRUE(rig.open(written ? rig.next : rig.main));
    EXPECT_EQ(rig.phase(),
              written ? ReplacePhase::switched : ReplacePhase::copying);
    EXPECT_TRUE(rig.holds(kMiB, 4096, 2));
    ASSERT_TRUE(rig.run_to(ReplacePhase::done));
    EXPECT_TRUE(rig.holds(kMiB, 4096, 2));
    EXPECT_TRUE(rig.holds(0, kMiB, 1));
  }
}

// Contract C1: what is read after both were acked is read after the switch too.
TEST(ReplaceFaults, two_writes_of_one_place_at_once_leave_the_same_on_both) {
  ReplaceRig rig;
  ASSERT_TRUE(rig.start());
  Barrier barrier;
  std::atomic<int> writes{0};
  rig.next.set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write && ++writes == 1) barrier.arrive_and_wait();
  });
  const auto writer = [&](std::uint64_t tag) {
    return std::async(std::launch::async,
                      [&rig, tag] { return rig.write(8192, 4096, tag); });
  };
  auto first = writer(1);
  ASSERT_TRUE(barrier.wait_for_arrival());
  auto second = writer(2);
  // It would be done by then if nothing kept it.
  (void)second.wait_for(std::chrono::milliseconds(300));
  barrier.open();
  EXPECT_EQ(first.get(), 0);
  EXPECT_EQ(second.get(), 0);
  rig.next.set_hook({});
  std::vector<std::byte> old(4096);
  std::vector<std::byte> next(4096);
  ASSERT_TRUE(rig.main_disk.read(DeviceOffset{8192}, old));
  ASSERT_TRUE(rig.next_disk.read(DeviceOffset{8192}, next));
  EXPECT_EQ(old, next);
}

// Contract L3: who waits for another one's note does not wait for ever.
TEST(CopyMap, nobody_waits_for_ever_for_a_note_that_hangs) {
  Barrier barrier;
  std::atomic<int> saves{0};
  CopyMap map(
      4 * kMiB, std::vector<bool>(4, true),
      [&](const std::vector<bool>&, bool) {
        if (++saves == 1) barrier.arrive_and_wait();
        return Status();
      },
      std::chrono::milliseconds(100));
  auto first =
      std::async(std::launch::async, [&] { return map.begin(0, 4096).ok(); });
  ASSERT_TRUE(barrier.wait_for_arrival());
  const Status late = map.begin(2 * kMiB, 4096);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().errnum, ETIMEDOUT);
  EXPECT_FALSE(map.save_all());
  EXPECT_FALSE(map.settle(map.settle_point()));
  barrier.open();
  EXPECT_TRUE(first.get());
}

TEST(ReplaceState, what_was_packed_is_unpacked_and_nothing_else) {
  ReplaceState s;
  s.phase = ReplacePhase::copying;
  s.volume_bytes = 1 << 20;
  s.owner_epoch = 7;
  s.next = "/dev/sdc";
  s.next_identity = "scsi 1";
  s.old = "/dev/sdb";
  s.in_sync = {true, false, true, false, false, false, false, false, true};
  const auto bytes = pack_replace_state(s);
  const auto back = unpack_replace_state(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->in_sync, s.in_sync);
  EXPECT_EQ(back->next, s.next);
  EXPECT_EQ(back->old, s.old);
  EXPECT_EQ(back->owner_epoch, 7U);
  for (std::size_t n = 0; n < bytes.size(); ++n)
    EXPECT_FALSE(unpack_replace_state(ConstBytes(bytes).first(n))) << n;
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    auto bad = bytes;
    bad[i / 8] ^= std::byte{1} << (i % 8);
    (void)unpack_replace_state(bad);  // whatever it says, it ends
  }
}

}  // namespace
}  // namespace nbd_remap
