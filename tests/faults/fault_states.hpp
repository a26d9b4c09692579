#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the disks of a scenario are like before anything is asked.

#include <cstdint>

#include "tests/faults/fault_world.hpp"

namespace nbd_remap {

constexpr std::uint64_t kB = FaultWorld::kBlockBytes;
constexpr std::uint64_t kS = kSectorBytes;
constexpr std::uint64_t kLast = FaultWorld::kBlocks - 1;

// MAIN has content, SPARE a map without entries.
void clean(FaultWorld& w);

// Blocks 3, 4, 10 and the last live in slots 0 to 3; of 6 one sector cannot be
// read, of 7 two.
void mixed(FaultWorld& w);

void mixed_and_stopped(FaultWorld& w);

void nearly_full(FaultWorld& w);

void full_log(FaultWorld& w);

// A piece of one copy of the metadata is overwritten.
void damage(FaultWorld& w, CopyIndex copy);

void spoil_copy(FaultWorld& w, CopyIndex copy, std::uint8_t bad);

void spoil_slot(FaultWorld& w, std::uint64_t slot, unsigned sector,
                std::uint8_t bad);

}  // namespace nbd_remap
