#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Runs a SimPlan: the real Volume over two SimDisks, its clients as Fibers,
// and after each end of the server every sector compared with the SectorModel.
//
// What must be true besides the contents:
//   - a read fails only where a sector was spoiled, or without power;
//   - a change fails only without power, without a free slot, after a flush
//     that failed, or for part of an unreadable sector;
//   - after a flush that failed no flush succeeds until the next start (C12);
//   - a start without a cut succeeds, whatever was cut before; one copy of the
//     metadata may have bad sectors (M2), and two good ones agree afterwards;
//   - no slot belongs to two blocks, and one that was retired stays so (C9);
//   - of two disks that were MAIN and its replacement SPARE accepts one (M3);
//   - a scan gets on, and finds something wrong only where it is;
//   - nothing of what Fibers checks.

#include <cstdint>
#include <string>

#include "tests/sim/sim_plan.hpp"

namespace nbd_remap {

struct SimStats {
  std::uint64_t ends = 0;           // of servers: cuts and kills
  std::uint64_t cuts = 0;           // power cuts, those of starts included
  std::uint64_t cut_starts = 0;     // of these: while the server started
  std::uint64_t requests = 0;       // of them all
  std::uint64_t refused = 0;        // that failed, with power
  std::uint64_t unreadable = 0;     // sectors, as seen after an end
  std::uint64_t medium_errors = 0;  // that the disks gave
  std::uint64_t moved = 0;          // blocks, by request of an owner
  std::uint64_t healed = 0;         // blocks that got a slot by a write
  std::uint64_t retired = 0;        // slots, at the end of each world
  std::uint64_t full = 0;           // requests that found no slot
  std::uint64_t failed_flushes = 0;
  std::uint64_t scan_passes = 0;    // that came to their end
  std::uint64_t found = 0;          // sectors, by a scan
  std::uint64_t rescued = 0;        // blocks
  std::uint64_t replaced = 0;       // disks: MAIN is another one
  std::uint64_t not_replaced = 0;   // aborted, or the new disk failed
  std::uint64_t cut_replacing = 0;  // ends of servers meanwhile
  std::uint64_t grown = 0;          // SPAREs
  std::uint64_t waits = 0;          // of fibers for one another
  std::uint64_t switches = 0;       // of fibers

  void add(const SimStats& other);
};

struct SimOutcome {
  std::string violation;  // empty: none
  std::size_t round = 0;  // of the violation
  std::uint64_t trace = 0;
  SimStats stats;
};

SimOutcome run_sim(const SimPlan& plan);

}  // namespace nbd_remap
