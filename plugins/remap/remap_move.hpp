#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Another disk takes SPARE's place: the map's part of it.
//
// Order     The new disk gets the whole map and a superblock that calls it a
//           candidate; durable. Then one sector on the old SPARE says that it
//           was replaced, and by whom: that is the moment. Then the new disk's
//           superblocks call it a candidate no more.
// Crash     A SPARE that was replaced is refused by everybody, for good. A
//           candidate is SPARE if the old one says so (find_replaced), and may
//           be used only then: so of the two exactly one can be, always.
// Layout    Both have the same; slots keep their numbers and places. A new disk
//           that is larger is, as its superblocks say, one that is about to
//           grow: all is where it was but the superblock of the tail.

#include <cstdint>
#include <functional>
#include <optional>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

enum class Moved {
  no,           // nothing has changed; why: as SPARE's log cannot
  next_failed,  // nothing has changed; why: of the new disk
  undecided,    // a restart finds either; the log has failed
  yes,          // why: the new disk may have failed since
};

struct MoveRequest {
  // Sectors of a slot that the new disk has not got.
  std::function<std::uint64_t(SlotNo)> lost;
  // Writes what else a SPARE holds beside its map, to the new disk.
  std::function<Status()> beside;
  // Called when the old SPARE is about to be told.
  std::function<void()> decides;
  // Puts the new disk in the place of the old one. Does not fail, nor throw.
  std::function<void()> exchange;
};

// What is there is no SPARE any more, and no state of one is found on it.
// Durable when it succeeds. layout: of the SPARE whose place it is to take.
Status prepare_candidate(Backend& next, const Layout& layout);

// The newest of the superblocks, if any can be believed. Errors: the disk's, or
// EPROTONOSUPPORT (of a newer build).
Result<std::optional<Superblock>> find_superblock(Backend& disk);

// Whether this disk was SPARE and was replaced by that candidate.
// REQUIRES: flushed before the answer may count.
Result<bool> find_replaced(Backend& old, const Superblock& candidate);

}  // namespace nbd_remap
