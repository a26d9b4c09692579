#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The regions of a volume folded to so many cells, each with its worst state.
// Pure.

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "plugins/remap/remap_table.hpp"
#include "plugins/scanner/scan_state.hpp"

namespace nbd_remap {

// From best to worst.
enum class CellState {
  unknown,   // not scanned as a whole yet, and nothing was met there
  good,      // scanned, nothing was met
  remapped,  // blocks are on SPARE
  errors,    // had errors or retries; all can be read now
  suspect,   // MAIN reads blocks with trouble
  pending,   // sectors cannot be read
};
std::string_view cell_state_name(CellState state);

struct Cell {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  CellState state = CellState::unknown;  // the worst region's
  std::uint64_t errors = 0;
  std::uint64_t retries = 0;
  std::uint64_t suspects = 0;
  std::uint64_t pending = 0;
  std::uint64_t remapped = 0;
  std::uint64_t scanned_at = 0;  // of the region scanned longest ago; 0: never
  std::uint32_t slowest_us = 0;
  std::uint32_t mean_us = 0;  // the greatest of its regions
};

// cells: at least 1; fewer come back if there are fewer regions. next: the
// entry of the map from this block on.
std::vector<Cell> fold_regions(
    const ScanState& state, std::uint64_t size, std::uint32_t block_bytes,
    std::size_t cells,
    const std::function<std::optional<RemapEntry>(BlockNo)>& next);

}  // namespace nbd_remap
