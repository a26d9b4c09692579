// SPDX-License-Identifier: BSD-3-Clause
// Zero, trim, extents.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

// Blocks 0, 3 and the last are remapped, 5 is remapped in part (sectors 2 and
// 3), 7 is pending (sector 1), all others clean. Written everywhere with tag 1.
struct MixedRig : Rig {
  explicit MixedRig(const RigOptions& o = {}) : Rig(o) {
    EXPECT_EQ(write(0, options.main_bytes, 1), 0);
    const auto rule = spoil({FaultOp::read, FaultOp::write}, 5);
    for (std::uint64_t block :
         {std::uint64_t{0}, std::uint64_t{3}, last_block()})
      EXPECT_EQ(rewrite_bad(block), 0);
    EXPECT_EQ(write(at(5) + 1024, ConstBytes(all).subspan(at(5) + 1024, 1024)),
              0);
    const auto reads = main.add_bad_range(FaultOp::read, at(7) + 512, 512, EIO,
                                          {.heal_on_write = true});
    EXPECT_EQ(read(at(7), options.block_bytes), EIO);
    EXPECT_GE(main.fired(rule), 1U);
    EXPECT_GE(main.fired(reads), 1U);
    EXPECT_EQ(entries().size(), 5U);
  }
  int rewrite_bad(std::uint64_t block) {
    const auto rule = spoil({FaultOp::read, FaultOp::write}, block);
    const int answer = write(
        at(block), ConstBytes(all).subspan(at(block), options.block_bytes));
    EXPECT_GE(main.fired(rule), 1U);
    return answer;
  }
  int zero(std::uint64_t offset, std::uint64_t length,
           ZeroMode mode = ZeroMode::may_punch,
           Durability durability = Durability::cached) {
    return told(volume->zero(VolumeOffset{offset}, length, mode, durability));
  }
  int trim(std::uint64_t offset, std::uint64_t length) {
    return told(volume->trim(VolumeOffset{offset}, length, Durability::cached));
  }
  bool unchanged(std::uint64_t offset, std::uint64_t length) {
    return holds(offset, ConstBytes(all).subspan(offset, length));
  }
  const std::vector<std::byte> all = pattern(1, options.main_bytes);
};

TEST(VolumeZero, reads_back_as_zeroes_wherever_the_range_lives) {
  for (std::uint32_t logical : {512U, 4096U})
    for (ZeroMode mode : {ZeroMode::may_punch, ZeroMode::keep_allocated})
      for (Durability durability : {Durability::cached, Durability::fua}) {
        MixedRig rig({.logical = logical});
        ASSERT_EQ(rig.zero(0, rig.at(9), mode, durability), 0);
        EXPECT_TRUE(rig.zeroes(0, rig.at(9)));
        EXPECT_TRUE(rig.unchanged(rig.at(9), 4096));
        ASSERT_EQ(rig.zero(rig.at(rig.last_block()), 4096, mode, durability),
                  0);
        rig.reopen();
        EXPECT_TRUE(rig.zeroes(0, rig.at(9))) << "and after a restart";
        EXPECT_TRUE(rig.zeroes(rig.at(rig.last_block()), 4096));
        EXPECT_GE(rig.entries().size(), 4U) << "no mapping is dropped for it";
      }
}

TEST(VolumeZero, touches_no_byte_outside_the_range) {
  for (std::uint32_t logical : {512U, 4096U})
    for (std::uint64_t block : {0, 1, 3}) {
      MixedRig rig({.logical = logical});
      const std::uint64_t from = rig.at(block) + 513;
      ASSERT_EQ(rig.zero(from, 5000), 0);
      EXPECT_TRUE(rig.zeroes(from, 5000));
      EXPECT_TRUE(rig.unchanged(rig.at(block), 513));
      EXPECT_TRUE(rig.unchanged(from + 5000, rig.at(block + 2) - from - 5000));
      ASSERT_EQ(rig.zero(rig.at(block) + 7, 1), 0);
      EXPECT_TRUE(rig.zeroes(rig.at(block) + 7, 1));
      EXPECT_TRUE(rig.unchanged(rig.at(block) + 8, 505));
    }
}

