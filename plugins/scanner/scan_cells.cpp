// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/scanner/scan_cells.hpp"

#include <algorithm>

namespace nbd_remap {

std::string_view cell_state_name(CellState state) {
  switch (state) {
    case CellState::unknown:
      return "unknown";
    case CellState::good:
      return "good";
    case CellState::remapped:
      return "remapped";
    case CellState::errors:
      return "errors";
    case CellState::suspect:
      return "suspect";
    case CellState::pending:
      return "pending";
  }
  return "unknown";
}

std::vector<Cell> fold_regions(
    const ScanState& state, std::uint64_t size, std::uint32_t block_bytes,
    std::size_t cells,
    const std::function<std::optional<RemapEntry>(BlockNo)>& next) {
  const std::uint64_t region = region_bytes_for(size);
  const std::size_t regions = (size + region - 1) / region;
  cells = std::clamp<std::size_t>(cells, 1, regions);
  std::vector<Cell> out(cells);
  const auto cell_of = [&](std::size_t r) { return r * cells / regions; };
  const auto cell_at = [&](BlockNo block) -> Cell& {
    return out[cell_of(std::min<std::size_t>(block.value * block_bytes / region,
                                             regions - 1))];
  };
  const auto worsen = [](Cell& cell, CellState to) {
    cell.state = std::max(cell.state, to);
  };
  std::vector<bool> whole(cells, true);
  for (std::size_t r = 0; r < regions; ++r) {
    const RegionRecord& record = state.regions[r];
    const std::size_t i = cell_of(r);
    Cell& cell = out[i];
    if (cell.length == 0) cell.offset = r * region;
    cell.length = std::min((r + 1) * region, size) - cell.offset;
    cell.errors += record.errors;
    cell.retries += record.retries;
    if (record.scanned_at == 0) whole[i] = false;
    cell.scanned_at = cell.scanned_at == 0
                          ? record.scanned_at
                          : std::min(cell.scanned_at, record.scanned_at);
    cell.slowest_us = std::max(cell.slowest_us, record.slowest_us);
    cell.mean_us = std::max(cell.mean_us, record.mean_us);
  }
  for (std::size_t i = 0; i < cells; ++i) {
    if (!whole[i]) out[i].scanned_at = 0;
    if (whole[i]) worsen(out[i], CellState::good);
    if (out[i].errors + out[i].retries != 0) worsen(out[i], CellState::errors);
  }
  for (const auto& [block, watch] : state.watches) {
    if (!watch.suspect) continue;
    Cell& cell = cell_at(block);
    ++cell.suspects;
    worsen(cell, CellState::suspect);
  }
  for (auto e = next(BlockNo{0}); e; e = next(BlockNo{e->block.value + 1})) {
    Cell& cell = cell_at(e->block);
    ++(e->remapped() ? cell.remapped : cell.pending);
    worsen(cell, e->remapped() ? CellState::remapped : CellState::pending);
  }
  return out;
}

}  // namespace nbd_remap
