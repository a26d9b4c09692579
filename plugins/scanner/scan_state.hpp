#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the scanner knows and keeps over restarts, and its bytes in the state
// area of SPARE (kind scan). Bytes are hostile: unpack answers or refuses, and
// then the scanner begins as on the first day.

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "plugins/base/units.hpp"
#include "plugins/scanner/scan_plan.hpp"
#include "plugins/volume/region_counts.hpp"

namespace nbd_remap {

enum class RunState : std::uint8_t { stopped, running, paused };
enum class ScanPhase : std::uint8_t { main, slots, pending };

// Of one region; pending and remapped blocks are the map's to count.
struct RegionRecord {
  std::uint32_t errors = 0;      // sectors or requests that failed, ever
  std::uint32_t retries = 0;     // reads that succeeded at a later try
  std::uint64_t scanned_at = 0;  // unix seconds; 0: never, as a whole
  std::uint32_t slowest_us = 0;  // of a chunk, when it was scanned last
  std::uint32_t mean_us = 0;
  // When its pending blocks are tried again, in unix seconds; 0: none is known.
  std::uint64_t next_retest = 0;
  std::uint8_t retests = 0;  // in vain, one after the other
  friend bool operator==(const RegionRecord&, const RegionRecord&) = default;
};

// A block that was read with trouble.
struct Watch {
  std::uint8_t slow = 0;  // slow reads so far
  std::uint8_t fast = 0;  // quick ones since the last slow one
  bool suspect = false;
  bool noted = false;            // an event tells of it
  std::uint64_t next_check = 0;  // unix seconds
  friend bool operator==(const Watch&, const Watch&) = default;
};

struct PassRecord {
  ScanPlan plan;
  std::uint64_t began = 0;  // unix seconds
  std::uint64_t ended = 0;  // 0: not yet
  std::uint64_t bytes = 0;
  std::uint64_t unreadable_sectors = 0;
  std::uint64_t retried_blocks = 0;
  std::uint64_t slow_chunks = 0;
  std::uint64_t bad_slots = 0;
  std::uint64_t rescued = 0;
  friend bool operator==(const PassRecord&, const PassRecord&) = default;
};

struct ScanState {
  static constexpr std::size_t kMaxTodo = 2048;
  static constexpr std::size_t kMaxWatches = 1024;

  RunState run = RunState::stopped;
  bool halted = false;  // stopped by hand: nothing begins by itself
  bool dry_run = false;
  ScanRate rate;
  ScanPhase phase = ScanPhase::main;
  std::vector<ScanRange> todo;           // of MAIN; the first is under way
  std::uint64_t seeds_left = 0;          // of todo, the first of it
  std::uint64_t todo_bytes = 0;          // of the pass, in all
  std::uint64_t next_block = 0;          // of the phases slots and pending
  PassRecord pass;                       // the current one, or the last
  std::uint64_t passes = 0;              // that ended
  std::uint64_t last_full = 0;           // unix seconds of the end of one
  std::uint64_t unreadable_sectors = 0;  // of all passes
  std::uint64_t rescued = 0;
  std::uint64_t came_back = 0;    // pending blocks that could be read again
  std::uint64_t budget_hour = 0;  // unix seconds when it began
  std::uint64_t budget_used = 0;
  std::map<BlockNo, Watch> watches;
  std::uint64_t size = 0;              // of the volume that regions are of
  std::vector<RegionRecord> regions =  // kRegions
      std::vector<RegionRecord>(kRegions);
  // Of all regions; 0: nothing is pending.
  std::uint64_t next_retest() const;
  friend bool operator==(const ScanState&, const ScanState&) = default;
};

std::vector<std::byte> pack_scan_state(const ScanState& state);
// size: of the volume now; regions of one that grew are laid out anew.
std::optional<ScanState> unpack_scan_state(ConstBytes bytes, std::uint64_t size,
                                           std::uint32_t block_bytes);

}  // namespace nbd_remap