TEST(VolumeZero, makes_unreadable_sectors_readable_again) {
  MixedRig rig;
  ASSERT_EQ(rig.read(rig.at(7) + 512, 512), EIO);
  ASSERT_EQ(rig.read(rig.at(5), 512), EIO);
  ASSERT_EQ(rig.zero(rig.at(5), 3 * 4096), 0);
  EXPECT_TRUE(rig.zeroes(rig.at(5), 3 * 4096));
  EXPECT_EQ(rig.zero(rig.at(9) + 512, 1), 0);
}

// The readable sectors beside an unreadable one are no whole logical blocks.
TEST(VolumeZero, of_a_block_with_unreadable_sectors_keeps_to_logical_blocks) {
  MixedRig rig({.logical = 4096});
  ASSERT_EQ(rig.zero(rig.at(7), 4096), 0);
  EXPECT_TRUE(rig.zeroes(rig.at(7), 4096));
  ASSERT_EQ(rig.zero(rig.at(4), 5 * 4096), 0);
  EXPECT_TRUE(rig.zeroes(rig.at(4), 5 * 4096));
}

TEST(VolumeZero, that_main_refuses_is_healed) {
  MixedRig rig;
  const auto rule =
      rig.spoil({FaultOp::write, FaultOp::zero, FaultOp::read}, 20, 3);
  ASSERT_EQ(rig.zero(rig.at(19), 5 * 4096), 0);
  EXPECT_GE(rig.main.fired(rule), 1U);
  EXPECT_EQ(rig.entries().size(), 5U + 3);
  EXPECT_TRUE(rig.zeroes(rig.at(19), 5 * 4096));
}

TEST(VolumeZero, a_slot_stays_allocated) {
  MixedRig rig;
  rig.spare.clear_trace();
  ASSERT_EQ(rig.zero(rig.at(3), 4096), 0);
  const auto extent = rig.spare_disk.extent(
      DeviceOffset{rig.slot(rig.entry(3).slot_or_none)}, 4096);
  ASSERT_TRUE(extent);
  EXPECT_EQ(extent->length, 4096U);
  EXPECT_FALSE(extent->hole);
}

TEST(VolumeZero, a_fast_one_is_refused_with_nothing_changed_unless_fast) {
  MixedRig rig;
  ASSERT_TRUE(rig.volume->can_fast_zero());
  EXPECT_EQ(rig.zero(rig.at(10), 8192, ZeroMode::fast_only), 0);
  EXPECT_TRUE(rig.zeroes(rig.at(10), 8192));
  rig.main.clear_trace();
  rig.spare.clear_trace();
  struct Range {
    std::uint64_t offset, length;
  };
  for (const Range& r :
       {Range{0, 4096}, Range{rig.at(2), 8192}, Range{rig.at(7), 4096},
        Range{rig.at(12) + 1, 4096}, Range{rig.at(12), 4095}})
    EXPECT_EQ(rig.zero(r.offset, r.length, ZeroMode::fast_only), ENOTSUP);
  EXPECT_TRUE(rig.main.trace().empty());
  EXPECT_TRUE(rig.spare.trace().empty());
  EXPECT_TRUE(rig.unchanged(rig.at(12), 8192));
  EXPECT_TRUE(rig.unchanged(0, 4096));
}

TEST(VolumeTrim, leaves_neighbours_and_remapped_blocks_alone) {
  for (std::uint32_t logical : {512U, 4096U}) {
    MixedRig rig({.logical = logical});
    const auto before = rig.entries();
    ASSERT_EQ(rig.trim(100, rig.at(12)), 0);
    EXPECT_TRUE(rig.unchanged(0, 4096)) << "remapped";
    EXPECT_TRUE(rig.unchanged(rig.at(3), 4096)) << "remapped";
    EXPECT_TRUE(rig.unchanged(rig.at(5) + 1024, 1024));
    EXPECT_EQ(rig.read(rig.at(5), 512), EIO) << "still unreadable";
    EXPECT_EQ(rig.read(rig.at(7) + 512, 512), EIO);
    EXPECT_TRUE(rig.unchanged(rig.at(12) + 512, 4096 - 512));
    EXPECT_TRUE(rig.unchanged(rig.at(13), 4096));
    EXPECT_EQ(rig.entries(), before);
    EXPECT_TRUE(rig.zeroes(rig.at(1), 8192)) << "what this fake makes of it";
    // Less than a sector cannot be trimmed.
    ASSERT_EQ(rig.trim(rig.at(13) + 1, 510), 0);
    EXPECT_TRUE(rig.unchanged(rig.at(13), 4096));
    rig.reopen();
    EXPECT_TRUE(rig.unchanged(rig.at(3), 4096));
  }
}

