// SPDX-License-Identifier: BSD-3-Clause
// What is kept of each region, and how cells show it.
#include <gtest/gtest.h>

#include "plugins/scanner/scan_cells.hpp"
#include "tests/unit/scan_fixture.hpp"

namespace nbd_remap {
namespace {

using namespace scan_fixture;  // NOLINT: this file is about it

using ScannerCells = ScanRig;

TEST_F(ScannerCells, cells_show_the_worst_of_their_regions) {
  make();
  volume.bad = {10};
  volume.remapped = {20'000};
  ScanOptions options;
  options.rescue = Rescue::off;
  make(options);
  volume.flaky = {40'000};
  start("range:0+200M");
  run();
  const auto next = [&](BlockNo from) -> std::optional<RemapEntry> {
    const auto p = volume.pending.lower_bound(from.value);
    const auto r = volume.remapped.lower_bound(from.value);
    if (p != volume.pending.end() && (r == volume.remapped.end() || *p < *r))
      return RemapEntry{BlockNo{*p}, RemapEntry::kNoSlot, 0};
    if (r == volume.remapped.end()) return std::nullopt;
    return RemapEntry{BlockNo{*r}, 1, 0xff};
  };
  for (const std::size_t n : {1U, 4U, 7U, 2048U, 100'000U}) {
    const auto cells = fold_regions(state(), volume.size(), kBlock, n, next);
    ASSERT_EQ(cells.size(), std::min<std::size_t>(n, kRegions));
    std::uint64_t at = 0, pending = 0, remapped = 0, suspects = 0;
    for (const Cell& cell : cells) {
      EXPECT_EQ(cell.offset, at);
      at += cell.length;
      pending += cell.pending;
      remapped += cell.remapped;
      suspects += cell.suspects;
    }
    EXPECT_EQ(at, volume.size());
    EXPECT_EQ(pending, 1U);
    EXPECT_EQ(remapped, 1U);
    EXPECT_EQ(suspects, 1U);
    EXPECT_EQ(cells.front().state, CellState::pending);
    if (n == 4) {
      EXPECT_EQ(cells[1].state, CellState::remapped);
      EXPECT_EQ(cells[2].state, CellState::suspect);
      EXPECT_EQ(cells[3].scanned_at, 0U) << "a part was not scanned";
    }
    if (n == 2048) {
      EXPECT_EQ(cells[1].state, CellState::good);
      EXPECT_EQ(cells.back().state, CellState::unknown);
    }
  }
}

// A region of the larger volume is as many of the old ones as it holds.
TEST_F(ScannerCells, errors_stay_where_they_were_when_the_volume_grows) {
  make();
  ScanState before = state();
  const std::uint64_t at = 100 * kMiB;
  for (const std::uint64_t i : {0U, 1U})
    before.regions[at / region_bytes_for(before.size) + i].errors = 3;
  before.regions[0].scanned_at = 7;
  const std::uint64_t larger = 8 * before.size;
  const auto after = unpack_scan_state(pack_scan_state(before), larger, kBlock);
  ASSERT_TRUE(after);
  EXPECT_EQ(after->regions[at / region_bytes_for(larger)].errors, 6U);
  EXPECT_EQ(after->regions[0].scanned_at, 0U) << "not as a whole";
  std::uint64_t all = 0;
  for (const RegionRecord& r : after->regions) all += r.errors;
  EXPECT_EQ(all, 6U);
}

TEST_F(ScannerCells, an_error_that_a_client_met_counts_once) {
  make();
  volume.counts().count(VolumeOffset{5 * kMiB}, RegionCounts::error);
  volume.counts().count(VolumeOffset{5 * kMiB}, RegionCounts::retry);
  const std::size_t region = 5 * kMiB / region_bytes_for(volume.size());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(state().regions[region].errors, 1U) << "however often asked";
    EXPECT_EQ(state().regions[region].retries, 1U);
  }
  // The next server counts from nothing, and adds.
  make({}, state());
  volume.counts().count(VolumeOffset{5 * kMiB}, RegionCounts::error);
  EXPECT_EQ(state().regions[region].errors, 3U)
      << "this volume still has what the last server counted";
}

}  // namespace
}  // namespace nbd_remap
