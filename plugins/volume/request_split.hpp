#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Cuts a request into pieces that each lie in one place (contract C7). Pure:
// the answer depends on the request and the table alone.

#include <cstdint>
#include <vector>

#include "plugins/base/units.hpp"
#include "plugins/remap/remap_format.hpp"
#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {

struct Piece {
  enum class Place {
    clean,       // on MAIN, in blocks that the table does not know
    main,        // on MAIN, the readable sectors of a pending block
    slot,        // on SPARE
    unreadable,  // nowhere: reading fails, writing needs care
  };
  Place place = Place::clean;
  VolumeOffset offset;
  std::uint64_t length = 0;
  DeviceOffset device;  // on MAIN or SPARE; unused if unreadable
  friend bool operator==(const Piece&, const Piece&) = default;
};

// Pieces in order, without gap or overlap, each as long as it can be.
// REQUIRES: length > 0; the range lies in the volume.
std::vector<Piece> split_request(VolumeOffset offset, std::uint64_t length,
                                 const RemapTable& table, const Layout& layout);

// Of the block that starts at block_start: the sectors that [offset, end)
// touches, or covers whole.
struct SectorMasks {
  std::uint64_t touched = 0;
  std::uint64_t covered = 0;
};
SectorMasks sector_masks(std::uint64_t block_start, std::uint32_t block_bytes,
                         std::uint64_t offset, std::uint64_t end);

}  // namespace nbd_remap
