#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What one step of the scanner over a volume found.

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "plugins/base/result.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

struct ScanStep {
  VolumeOffset next;                // all before it is done
  std::uint64_t bytes = 0;          // that were read from MAIN
  std::chrono::nanoseconds took{};  // of the one request; 0: there was none,
                                    // or it failed
  std::uint64_t unreadable_sectors = 0;
  // [from, to): failed, then was read in parts without an error.
  std::uint64_t trouble_from = 0;
  std::uint64_t trouble_to = 0;
  std::vector<BlockNo> pending;  // became so
  std::vector<BlockNo> retried;  // could be read, but not at the first try
  Status status;                 // why it ended there
};

struct SlotStep {
  std::optional<BlockNo> block;  // whose slot it was; empty: no more
  std::uint64_t bytes = 0;
  bool failed = false;  // it cannot be read
  Status status;
};

}  // namespace nbd_remap
