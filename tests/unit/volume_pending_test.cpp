// SPDX-License-Identifier: BSD-3-Clause
// Reads that MAIN refuses, and the blocks that are pending afterwards.
#include <gtest/gtest.h>

#include <bit>
#include <cerrno>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

std::uint64_t unreadable_sectors(const Rig& rig) {
  std::uint64_t sectors = 0;
  for (const RemapEntry& entry : rig.entries())
    sectors += rig.options.block_bytes / 512 -
               static_cast<std::uint64_t>(std::popcount(entry.valid));
  return sectors;
}

// Mistake 14.
TEST(VolumePending, one_bad_sector_of_a_megabyte_is_the_only_one_pending) {
  for (std::uint32_t block_bytes : {4096U, 16384U})
    for (std::uint64_t bad : {0, 1, 777, 2047}) {
      Rig rig({.block_bytes = block_bytes});
      ASSERT_EQ(rig.write(0, 1 << 20, 1), 0);
      const auto rule =
          rig.main.add_bad_range(FaultOp::read, bad * 512, 512, EIO);
      EXPECT_EQ(rig.read(0, 1 << 20), EIO);
      EXPECT_GE(rig.main.fired(rule), 2U);
      ASSERT_EQ(rig.entries().size(), 1U);
      const RemapEntry entry = rig.entries().front();
      EXPECT_FALSE(entry.remapped()) << "a read maps nothing";
      EXPECT_EQ(entry.block.value, bad * 512 / block_bytes);
      const std::uint64_t sectors = block_bytes / 512;
      EXPECT_EQ(entry.valid, (~std::uint64_t{0} >> (64 - sectors)) &
                                 ~(std::uint64_t{1} << bad % sectors));
      const auto data = pattern(1, 1 << 20);
      EXPECT_TRUE(rig.holds(0, ConstBytes(data).first(bad * 512)));
      EXPECT_TRUE(rig.holds((bad + 1) * 512,
                            ConstBytes(data).subspan((bad + 1) * 512)));
    }
}

