// SPDX-License-Identifier: BSD-3-Clause
// Writes that MAIN refuses.
#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

// Mistakes 1, 13 and 19.
TEST(VolumeHeal, a_failed_write_is_on_spare_when_it_is_acknowledged) {
  Rig rig({.main_bytes = (4 << 20) + 3 * 512});
  const std::uint64_t last = rig.last_block();
  for (std::uint64_t block : {std::uint64_t{0}, std::uint64_t{7}, last}) {
    const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, block);
    const std::uint64_t length =
        std::min<std::uint64_t>(4096, rig.volume->size() - rig.at(block));
    ASSERT_EQ(rig.write(rig.at(block), length, block), 0);
    EXPECT_GE(rig.main.fired(rule), 1U);
    EXPECT_TRUE(rig.entry(block).remapped()) << "used at once";
    EXPECT_TRUE(rig.holds(rig.at(block), length, block));
  }
  ASSERT_EQ(rig.entries().size(), 3U);
  EXPECT_EQ(rig.entry(0).slot_or_none, 0U);
  EXPECT_EQ(rig.volume->stats().healed_writes, 3U);
  EXPECT_EQ(rig.volume->stats().healed_blocks, 3U);
  rig.reopen();
  ASSERT_EQ(rig.entries().size(), 3U);
  EXPECT_TRUE(rig.holds(0, 4096, 0));
  EXPECT_TRUE(rig.holds(rig.at(7), 4096, 7));
  EXPECT_TRUE(rig.holds(rig.at(last), 3 * 512, last));
}

// Mistake 13.
TEST(VolumeHeal, a_thousand_writes_to_one_bad_block_make_one_mapping) {
  Rig rig;
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 5);
  for (std::uint64_t i = 0; i < 1000; ++i)
    ASSERT_EQ(rig.write(rig.at(5), 4096, i), 0);
  EXPECT_GE(rig.main.fired(rule), 1U);
  EXPECT_TRUE(rig.holds(rig.at(5), 4096, 999));
  EXPECT_EQ(rig.entries().size(), 1U);
  EXPECT_EQ(rig.store().slots.used, 1U);
}

// What SPARE is asked for during a write, a letter each: d slot data, r record,
// F flush. In the table before the end: seen_early.
std::string spare_order(Rig& rig, std::uint64_t offset, std::uint64_t length,
                        std::uint64_t& seen_early) {
  const std::uint64_t slots_begin = rig.slot(0);
  const std::uint64_t slots_end = rig.slot(rig.store().slots.slots);
  const auto before = rig.entries();
  rig.spare.clear_trace();
  rig.spare.set_hook(
      [&](const Operation&) { seen_early += rig.entries() != before; });
  EXPECT_EQ(rig.write(offset, length, 1), 0);
  rig.spare.set_hook(nullptr);
  EXPECT_NE(rig.entries(), before);
  std::string order;
  for (const Operation& operation : rig.spare.trace()) {
    if (operation.op == FaultOp::flush) order += 'F';
    if (operation.op == FaultOp::write)
      order += operation.offset >= slots_begin && operation.offset < slots_end
                   ? 'd'
                   : 'r';
  }
  return order;
}

// Mistake 7, contract C4. Every step is looked at from inside the disks.
TEST(VolumeHeal,
     slot_data_is_durable_before_the_record_and_that_before_the_ack) {
  Rig rig;
  ASSERT_EQ(told(rig.volume->flush()), 0);
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 3, 2);
  std::uint64_t seen_early = 0;
  // Two slots, a flush, the record in both copies, a flush.
  EXPECT_EQ(spare_order(rig, rig.at(3), 4096 + 512, seen_early), "ddFrrF");
  EXPECT_GE(rig.main.fired(rule), 1U);
  ASSERT_EQ(rig.entry(4).valid, 1U);
  // A sector more of a slot that a block has already.
  EXPECT_EQ(spare_order(rig, rig.at(4) + 512, 512, seen_early), "dFrrF");
  EXPECT_EQ(rig.entry(4).valid, 3U);
  EXPECT_EQ(seen_early, 0U) << "in the table before it was durable";
}

