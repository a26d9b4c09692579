// SPDX-License-Identifier: BSD-3-Clause
// MAIN is replaced while the volume is served.
#include <gtest/gtest.h>

#include <cerrno>
#include <random>
#include <thread>

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

TEST(Replace, a_volume_moves_to_the_new_disk_whole) {
  ReplaceRig rig;
  for (std::uint64_t c = 0; c < 4; ++c)
    ASSERT_EQ(rig.write(c * kMiB, kMiB, c), 0);
  ASSERT_TRUE(rig.start());
  EXPECT_EQ(rig.phase(), ReplacePhase::copying);
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  for (std::uint64_t c = 0; c < 4; ++c)
    EXPECT_TRUE(rig.holds(c * kMiB, kMiB, c));
  const VolumeStatus status = rig.volume->status();
  EXPECT_EQ(status.main.info.name, rig.next_disk.info().name);
  EXPECT_EQ(status.main.info.identity, rig.next_disk.info().identity);
  EXPECT_EQ(status.size, rig.options.main_bytes);
  // The old disk is not touched any more.
  const auto before = rig.main_disk.calls();
  ASSERT_EQ(rig.write(0, 4096, 9, Durability::fua), 0);
  EXPECT_TRUE(rig.holds(0, 4096, 9));
  EXPECT_EQ(rig.main_disk.calls().write, before.write);
  EXPECT_EQ(rig.main_disk.calls().read, before.read);
}

// Contract M3, mistake 12.
TEST(Replace, afterwards_the_old_disk_is_refused_and_the_new_one_accepted) {
  ReplaceRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  ASSERT_EQ(rig.write(kMiB, 4096, 2), 0);
  rig.stop();
  const Status old = rig.open(rig.main);
  ASSERT_FALSE(old);
  EXPECT_TRUE(contains(words_of(old), rig.next_disk.info().identity))
      << words_of(old);
  ASSERT_TRUE(rig.open(rig.next));
  EXPECT_TRUE(rig.holds(0, kMiB, 1));
  EXPECT_TRUE(rig.holds(kMiB, 4096, 2));
  EXPECT_EQ(rig.phase(), ReplacePhase::done);
}

TEST(Replace,
     before_the_switch_the_new_disk_is_refused_and_the_old_one_goes_on) {
  ReplaceRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  (void)rig.replacer->step();
  rig.kill();
  EXPECT_FALSE(rig.open(rig.next));
  ASSERT_TRUE(rig.open(rig.main));
  EXPECT_EQ(rig.phase(), ReplacePhase::copying);
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.holds(0, kMiB, 1));
}

TEST(Replace, writes_during_the_copy_are_on_the_new_disk) {
  ReplaceRig rig;
  std::mt19937_64 random(7);
  std::vector<std::uint64_t> tag(1024);
  const auto put = [&](std::uint64_t n) {
    const std::uint64_t block = random() % tag.size();
    tag[block] = n;
    ASSERT_EQ(rig.write(block * 4096, 4096, n,
                        n % 5 == 0 ? Durability::fua : Durability::cached),
              0);
  };
  for (std::uint64_t n = 1; n < 400; ++n) put(n);
  ASSERT_TRUE(rig.start());
  std::uint64_t n = 1000;
  while (rig.phase() == ReplacePhase::copying) {
    for (int i = 0; i < 7; ++i) put(++n);
    (void)rig.replacer->step();
    ASSERT_LT(n, 100'000U);
  }
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  for (std::uint64_t b = 0; b < tag.size(); ++b)
    EXPECT_TRUE(tag[b] == 0 || rig.holds(b * 4096, 4096, tag[b])) << b;
}

// The copier has read the chunk when a client writes there: contract C13.
TEST(Replace, what_was_read_before_a_write_does_not_cover_it) {
  ReplaceRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  bool written = false;
  rig.main.set_hook([&](const Operation& o) {
    if (o.op != FaultOp::read || o.length != kMiB || written) return;
    written = true;
    std::thread client([&] { EXPECT_EQ(rig.write(8192, 4096, 2), 0); });
    client.join();
  });
  (void)rig.replacer->step();
  EXPECT_TRUE(written);
  // The hook ran before the read, so what was read has the write in it; the
  // copier cannot know that and reads again.
  EXPECT_EQ(rig.replacer->status().copied_bytes, 0U);
  rig.main.set_hook({});
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.holds(8192, 4096, 2));
  EXPECT_TRUE(rig.holds(0, 8192, 1));
}

