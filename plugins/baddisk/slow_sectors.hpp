#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SlowSectors: which sectors answer late, and how late. No waiting here.
//
// Units    sectors of 512 bytes; offset and length of a request in bytes.
// Errors   class caller, with nothing changed: a range beyond the disk, more
//          separate ranges than are remembered.
// Threads  all methods: any, at once.

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "plugins/baddisk/bad_list.hpp"
#include "plugins/baddisk/bad_sectors.hpp"
#include "plugins/baddisk/sector_map.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/base/result.hpp"

namespace nbd_remap {

class SlowSectors {
 public:
  static constexpr std::uint64_t kMaxDelayMs = 600'000;

  struct Run {
    std::uint64_t start = 0;
    std::uint64_t count = 0;
    BadMode mode = BadMode::both;
    std::uint64_t delay_ms = 0;

    friend bool operator==(const Run&, const Run&) = default;
  };
  struct Status {
    std::vector<Run> runs;    // the first `limit` of them
    std::uint64_t fired = 0;  // requests delayed
  };

  explicit SlowSectors(std::uint64_t size_sectors) : size_(size_sectors) {}

  // Replaces what was said of these sectors before; 0 makes them fast. A range
  // that says no mode gets `mode`.
  nbd_remap::Status set(std::span<const BadRange> ranges, BadMode mode,
                        std::uint64_t delay_ms);
  // The longest of the sectors that the request touches, counting it.
  std::chrono::milliseconds delay(DiskOp op, std::uint64_t offset,
                                  std::uint64_t length);
  Status status(std::size_t limit) const;

 private:
  struct Delay {
    BadMode mode = BadMode::both;
    std::uint64_t ms = 0;
  };

  const std::uint64_t size_;
  mutable Mutex mu_;
  SectorMap<Delay> map_ GUARDED_BY(mu_);
  std::uint64_t fired_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