// Contract C8.
TEST(VolumeExtents, a_remapped_block_is_data_even_where_main_has_a_hole) {
  Rig rig;  // MAIN was never written: one hole
  for (std::uint64_t block : {std::uint64_t{0}, std::uint64_t{3},
                              std::uint64_t{4}, rig.last_block()}) {
    rig.spoil({FaultOp::read, FaultOp::write}, block);
    ASSERT_EQ(rig.write(rig.at(block), 4096, 1), 0);
  }
  rig.main.add_bad_range(FaultOp::read, rig.at(8), 512, EIO);
  ASSERT_EQ(rig.read(rig.at(8), 4096), EIO);
  ASSERT_EQ(rig.entries().size(), 5U);
  ASSERT_GE(rig.main.fired(), 5U);
  for (std::uint64_t offset : {0, 1, 4096, 5000, 12288, 40000})
    for (std::uint64_t length :
         {std::uint64_t{1}, std::uint64_t{100}, std::uint64_t{20'000},
          rig.volume->size() - offset}) {
      const std::uint64_t end = offset + length;
      std::uint64_t at = offset;
      bool hole_seen = false;
      bool hole_before = false;
      while (at < end) {
        const auto extent = rig.volume->extent(VolumeOffset{at}, end - at);
        ASSERT_TRUE(extent);
        ASSERT_GT(extent->length, 0U);
        ASSERT_LE(extent->length, end - at) << "beyond what was asked for";
        EXPECT_TRUE(at == offset || extent->hole != hole_before)
            << "cut where nothing changes";
        hole_before = extent->hole;
        hole_seen |= extent->hole;
        if (extent->hole || extent->zeroes) {
          for (std::uint64_t block : {std::uint64_t{0}, std::uint64_t{3},
                                      std::uint64_t{8}, rig.last_block()})
            EXPECT_FALSE(at < rig.at(block + 1) &&
                         rig.at(block) < at + extent->length)
                << "block " << block << " is called a hole";
        }
        at += extent->length;
      }
      if (length == 20'000) {
        EXPECT_TRUE(hole_seen) << "no answer at all";
      }
    }
}

TEST(VolumeExtents, an_answer_that_reaches_too_far_is_clamped) {
  // MAIN says more than it was asked for, as a hostile server may.
  class Boaster final : public Backend {
   public:
    const BackendInfo& info() const override { return disk_.info(); }
    Status read(DeviceOffset o, Bytes b) override { return disk_.read(o, b); }
    Status write(DeviceOffset o, ConstBytes d, Durability f) override {
      return disk_.write(o, d, f);
    }
    Status zero(DeviceOffset o, std::uint64_t n, ZeroMode m,
                Durability d) override {
      return disk_.zero(o, n, m, d);
    }
    Status trim(DeviceOffset o, std::uint64_t n) override {
      return disk_.trim(o, n);
    }
    Result<Extent> extent(DeviceOffset, std::uint64_t) override {
      return answer;
    }
    Status cache(DeviceOffset, std::uint64_t) override { return {}; }
    Status flush() override { return {}; }
    Extent answer;

   private:
    MemoryBackend disk_{4 << 20};
  };
  Boaster main;
  MemoryBackend spare(spare_bytes_for(10, 4096));
  format_for(spare, main, 4096);
  SystemClock clock;
  const auto volume =
      open_volume(main, spare, {}, clock, [](LogLevel, std::string_view) {});
  const std::uint64_t far = ~std::uint64_t{0};
  const auto told = [&](Extent answer) {
    main.answer = answer;
    const auto extent = volume->extent(VolumeOffset{1000}, 5000);
    EXPECT_TRUE(extent);
    return *extent;
  };
  for (const std::uint64_t length : {std::uint64_t{5001}, far}) {
    const Extent extent = told({length, true, true});
    EXPECT_EQ(extent.length, 5000U);
    EXPECT_TRUE(extent.hole && extent.zeroes);
  }
  EXPECT_EQ(told({1, true, true}).length, 1U);
  // Of nothing nothing is known.
  const Extent none = told({0, true, true});
  EXPECT_EQ(none.length, 5000U);
  EXPECT_FALSE(none.hole || none.zeroes);
}

}  // namespace
}  // namespace nbd_remap
