// SPDX-License-Identifier: BSD-3-Clause
// The layout of a SPARE that is enlarged: no slot moves, nothing overlaps.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

// Metadata and slots as ranges of bytes.
using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

Ranges metadata_of(const Layout& l) {
  Ranges out;
  for (CopyIndex c : kCopies) {
    const std::uint64_t sb = l.superblock(c).value;
    out.push_back({sb, sb + kSuperblockPlaceBytes});
    out.push_back({l.checkpoint(c, 0).value, l.record(c, l.log_records).value});
  }
  return out;
}

void expect_sane(const Layout& l) {
  Ranges all = metadata_of(l);
  std::uint64_t count = 0;
  for (std::uint64_t n = 0; n < l.slot_end(); ++n) {
    if (!l.has_slot(SlotNo{n})) continue;
    ++count;
    const std::uint64_t at = l.slot(SlotNo{n}).value;
    all.push_back({at, at + l.block_bytes});
  }
  EXPECT_EQ(count, l.slots);
  EXPECT_FALSE(l.has_slot(SlotNo{l.slot_end()}));
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all.front().first, 0U);
  EXPECT_LE(all.back().second, l.spare_bytes);
  for (std::size_t i = 1; i < all.size(); ++i)
    ASSERT_LE(all[i - 1].second, all[i].first) << "overlap, mistake 3";
  EXPECT_TRUE(is_possible(l));
}

TEST(RemapGrow, a_grown_layout_keeps_every_slot_where_it_is) {
  for (const std::uint32_t block : {4096U, 8192U, 32768U}) {
    std::mt19937_64 random(block);
    auto layout = compute_layout(spare_bytes_for(64, block), block);
    ASSERT_TRUE(layout);
    expect_sane(*layout);
    for (int times = 0; times < 6; ++times) {
      SCOPED_TRACE(testing::Message() << block << ", growth " << times);
      const std::uint64_t least = least_grown_bytes(*layout);
      EXPECT_FALSE(grow_layout(*layout, least - 1));
      const std::uint64_t bytes = least + random() % (4 * kMiB);
      const auto grown = grow_layout(*layout, bytes);
      ASSERT_TRUE(grown);
      expect_sane(*grown);
      EXPECT_GT(grown->slots, layout->slots);
      EXPECT_TRUE(grown->grown());
      for (std::uint64_t n = 0; n < layout->slot_end(); ++n)
        if (layout->has_slot(SlotNo{n})) {
          ASSERT_TRUE(grown->has_slot(SlotNo{n}));
          ASSERT_EQ(grown->slot(SlotNo{n}), layout->slot(SlotNo{n}));
        }
      // Neither copy touches anything that the old layout used.
      for (CopyIndex c : kCopies)
        EXPECT_GE(grown->checkpoint(c, 0).value, layout->spare_bytes);
      // All that is left unused is the first head copy, of 64 records and the
      // least checkpoints, and what does not fill a slot beside a copy.
      const auto fresh = compute_layout(bytes, block);
      EXPECT_GE(grown->slots + 64 + 16, fresh->slots);
      layout = grown;
    }
    EXPECT_FALSE(grow_layout(*layout, layout->spare_bytes));
    EXPECT_FALSE(grow_layout(*layout, layout->spare_bytes - block));
  }
}

TEST(RemapGrow, the_superblock_of_a_grown_spare_says_so_in_a_feature_bit) {
  Superblock sb;
  sb.main_bytes = kMainBytes;
  sb.layout = *grow_layout(*compute_layout(kMiB, 4096), 4 * kMiB);
  AlignedBuffer bytes(kSuperblockBytes);
  pack_superblock(sb, bytes.bytes());
  EXPECT_EQ(bytes.data()[32], std::byte{1}) << "an older build must refuse";
  const auto back = unpack_superblock(bytes.bytes());
  ASSERT_TRUE(back) << back.error().text();
  EXPECT_EQ(back->layout, sb.layout);
  EXPECT_EQ(back->growing_to_bytes, 0U);
  // Places that do not follow are refused, however they are sealed.
  for (std::uint64_t at : {sb.layout.head_at + 4096, sb.layout.slots_at,
                           std::uint64_t{0}, ~std::uint64_t{0}}) {
    Superblock other = sb;
    other.layout.head_at = at;
    pack_superblock(other, bytes.bytes());
    EXPECT_FALSE(unpack_superblock(bytes.bytes())) << at;
  }
  sb.layout = *compute_layout(kMiB, 4096);
  sb.growing_to_bytes = sb.layout.spare_bytes - 1;
  pack_superblock(sb, bytes.bytes());
  EXPECT_FALSE(unpack_superblock(bytes.bytes()));
}

}  // namespace
}  // namespace nbd_remap
