// SPDX-License-Identifier: BSD-3-Clause
// Disks that are enlarged under a volume in use.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
// Ends in the middle of a block: its last one has three sectors.
constexpr std::uint64_t kOdd = 4 * kMiB + 3 * 512;

RigOptions odd() {
  RigOptions options;
  options.main_bytes = kOdd;
  return options;
}

TEST(VolumeGrow, a_main_that_did_not_grow_is_refused) {
  Rig rig;
  const auto grown = rig.volume->grow_main();
  ASSERT_FALSE(grown);
  EXPECT_EQ(grown.error().error_class, ErrorClass::caller);
  EXPECT_EQ(rig.volume->size(), rig.options.main_bytes);
  EXPECT_FALSE(rig.volume->grow_spare());
}

// Clean, pending and remapped: old bytes stay, new ones are what the disk has.
TEST(VolumeGrow, a_last_block_that_ended_in_the_middle_keeps_what_it_holds) {
  for (const char* state : {"clean", "pending", "remapped"}) {
    SCOPED_TRACE(state);
    Rig rig(odd());
    const std::uint64_t last = rig.last_block();
    ASSERT_EQ(rig.write(rig.at(last), 3 * 512, 7), 0);
    FaultyBackend::Rule rule = 0;
    if (state[0] == 'p') {
      rule = rig.spoil(FaultOp::read, last);
      EXPECT_EQ(rig.read(rig.at(last), 512), EIO);
      rig.main.remove(rule);
    } else if (state[0] == 'r') {
      rule = rig.spoil({FaultOp::write, FaultOp::zero}, last);
      EXPECT_EQ(rig.write(rig.at(last), 3 * 512, 7), 0);
      EXPECT_EQ(rig.entry(last).slot_or_none, 0U);
      rig.main.remove(rule);
    }
    if (state[0] != 'c') {
      EXPECT_GE(rig.main.fired(rule), 1U);
    }
    // What the owner of the larger disk put there.
    const auto theirs = pattern(99, kMiB);
    rig.main_disk.enlarge(kOdd + kMiB);
    ASSERT_EQ(*rig.main_disk.grow(), kOdd + kMiB);
    ASSERT_TRUE(rig.main_disk.write({kOdd}, theirs, Durability::cached));
    const auto grown = rig.volume->grow_main();
    ASSERT_TRUE(grown) << grown.error().text();
    EXPECT_EQ(rig.volume->size(), kOdd + kMiB);
    EXPECT_TRUE(rig.holds(kOdd, theirs));
    if (state[0] == 'p')
      EXPECT_EQ(rig.read(rig.at(last), 512), EIO);
    else
      EXPECT_TRUE(rig.holds(rig.at(last), 3 * 512, 7));
    EXPECT_EQ(rig.store().superblock.main_bytes, kOdd + kMiB) << "durable";
    // The new end is served and healed like any other place.
    const std::uint64_t end = kOdd + kMiB - 4096;
    rule = rig.spoil({FaultOp::write, FaultOp::zero}, end / 4096, 2);
    EXPECT_EQ(rig.write(end, 4096, 5), 0);
    EXPECT_GE(rig.main.fired(rule), 1U);
    EXPECT_TRUE(rig.holds(end, 4096, 5));
    EXPECT_EQ(rig.read(end + 4096, 512), EINVAL);
  }
}

TEST(VolumeGrow, a_full_spare_grows_while_clients_write) {
  RigOptions options;
  options.main_bytes = 16 * kMiB;
  options.spare_slots = 100;
  Rig rig(options);
  const auto rule = rig.spoil({FaultOp::write, FaultOp::zero}, 0, 4096);
  rig.main.set_hook(nullptr);
  const std::uint64_t slots = rig.store().slots.slots;
  std::uint64_t block = 0;
  // Blocks with a success between, so that the breaker sees a disk that works.
  while (rig.write(rig.at(block), 4096, block) == 0) {
    ++block;
    ASSERT_EQ(rig.read(rig.at(4000), 512), 0);
  }
  EXPECT_EQ(block, slots) << "SPARE is full";
  EXPECT_GE(rig.main.fired(rule), slots);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> done{0};
  std::thread client([&] {
    for (std::uint64_t i = 0; !stop; i = (i + 1) % slots) {
      EXPECT_EQ(rig.write(rig.at(i), 4096, i), 0);
      EXPECT_TRUE(rig.holds(rig.at(i), 4096, i));
      ++done;
    }
  });
  while (done < 10 && !testing::Test::HasFailure()) std::this_thread::yield();
  const std::uint64_t larger = rig.spare_disk.info().size_bytes + 4 * kMiB;
  rig.spare_disk.enlarge(larger);
  const auto grown = rig.volume->grow_spare();
  EXPECT_TRUE(grown) << grown.error().text();
  const std::uint64_t then = done;
  while (done < then + 10 && !testing::Test::HasFailure())
    std::this_thread::yield();
  stop = true;
  client.join();
  EXPECT_GT(rig.store().slots.slots, slots);
  for (std::uint64_t more = block + 200; block < more; ++block)
    ASSERT_EQ(rig.write(rig.at(block), 4096, block), 0);
  for (std::uint64_t b = 0; b < block; ++b)
    ASSERT_TRUE(rig.holds(rig.at(b), 4096, b)) << b;
}

}  // namespace
}  // namespace nbd_remap
