// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/units.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

TEST(Units, a_sum_that_does_not_fit_is_no_sum) {
  EXPECT_EQ(checked_add(1, 2), 3U);
  EXPECT_EQ(checked_add(kMost, 0), kMost);
  EXPECT_EQ(checked_add(kMost, 1), std::nullopt);
  EXPECT_EQ(checked_add(kMost - 511, 512), std::nullopt);
  EXPECT_EQ(checked_add(kMost - 512, 512), kMost);
}

TEST(Units, rounding_goes_to_the_nearest_multiple_on_its_side) {
  EXPECT_EQ(round_down(0, 512), 0U);
  EXPECT_EQ(round_down(511, 512), 0U);
  EXPECT_EQ(round_down(512, 512), 512U);
  EXPECT_EQ(round_up(0, 512), 0U);
  EXPECT_EQ(round_up(1, 512), 512U);
  EXPECT_EQ(round_up(512, 512), 512U);
  EXPECT_EQ(round_down(kMost, 4096), kMost - 4095);
  EXPECT_EQ(round_up(7, 1), 7U);
}

TEST(Units, powers_of_two_are_told_from_others) {
  EXPECT_FALSE(is_power_of_two(0));
  EXPECT_TRUE(is_power_of_two(1));
  EXPECT_TRUE(is_power_of_two(4096));
  EXPECT_FALSE(is_power_of_two(4097));
  EXPECT_TRUE(is_power_of_two(std::uint64_t{1} << 63U));
}

TEST(Units, a_place_on_the_volume_is_not_a_place_on_a_device) {
  static_assert(!std::is_convertible_v<VolumeOffset, DeviceOffset>);
  static_assert(!std::is_convertible_v<std::uint64_t, DeviceOffset>);
  EXPECT_LT(SlotNo{0}, SlotNo{1});
  EXPECT_EQ(std::hash<BlockNo>{}(BlockNo{9}), std::hash<BlockNo>{}(BlockNo{9}));
}

TEST(Units, a_validity_mask_has_a_bit_for_each_sector_of_the_largest_block) {
  EXPECT_EQ(kMaxBlockBytes / kSectorBytes, 64U);
}

}  // namespace
}  // namespace nbd_remap
