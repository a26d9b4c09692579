// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/request_split.hpp"

#include <algorithm>

namespace nbd_remap {
namespace {

void add(std::vector<Piece>& pieces, const Piece& piece) {
  if (!pieces.empty()) {
    Piece& last = pieces.back();
    if (last.place == piece.place &&
        (piece.place == Piece::Place::unreadable ||
         last.device.value + last.length == piece.device.value)) {
      last.length += piece.length;
      return;
    }
  }
  pieces.push_back(piece);
}

void add_entry(std::vector<Piece>& pieces, const RemapEntry& entry,
               const Layout& layout, std::uint64_t from, std::uint64_t to) {
  const std::uint64_t start = entry.block.value * layout.block_bytes;
  for (std::uint64_t at = from; at < to;) {
    const std::uint64_t sector = (at - start) / kSectorBytes;
    const std::uint64_t next =
        std::min(to, start + (sector + 1) * kSectorBytes);
    Piece piece{Piece::Place::unreadable, VolumeOffset{at}, next - at, {}};
    if (entry.valid >> sector & 1) {
      piece.place = entry.remapped() ? Piece::Place::slot : Piece::Place::main;
      piece.device =
          entry.remapped()
              ? DeviceOffset{layout.slot(entry.slot()).value + (at - start)}
              : DeviceOffset{at};
    }
    add(pieces, piece);
    at = next;
  }
}

}  // namespace

std::vector<Piece> split_request(VolumeOffset offset, std::uint64_t length,
                                 const RemapTable& table,
                                 const Layout& layout) {
  std::vector<Piece> pieces;
  const std::uint64_t end = offset.value + length;
  const BlockNo last{(end - 1) / layout.block_bytes + 1};
  for (std::uint64_t at = offset.value; at < end;) {
    const auto entry = table.find_first(BlockNo{at / layout.block_bytes}, last);
    const std::uint64_t clean_end =
        entry ? std::max(at, entry->block.value * layout.block_bytes) : end;
    if (clean_end > at)
      add(pieces, {Piece::Place::clean, VolumeOffset{at}, clean_end - at,
                   DeviceOffset{at}});
    if (!entry) break;
    const std::uint64_t block_end =
        std::min(end, (entry->block.value + 1) * layout.block_bytes);
    add_entry(pieces, *entry, layout, clean_end, block_end);
    at = block_end;
  }
  return pieces;
}

SectorMasks sector_masks(std::uint64_t block_start, std::uint32_t block_bytes,
                         std::uint64_t offset, std::uint64_t end) {
  SectorMasks masks;
  for (std::uint32_t s = 0; s < block_bytes / kSectorBytes; ++s) {
    const std::uint64_t from = block_start + std::uint64_t{s} * kSectorBytes;
    const std::uint64_t to = from + kSectorBytes;
    if (offset < to && from < end) masks.touched |= std::uint64_t{1} << s;
    if (offset <= from && to <= end) masks.covered |= std::uint64_t{1} << s;
  }
  return masks;
}

}  // namespace nbd_remap