TEST(Replace, a_chunk_that_is_written_all_the_time_is_copied_all_the_same) {
  ReplaceRig rig;
  ASSERT_TRUE(rig.start());
  std::uint64_t tag = 0;
  std::uint64_t reads = 0;
  rig.main.set_hook([&](const Operation& o) {
    if (o.op != FaultOp::read || o.length != kMiB || ++reads > 3) return;
    std::thread client([&] { EXPECT_EQ(rig.write(0, 4096, ++tag), 0); });
    client.join();
  });
  for (int i = 0; i < 4; ++i) (void)rig.replacer->step();
  EXPECT_EQ(reads, 4U);
  EXPECT_EQ(rig.replacer->status().copied_bytes, kMiB);
  rig.main.set_hook({});
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.holds(0, 4096, tag));
}

TEST(Replace, blocks_on_spare_are_copied_back_and_their_slots_are_free) {
  ReplaceRig rig;
  const auto rule =
      rig.main.add_bad_range(FaultOp::write, 40960, 3 * 4096, EIO);
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  EXPECT_GE(rig.main.fired(rule), 1U);
  ASSERT_EQ(rig.volume->status().store.remapped, 3U);
  ASSERT_TRUE(rig.start());
  ASSERT_EQ(rig.write(45056, 4096, 5), 0);  // to a slot
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_EQ(rig.volume->status().store.remapped, 0U);
  EXPECT_EQ(rig.volume->status().store.slots.used, 0U);
  EXPECT_TRUE(rig.holds(45056, 4096, 5));
  EXPECT_TRUE(rig.holds(0, 45056, 1));
  rig.stop();
  ASSERT_TRUE(rig.open(rig.next));
  EXPECT_TRUE(rig.holds(45056, 4096, 5));
}

// Never zeroes: contract C1, mistake 2.
TEST(Replace, what_cannot_be_read_stays_unreadable_on_the_new_disk) {
  for (const bool whole_block : {false, true}) {
    ReplaceRig rig;
    ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
    const std::uint64_t bad = 2 * kMiB + 8192;
    const std::uint64_t bytes = whole_block ? 4096 : 512;
    const auto rule = rig.main.add_bad_range(FaultOp::read, bad, bytes, EIO);
    ASSERT_TRUE(rig.start());
    ASSERT_TRUE(rig.run_to(ReplacePhase::done));
    EXPECT_GE(rig.main.fired(rule), 1U);
    EXPECT_EQ(rig.replacer->status().lost_sectors, bytes / 512);
    for (const bool restarted : {false, true}) {
      if (restarted) {
        rig.stop();
        ASSERT_TRUE(rig.open(rig.next));
      }
      EXPECT_EQ(rig.read(bad, 512), EIO);
      EXPECT_TRUE(rig.read(bad - 512, 512) == 0);
      EXPECT_TRUE(rig.read(bad + bytes, 512) == 0);
      // Nothing makes data of what the new disk has there.
      for (const MapAction action : {MapAction::retest, MapAction::check,
                                     MapAction::unmap, MapAction::remap})
        EXPECT_TRUE(rig.volume
                        ->map_step(action, VolumeOffset{2 * kMiB}, 65'536,
                                   std::chrono::seconds(60))
                        .status);
      EXPECT_EQ(rig.read(bad, 512), EIO);
    }
    // A write supplies it.
    ASSERT_EQ(rig.write(bad, bytes, 3), 0);
    EXPECT_TRUE(rig.holds(bad, bytes, 3));
  }
}