// Mistake 14, contract C10.
TEST(VolumeHeal, ten_thousand_bad_blocks_in_a_row_are_healed) {
  constexpr std::uint64_t kBad = 10'000;
  Rig rig({.main_bytes = 64 << 20, .spare_slots = kBad});
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 0, kBad);
  std::uint64_t failed = 0;
  for (std::uint64_t b = 0; b < kBad; ++b)
    failed += rig.write(rig.at(b), 4096, b) != 0;
  EXPECT_EQ(failed, 0U);
  EXPECT_GE(rig.main.fired(rule), kBad);
  EXPECT_FALSE(rig.volume->status().breaker_open);
  rig.reopen();
  const auto entries = rig.entries();
  ASSERT_EQ(entries.size(), kBad);
  std::set<std::uint64_t> slots;
  std::uint64_t lost = 0;
  for (const RemapEntry& entry : entries) {
    slots.insert(entry.slot_or_none);
    lost += !rig.holds(rig.at(entry.block.value), 4096, entry.block.value);
  }
  EXPECT_EQ(slots.size(), kBad);
  EXPECT_EQ(lost, 0U);
  // Mistake 17: the slots that are left, and then no more.
  const std::uint64_t left = rig.store().slots.slots - kBad;
  const auto more = rig.spoil(FaultOp::write, kBad, left + 1);
  for (std::uint64_t b = 0; b < left; ++b)
    EXPECT_EQ(rig.write(rig.at(kBad + b), 4096, 1), 0);
  EXPECT_EQ(rig.write(rig.at(kBad + left), 4096, 1), EIO);
  EXPECT_GE(rig.main.fired(more), left + 1);
}

TEST(VolumeHeal, a_large_write_over_many_bad_blocks_is_healed_whole) {
  Rig rig({.main_bytes = 64 << 20, .spare_slots = 3000});
  FaultyBackend::Rule rule =
      rig.spoil({FaultOp::read, FaultOp::write}, 100, 300);
  for (std::uint64_t block = 1000; block < 5000; block += 3)
    rig.main.extend(rule, rig.at(block), 512);
  const std::uint64_t offset = 5 * 512;  // and neither end is a block's
  const std::uint64_t length = (32 << 20) - 1024;
  ASSERT_EQ(rig.write(offset, length, 1), 0);
  EXPECT_GE(rig.main.fired(rule), 1600U);
  EXPECT_EQ(rig.entries().size(), 300U + (4000 + 2) / 3);
  EXPECT_EQ(rig.volume->stats().healed_writes, 1U);
  rig.reopen();
  EXPECT_TRUE(rig.holds(offset, length, 1));
  EXPECT_TRUE(rig.zeroes(0, offset));
  EXPECT_TRUE(rig.zeroes(offset + length, 8192));
}

// Else what a client wrote, and was told is done, is lost to an older request
// whose beginning others have read.
TEST(VolumeHeal, what_was_done_before_the_bad_block_is_not_done_again) {
  for (const bool zero : {false, true}) {
    Rig rig;
    const auto rule = rig.spoil({FaultOp::write, FaultOp::zero}, 3);
    ASSERT_EQ(rig.write(rig.at(3), 4096, 1), 0);
    ASSERT_TRUE(rig.entry(3).remapped());
    rig.main.extend(rule, rig.at(5), 512);
    const auto first =
        zero ? std::vector<std::byte>(3 * 4096) : pattern(2, 3 * 4096);
    const ConstBytes of_first = first;
    bool met = false;
    rig.main.set_hook([&](const Operation& o) {
      if (met || (o.op != FaultOp::write && o.op != FaultOp::zero)) return;
      met = true;
      EXPECT_TRUE(rig.holds(rig.at(3), of_first.first(4096)));
      EXPECT_EQ(rig.write(rig.at(3), 4096, 9), 0);
    });
    const std::uint64_t failed = rig.main.fired(rule);
    if (zero) {
      ASSERT_EQ(
          told(rig.volume->zero(VolumeOffset{rig.at(3)}, first.size(),
                                ZeroMode::keep_allocated, Durability::cached)),
          0);
    } else {
      ASSERT_EQ(rig.write(rig.at(3), of_first), 0);
    }
    EXPECT_TRUE(met);
    EXPECT_GT(rig.main.fired(rule), failed);
    EXPECT_TRUE(rig.entry(5).remapped());
    EXPECT_TRUE(rig.holds(rig.at(3), 4096, 9));
    EXPECT_TRUE(rig.holds(rig.at(4), of_first.subspan(4096)));
  }
}

