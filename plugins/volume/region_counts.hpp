#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// RegionCounts: where on the volume clients met errors since the start, in a
// fixed number of regions whatever the size. Counted where a request failed
// already, never on the way of one that did not.
//
// Threads  any, at once.

#include <array>
#include <atomic>
#include <cstdint>

#include "plugins/base/units.hpp"

namespace nbd_remap {

inline constexpr std::size_t kRegions = 2048;

// Whole blocks of any size; the last regions of a small volume are unused.
constexpr std::uint64_t region_bytes_for(std::uint64_t volume_bytes) {
  const std::uint64_t least = (volume_bytes + kRegions - 1) / kRegions;
  return round_up(least == 0 ? 1 : least, kMaxBlockBytes);
}

class RegionCounts {
 public:
  enum Kind { error, retry };

  explicit RegionCounts(std::uint64_t volume_bytes)
      : region_bytes_(region_bytes_for(volume_bytes)) {}

  // What was added by growing counts in the last region until a restart.
  void count(VolumeOffset at, Kind kind) {
    const std::uint64_t i = at.value / region_bytes_;
    counts_[kind][i < kRegions ? i : kRegions - 1].fetch_add(
        1, std::memory_order_relaxed);
  }
  std::uint32_t of(std::size_t region, Kind kind) const {
    return counts_[kind][region].load(std::memory_order_relaxed);
  }
  std::uint64_t region_bytes() const { return region_bytes_; }

 private:
  const std::uint64_t region_bytes_;
  std::array<std::array<std::atomic<std::uint32_t>, kRegions>, 2> counts_{};
};

}  // namespace nbd_remap