TEST(Replace, a_block_known_to_be_pending_that_comes_back_is_copied) {
  ReplaceRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  const auto rule = rig.main.add_bad_range(FaultOp::read, 0, 512, EIO);
  ASSERT_EQ(rig.read(0, 512), EIO);
  ASSERT_EQ(rig.volume->status().store.pending, 1U);
  ASSERT_TRUE(rig.start());
  (void)rig.replacer->step();  // copied, with a hole
  rig.main.remove(rule);
  ASSERT_TRUE(rig.volume
                  ->map_step(MapAction::retest, VolumeOffset{0}, kMiB,
                             std::chrono::seconds(60))
                  .status);
  ASSERT_EQ(rig.volume->status().store.pending, 0U);
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_TRUE(rig.holds(0, kMiB, 1));
}

TEST(Replace,
     what_becomes_unreadable_after_it_was_copied_is_had_from_the_copy) {
  ReplaceRig rig;
  ASSERT_EQ(rig.write(0, kMiB, 1), 0);
  ASSERT_TRUE(rig.start());
  while (rig.replacer->status().copied_bytes < 4 * kMiB)
    (void)rig.replacer->step();
  (void)rig.main.add_bad_range(FaultOp::read, 512, 512, EIO);
  ASSERT_EQ(rig.read(0, 4096), EIO);
  ASSERT_EQ(rig.volume->status().store.pending, 1U);
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
  EXPECT_EQ(rig.volume->status().store.pending, 0U);
  EXPECT_TRUE(rig.holds(0, kMiB, 1));
}

TEST(Replace, readable_places_come_first) {
  ReplaceRigOptions options;
  options.main_bytes = options.next_bytes = 16 << 20;
  ReplaceRig rig(options);
  const auto rule = rig.main.add_bad_range(FaultOp::read, kMiB, 4096, EIO);
  ASSERT_TRUE(rig.start());
  rig.main.clear_trace();
  while (rig.replacer->status().copied_bytes < 14 * kMiB)
    (void)rig.replacer->step();
  // Tried once in one go, left alone until the rest was there.
  EXPECT_EQ(rig.main.fired(rule), 1U);
  ASSERT_TRUE(rig.run_to(ReplacePhase::done));
}

TEST(Replace, abort_leaves_the_volume_as_it_was) {
  for (const int steps : {0, 1, 3, 6}) {
    ReplaceRig rig;
    ASSERT_EQ(rig.write(0, 4 * kMiB, 1), 0);
    (void)rig.main.add_bad_range(FaultOp::write, 4096, 4096, EIO);
    ASSERT_EQ(rig.write(4096, 4096, 2), 0);
    ASSERT_TRUE(rig.start());
    for (int i = 0; i < steps; ++i) (void)rig.replacer->step();
    ASSERT_EQ(rig.write(8192, 4096, 3), 0);
    ASSERT_TRUE(rig.replacer->abort());
    EXPECT_EQ(rig.phase(), ReplacePhase::aborted);
    EXPECT_EQ(rig.volume->status().main.info.name, rig.main_disk.info().name);
    const auto calls = rig.next_disk.calls();
    ASSERT_EQ(rig.write(12288, 4096, 4, Durability::fua), 0);
    EXPECT_EQ(rig.next_disk.calls().write, calls.write);
    EXPECT_FALSE(rig.replacer->abort()) << "there is nothing to abort";
    for (const bool restarted : {false, true}) {
      if (restarted) {
        rig.stop();
        ASSERT_TRUE(rig.open(rig.main));
        EXPECT_EQ(rig.phase(), ReplacePhase::aborted);
      }
      EXPECT_TRUE(rig.holds(4096, 4096, 2));
      EXPECT_TRUE(rig.holds(8192, 4096, 3));
      EXPECT_TRUE(rig.holds(12288, 4096, 4));
      EXPECT_TRUE(rig.entry(1).remapped());
    }
    // And it can begin anew.
    ASSERT_FALSE(rig.start()) << "the new disk is not empty any more";
    ASSERT_TRUE(rig.start(true));
    ASSERT_TRUE(rig.run_to(ReplacePhase::done));
    EXPECT_TRUE(rig.holds(12288, 4096, 4));
  }
}

}  // namespace
}  // namespace nbd_remap