TEST(VolumeHeal, a_write_that_fails_once_is_no_reason_to_remap) {
  Rig rig;
  const auto rule = rig.main.add_failing_call(FaultOp::write, EIO);
  ASSERT_EQ(rig.write(0, 8192, 1), 0);
  EXPECT_EQ(rig.main.fired(rule), 1U);
  EXPECT_TRUE(rig.entries().empty());
  EXPECT_TRUE(rig.holds(0, 8192, 1));
}

// Mistake 18, contract C6.
TEST(VolumeHeal, a_partial_write_to_a_bad_block_does_not_invent_the_rest) {
  for (std::uint32_t block_bytes : {4096U, 32768U}) {
    Rig rig({.block_bytes = block_bytes});
    const std::uint64_t last = rig.last_block();
    for (std::uint64_t block : {std::uint64_t{0}, last}) {
      const std::uint64_t at = rig.at(block);
      ASSERT_EQ(rig.write(at, block_bytes, 8), 0);
      const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, block);
      ASSERT_EQ(rig.write(at + 1024, 1024, 9), 0);
      EXPECT_GE(rig.main.fired(rule), 2U);
      EXPECT_EQ(rig.entry(block).valid, 0b1100U);
    }
    for (bool restarted : {false, true}) {
      if (restarted) rig.reopen();
      for (std::uint64_t at : {std::uint64_t{0}, rig.at(last)}) {
        EXPECT_TRUE(rig.holds(at + 1024, 1024, 9));
        EXPECT_EQ(rig.read(at + 512, 512), EIO);
        EXPECT_EQ(rig.read(at + 2048, 512), EIO);
        EXPECT_EQ(rig.read(at + block_bytes - 1, 1), EIO);
        EXPECT_EQ(rig.read(at, block_bytes), EIO);
      }
    }
    // Written sector by sector, it becomes whole.
    for (std::uint64_t s = 0; s < block_bytes / 512; ++s)
      ASSERT_EQ(rig.write(s * 512, 512, 100 + s), 0);
    rig.reopen();
    for (std::uint64_t s = 0; s < block_bytes / 512; ++s)
      EXPECT_TRUE(rig.holds(s * 512, 512, 100 + s)) << s;
    EXPECT_EQ(rig.entries().size(), 2U);
  }
}

TEST(VolumeHeal, the_rest_of_a_block_that_can_be_read_moves_with_it) {
  Rig rig;
  ASSERT_EQ(rig.write(0, 12288, 1), 0);
  const auto whole = pattern(1, 12288);
  const auto rule = rig.spoil(FaultOp::write, 1);
  ASSERT_EQ(rig.write(4096 + 100, 50, 2), 0);  // and less than a sector
  EXPECT_GE(rig.main.fired(rule), 1U);
  auto expected = whole;
  const auto middle = pattern(2, 50);
  std::copy(middle.begin(), middle.end(), expected.begin() + 4196);
  EXPECT_TRUE(rig.holds(0, expected));
  EXPECT_EQ(rig.entry(1).valid, 0xffU);
  // One sector of the next block cannot be read: only that is lost.
  rig.main.add_bad_range(FaultOp::read, 8192 + 512, 512, EIO);
  rig.spoil(FaultOp::write, 2);
  ASSERT_EQ(rig.write(8192 + 2048, 512, 3), 0);
  EXPECT_EQ(rig.entry(2).valid, 0b11111101U);
  const auto sector = pattern(3, 512);
  std::copy(sector.begin(), sector.end(), expected.begin() + 8192 + 2048);
  EXPECT_TRUE(rig.holds(0, ConstBytes(expected).first(8192 + 512)));
  EXPECT_TRUE(rig.holds(8192 + 1024, ConstBytes(expected).subspan(9216)));
  EXPECT_EQ(rig.read(8192 + 512, 512), EIO);
}

