// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/request_split.hpp"

#include <gtest/gtest.h>

#include <random>

namespace nbd_remap {
namespace {

using Place = Piece::Place;
constexpr std::uint64_t kBlock = 4096;

Layout layout_of(std::uint32_t block_bytes) {
  return compute_layout(spare_bytes_for(300, block_bytes), block_bytes).value();
}

RemapEntry entry(std::uint64_t block, std::uint64_t slot, std::uint64_t valid) {
  return {BlockNo{block}, slot, valid};
}

class RequestSplit : public testing::Test {
 protected:
  RequestSplit() {
    // Mistake 19: the first and the last block and slot are in use.
    table_.load({entry(0, 0, 0xff), entry(1, 1, 0xff), entry(2, 7, 0x0f),
                 entry(4, RemapEntry::kNoSlot, 0xfe),
                 entry(5, RemapEntry::kNoSlot, 0x7f),
                 entry(9, layout_.slots - 1, 0xff)});
  }
  std::uint64_t slot(std::uint64_t n) const {
    return layout_.slot(SlotNo{n}).value;
  }
  std::vector<Piece> split(std::uint64_t offset, std::uint64_t length) const {
    return split_request(VolumeOffset{offset}, length, table_, layout_);
  }
  const Layout layout_ = layout_of(kBlock);
  RemapTable table_{10};
};

TEST_F(RequestSplit, each_request_goes_where_its_sectors_live) {
  struct Case {
    std::uint64_t offset, length;
    std::vector<Piece> pieces;
  };
  auto piece = [](Place place, std::uint64_t offset, std::uint64_t length,
                  std::uint64_t device) {
    return Piece{place, VolumeOffset{offset}, length, DeviceOffset{device}};
  };
  const std::vector<Case> cases{
      // One byte, in each kind of place.
      {0, 1, {piece(Place::slot, 0, 1, slot(0))}},
      {4095, 1, {piece(Place::slot, 4095, 1, slot(0) + 4095)}},
      {12288, 1, {piece(Place::clean, 12288, 1, 12288)}},
      {16384, 1, {piece(Place::unreadable, 16384, 1, 0)}},
      {16896, 1, {piece(Place::main, 16896, 1, 16896)}},
      {40959,
       1,
       {piece(Place::slot, 40959, 1, slot(layout_.slots - 1) + 4095)}},
      // Slots that are neighbours are one piece.
      {0, 8192, {piece(Place::slot, 0, 8192, slot(0))}},
      {100, 8092, {piece(Place::slot, 100, 8092, slot(0) + 100)}},
      // Half a slot, then unreadable, then clean.
      {4096,
       12288,
       {piece(Place::slot, 4096, 4096, slot(1)),
        piece(Place::slot, 8192, 2048, slot(7)),
        piece(Place::unreadable, 10240, 2048, 0),
        piece(Place::clean, 12288, 4096, 12288)}},
      // Two pending blocks: readable sectors on MAIN, across the border.
      {16384,
       8192,
       {piece(Place::unreadable, 16384, 512, 0),
        piece(Place::main, 16896, 7168, 16896),
        piece(Place::unreadable, 24064, 512, 0)}},
      // Nothing known between.
      {24576, 12288, {piece(Place::clean, 24576, 12288, 24576)}},
      {24577,
       13000,
       {piece(Place::clean, 24577, 12287, 24577),
        piece(Place::slot, 36864, 713, slot(layout_.slots - 1))}},
  };
  for (const Case& c : cases)
    EXPECT_EQ(split(c.offset, c.length), c.pieces)
        << c.length << " at " << c.offset;
}

// Mistake 5.
TEST(RequestSplitRandom, pieces_cover_the_request_and_are_as_long_as_can_be) {
  for (std::uint32_t block : {4096U, 16384U, 32768U}) {
    const Layout layout = layout_of(block);
    const std::uint64_t sectors = block / kSectorBytes;
    std::mt19937_64 random(block);
    for (int round = 0; round < 40; ++round) {
      constexpr std::uint64_t kBlocks = 200;
      std::vector<RemapEntry> entries;
      std::uint64_t next_slot = random() % 50;
      for (std::uint64_t b = 0; b < kBlocks; ++b) {
        if (random() % 3 == 0) continue;
        RemapEntry e = entry(b, RemapEntry::kNoSlot, random());
        if (random() % 4 == 0) e.valid = ~std::uint64_t{0};
        e.valid &= ~std::uint64_t{0} >> (64 - sectors);
        if (random() % 3 != 0) e.slot_or_none = next_slot++;
        if (random() % 5 == 0) ++next_slot;
        entries.push_back(e);
      }
      RemapTable table(kBlocks);
      table.load(entries);
      ASSERT_GT(table.remapped_count(), 0U);
      ASSERT_GT(table.pending_count(), 0U);
      auto where = [&](std::uint64_t byte) {
        for (const RemapEntry& e : entries) {
          if (e.block.value != byte / block) continue;
          const std::uint64_t in_block = byte % block;
          if (!(e.valid >> (in_block / kSectorBytes) & 1))
            return std::pair(Place::unreadable, std::uint64_t{0});
          if (!e.remapped()) return std::pair(Place::main, byte);
          return std::pair(Place::slot, layout.slot(e.slot()).value + in_block);
        }
        return std::pair(Place::clean, byte);
      };
      for (int i = 0; i < 100; ++i) {
        const std::uint64_t size = kBlocks * block;
        const std::uint64_t from = random() % size;
        const std::uint64_t length =
            1 + random() %
                    std::min(size - from, std::uint64_t{1} << (random() % 20));
        const auto pieces =
            split_request(VolumeOffset{from}, length, table, layout);
        std::uint64_t at = from;
        for (std::size_t p = 0; p < pieces.size(); ++p) {
          const Piece& piece = pieces[p];
          ASSERT_EQ(piece.offset.value, at);
          ASSERT_GT(piece.length, 0U);
          for (std::uint64_t b = at; b < at + piece.length;
               b = std::min(round_down(b, kSectorBytes) + kSectorBytes,
                            at + piece.length)) {
            const auto [place, device] = where(b);
            ASSERT_EQ(piece.place, place) << "byte " << b;
            if (place == Place::unreadable) continue;
            ASSERT_EQ(piece.device.value + (b - at), device) << "byte " << b;
          }
          at += piece.length;
          if (p == 0) continue;
          const Piece& last = pieces[p - 1];
          ASSERT_FALSE(last.place == piece.place &&
                       (piece.place == Place::unreadable ||
                        last.device.value + last.length == piece.device.value))
              << "two pieces that are one at " << piece.offset.value;
        }
        ASSERT_EQ(at, from + length);
      }
    }
  }
}

TEST(SectorMasks, touched_and_covered_agree_with_counting_bytes) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 5000; ++i) {
    const std::uint32_t block = 4096U << (random() % 4);
    const std::uint64_t start = random() % 5 * block;
    const std::uint64_t from = random() % (7 * block);
    const std::uint64_t to = from + 1 + random() % (2 * block);
    const SectorMasks masks = sector_masks(start, block, from, to);
    for (std::uint64_t s = 0; s < block / kSectorBytes; ++s) {
      const std::uint64_t begin = start + s * kSectorBytes;
      std::uint64_t bytes = 0;
      for (std::uint64_t b = begin; b < begin + kSectorBytes; ++b)
        bytes += b >= from && b < to;
      EXPECT_EQ(masks.touched >> s & 1, bytes > 0 ? 1U : 0U);
      EXPECT_EQ(masks.covered >> s & 1, bytes == kSectorBytes ? 1U : 0U);
    }
  }
}

}  // namespace
}  // namespace nbd_remap