// The log fails while sectors become pending: after a restart they may be. No
// write may be acknowledged that then cannot be read.
TEST(VolumePending, a_block_whose_pending_sectors_are_in_doubt_is_not_written) {
  std::uint64_t refused = 0;
  for (const bool asked : {false, true})
    for (std::uint64_t nth = 1; nth < 20; ++nth) {
      Rig rig;
      rig.main.add_bad_range(FaultOp::read, 512, 512, EIO,
                             {.heal_on_write = true});
      const auto rule = rig.spare.add_failing_call(
          {FaultOp::write, FaultOp::flush}, EIO, {.nth = nth, .sticky = true});
      if (asked)
        (void)rig.volume->map_step(MapAction::check, VolumeOffset{0}, 4096,
                                   std::chrono::milliseconds(60'000));
      else
        EXPECT_EQ(rig.read(0, 4096), EIO);
      if (rig.spare.fired(rule) == 0) break;
      rig.spare.remove(rule);
      const bool written = rig.write(0, 4096, 2, Durability::fua) == 0;
      rig.open();  // as after kill -9
      EXPECT_TRUE(!written || rig.holds(0, 4096, 2)) << nth;
      refused += !written;
    }
  EXPECT_GE(refused, 2U);
}

// Mistake 14.
TEST(VolumePending, sixty_four_bad_sectors_at_once_are_all_found) {
  Rig rig;
  const auto rule = rig.main.add_bad_range(FaultOp::read, 512, 512, EIO);
  for (std::uint64_t i = 1; i < 64; ++i)
    rig.main.extend(rule, i * 16384 + i % 8 * 512, 512);
  EXPECT_EQ(rig.read(0, 1 << 20), EIO);
  EXPECT_GE(rig.main.fired(rule), 64U);
  EXPECT_EQ(rig.entries().size(), 64U);
  EXPECT_EQ(unreadable_sectors(rig), 64U);
  EXPECT_FALSE(rig.volume->status().breaker_open);
  rig.reopen();
  EXPECT_EQ(rig.entries().size(), 64U);
  EXPECT_EQ(unreadable_sectors(rig), 64U);
}

// Mistake 28.
TEST(VolumePending, a_pending_block_fails_at_once) {
  Rig rig;
  const auto rule = rig.main.add_bad_range(FaultOp::read, rig.at(9), 512, EIO);
  ASSERT_EQ(rig.read(rig.at(9), 4096), EIO);
  ASSERT_GE(rig.main.fired(rule), 1U);
  for (bool restarted : {false, true}) {
    if (restarted) rig.reopen();
    rig.main.clear_trace();
    for (int i = 0; i < 100; ++i) EXPECT_EQ(rig.read(0, 1 << 20), EIO);
    EXPECT_TRUE(rig.main.trace().empty()) << "the drive was asked again";
    EXPECT_EQ(rig.entries().size(), 1U);
  }
}

// Mistake 2.
TEST(VolumePending, when_the_fault_goes_away_it_is_still_no_invented_data) {
  Rig rig;
  ASSERT_EQ(rig.write(rig.at(9), 4096, 7), 0);
  const auto rule = rig.spoil(FaultOp::read, 9);
  ASSERT_EQ(rig.read(rig.at(9), 4096), EIO);
  ASSERT_GE(rig.main.fired(rule), 1U);
  rig.main.remove(rule);
  for (bool restarted : {false, true}) {
    if (restarted) rig.reopen();
    ASSERT_EQ(rig.entries().size(), 1U);
    EXPECT_TRUE(rig.read(rig.at(9), 4096) == EIO ||
                rig.holds(rig.at(9), 4096, 7));
  }
}

TEST(VolumePending, a_read_that_fails_a_few_times_succeeds_and_marks_nothing) {
  for (std::uint64_t times : {1, 5, 11}) {
    Rig rig;
    ASSERT_EQ(rig.write(0, 1 << 20, 1), 0);
    const auto rule = rig.main.add_bad_range(FaultOp::read, rig.at(100) + 1024,
                                             512, EIO, {.times = times});
    EXPECT_TRUE(rig.holds(0, 1 << 20, 1)) << times;
    EXPECT_EQ(rig.main.fired(rule), times);
    EXPECT_TRUE(rig.entries().empty());
    EXPECT_EQ(rig.volume->stats().retried_reads, 1U);
  }
}

// Between the search and the mark a write may have mended the sector.
TEST(VolumePending, a_sector_that_can_be_read_at_the_last_look_is_not_marked) {
  for (std::uint64_t times = 1; times < 8; ++times) {
    Rig rig;
    const auto rule =
        rig.main.add_bad_range(FaultOp::read, 512, 512, EIO, {.times = times});
    const int answer = rig.read(512, 512);
    EXPECT_EQ(rig.main.fired(rule), std::min<std::uint64_t>(times, 5));
    // Try, the search's try, two retries; then the last look.
    EXPECT_EQ(answer, times < 4 ? 0 : EIO) << times;
    EXPECT_EQ(rig.entries().size(), times < 5 ? 0U : 1U) << times;
  }
}

TEST(VolumePending, others_read_their_blocks_while_a_search_goes_on) {
  Rig rig;
  ASSERT_EQ(rig.write(0, 1 << 20, 1), 0);
  const auto rule = rig.main.add_bad_range(FaultOp::read, rig.at(9), 512, EIO);
  int looked = 0;
  rig.main.set_hook([&](const Operation& operation) {
    if (operation.op != FaultOp::read || operation.offset > rig.at(9) ||
        operation.offset + operation.length <= rig.at(9) || looked != 0 ||
        operation.length > 512)
      return;
    ++looked;  // the slow disk is at the bad sector itself
    EXPECT_TRUE(rig.holds(
        rig.at(20), ConstBytes(pattern(1, 1 << 20)).subspan(rig.at(20), 4096)));
    EXPECT_EQ(rig.write(rig.at(30), 4096, 3), 0);
  });
  EXPECT_EQ(rig.read(rig.at(8), 8192), EIO);
  rig.main.set_hook(nullptr);
  EXPECT_EQ(looked, 1);
  EXPECT_GE(rig.main.fired(rule), 1U);
  EXPECT_EQ(rig.entries().size(), 1U);
}

class PendingWrites : public testing::TestWithParam<std::uint64_t> {
 protected:
  // One block with a sector that cannot be read, and marked as such.
  void make_pending(Rig& rig, bool heals) {
    at_ = rig.at(GetParam());
    ASSERT_EQ(rig.write(at_, 4096, 1), 0);
    rule_ = rig.main.add_bad_range(FaultOp::read, at_ + 1024, 512, EIO,
                                   {.heal_on_write = heals});
    ASSERT_EQ(rig.read(at_, 4096), EIO);
    ASSERT_GE(rig.main.fired(rule_), 1U);
    ASSERT_EQ(rig.entry(GetParam()).valid, 0b11111011U);
    ASSERT_FALSE(rig.entry(GetParam()).remapped());
  }
  // The bad sector was written with tag 2, all others still have tag 1.
  void expect_whole(Rig& rig) {
    auto expected = pattern(1, 4096);
    const auto sector = pattern(2, 512);
    std::copy(sector.begin(), sector.end(), expected.begin() + 1024);
    EXPECT_TRUE(rig.holds(at_, expected));
    rig.reopen();
    EXPECT_TRUE(rig.holds(at_, expected));
  }
  std::uint64_t at_ = 0;
  FaultyBackend::Rule rule_ = 0;
};

TEST_P(PendingWrites, main_first_cures_the_sector_and_forgets_it) {
  Rig rig;
  make_pending(rig, true);
  rig.main.clear_trace();
  ASSERT_EQ(rig.write(at_ + 1024, 512, 2), 0);
  EXPECT_EQ(rig.entries().size(), 0U);
  const auto trace = rig.main.trace();
  ASSERT_EQ(trace.size(), 2U);
  EXPECT_TRUE(trace[0].op == FaultOp::write && trace[0].fua) << "durable first";
  EXPECT_EQ(trace[1].op, FaultOp::read) << "then read back";
  expect_whole(rig);
  EXPECT_EQ(rig.entries().size(), 0U) << "and that is durable as well";
}

TEST_P(PendingWrites, spare_first_maps_and_leaves_main_alone) {
  RigOptions options;
  options.volume.on_pending_write = PendingWrite::spare_first;
  Rig rig(options);
  make_pending(rig, true);
  rig.main.clear_trace();
  ASSERT_EQ(rig.write(at_ + 1024, 512, 2), 0);
  EXPECT_TRUE(rig.entry(GetParam()).remapped());
  for (const Operation& operation : rig.main.trace())
    EXPECT_EQ(operation.op, FaultOp::read);
  expect_whole(rig);
}

TEST_P(PendingWrites,
       a_sector_that_still_cannot_be_read_after_it_goes_to_a_slot) {
  Rig rig;
  make_pending(rig, false);
  ASSERT_EQ(rig.write(at_ + 1024, 512, 2), 0);
  EXPECT_TRUE(rig.entry(GetParam()).remapped());
  EXPECT_EQ(rig.entry(GetParam()).valid, 0xffU);
  expect_whole(rig);
}

TEST_P(PendingWrites, a_disk_that_reads_back_something_else_is_not_believed) {
  Rig rig;
  make_pending(rig, true);
  bool written = false;
  rig.main.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::read && written) {
      EXPECT_TRUE(rig.main_disk.write(DeviceOffset{at_ + 1024}, pattern(3, 512),
                                      Durability::cached));
    }
    written = operation.op == FaultOp::write;
  });
  ASSERT_EQ(rig.write(at_ + 1024, 512, 2), 0);
  rig.main.set_hook(nullptr);
  EXPECT_TRUE(rig.entry(GetParam()).remapped());
  expect_whole(rig);
}

TEST_P(PendingWrites, one_that_main_refuses_goes_to_a_slot) {
  Rig rig;
  make_pending(rig, true);
  const auto rule = rig.spoil(FaultOp::write, GetParam());
  ASSERT_EQ(rig.write(at_ + 1024, 512, 2), 0);
  EXPECT_GE(rig.main.fired(rule), 1U);
  EXPECT_TRUE(rig.entry(GetParam()).remapped());
  expect_whole(rig);
}

TEST_P(PendingWrites, the_other_sectors_are_read_and_written_on_main) {
  Rig rig;
  make_pending(rig, true);
  ASSERT_EQ(rig.write(at_ + 2048, 2048, 3), 0);
  EXPECT_TRUE(rig.holds(at_ + 2048, 2048, 3));
  EXPECT_EQ(rig.read(at_ + 1024, 512), EIO);
  EXPECT_EQ(rig.entry(GetParam()).valid, 0b11111011U);
  EXPECT_EQ(rig.store().slots.used, 0U);
}

// Mistake 19.
INSTANTIATE_TEST_SUITE_P(Blocks, PendingWrites,
                         testing::Values(0, 500, (4 << 20) / 4096 - 1));

}  // namespace
}  // namespace nbd_remap