// What read-modify-write read before MAIN refused the write is not lost when
// the failing write makes the place unreadable.
TEST(VolumeHeal, a_failing_write_does_not_cost_the_neighbours_read_before_it) {
  Rig rig({.logical = 4096});
  ASSERT_EQ(rig.write(0, 4096, 1), 0);
  auto expected = pattern(1, 4096);
  FaultyBackend::Rule reads = 0;
  rig.main.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::write && reads == 0)
      reads = rig.spoil(FaultOp::read, 0) + 1;
  });
  const auto writes = rig.spoil(FaultOp::write, 0);
  ASSERT_EQ(rig.write(512, 512, 2), 0);
  rig.main.set_hook(nullptr);
  EXPECT_GE(rig.main.fired(writes), 1U);
  ASSERT_NE(reads, 0U);
  EXPECT_EQ(rig.read(0, 4096), 0);
  const auto sector = pattern(2, 512);
  std::copy(sector.begin(), sector.end(), expected.begin() + 512);
  EXPECT_TRUE(rig.holds(0, expected));
}

TEST(VolumeHeal, part_of_an_unreadable_sector_cannot_be_written) {
  Rig rig;
  ASSERT_EQ(rig.write(0, 12288, 1), 0);
  // Unknown yet; pending; in a slot.
  const auto rule = rig.main.add_bad_range(FaultOp::read, 512, 512, EIO);
  rig.main.extend(rule, 4096 + 512, 512);
  rig.main.extend(rule, 8192 + 512, 512);
  ASSERT_EQ(rig.read(4096, 4096), EIO);
  const auto writes = rig.spoil(FaultOp::write, 2);
  ASSERT_EQ(rig.write(8192, 512, 2), 0);
  ASSERT_TRUE(rig.entry(2).remapped());
  ASSERT_FALSE(rig.entry(1).remapped());
  rig.main.remove(writes);
  const auto before = rig.entries();
  ASSERT_EQ(before.size(), 2U);
  for (std::uint64_t block : {0, 1, 2}) {
    EXPECT_EQ(rig.write(rig.at(block) + 600, 10, 3), EIO) << block;
    EXPECT_EQ(rig.write(rig.at(block) + 512, 511, 3), EIO) << block;
    EXPECT_EQ(rig.read(rig.at(block) + 512, 512), EIO) << block;
    EXPECT_TRUE(rig.holds(
        rig.at(block) + 1024,
        ConstBytes(pattern(1, 12288)).subspan(rig.at(block) + 1024, 3072)));
  }
  EXPECT_GE(rig.main.fired(rule), 3U);
  EXPECT_EQ(rig.entry(1), before.at(0));
  EXPECT_EQ(rig.entry(2), before.at(1));
}

// Mistake 22: FUA means the same on both ways.
TEST(VolumeHeal, a_healed_fua_write_leaves_nothing_unflushed) {
  Rig rig;
  ASSERT_EQ(told(rig.volume->flush()), 0);
  rig.spoil(FaultOp::write, 1);
  rig.main.clear_trace();
  ASSERT_EQ(rig.write(0, 12288, 1, Durability::fua), 0);
  ASSERT_EQ(rig.entries().size(), 1U);
  const auto trace = rig.main.trace();
  EXPECT_EQ(trace.back().op, FaultOp::flush) << "the blocks beside the bad one";
  const std::uint64_t flushes =
      rig.main_disk.calls().flush + rig.spare_disk.calls().flush;
  ASSERT_EQ(told(rig.volume->flush()), 0);
  EXPECT_EQ(rig.main_disk.calls().flush + rig.spare_disk.calls().flush, flushes)
      << "nothing was left to flush";
}

}  // namespace
}  // namespace nbd_remap
