#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Where the states of replacements are kept: SPARE's state area, under one
// kind. MAIN's alone, or, once SPARE itself is or was to be replaced: version 2
// in 4 bytes, the length of SPARE's in 4 bytes, SPARE's, MAIN's.

#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/remap_format.hpp"
#include "plugins/remap/state_area.hpp"
#include "plugins/replace/replacer.hpp"

namespace nbd_remap {

struct BothNotes {
  ReplaceNotes main;
  ReplaceNotes spare;
};

// area: null if SPARE has none; outlives what is returned. Only one of the two
// may be used at a time.
BothNotes notes_in(StateArea* area);

// Words for the owner who starts a server with a disk that was MAIN once:
// which disk took its place. Empty if SPARE says nothing of it. Only reads.
std::string replaced_by(Backend& spare, const std::string& main_identity);
// The same, with a disk that was SPARE.
std::string spare_replaced_by(Backend& spare);

// Whether this disk may be used as SPARE although it is a candidate
// (remap_move.hpp): asks the old SPARE, which open() finds. True as well for
// one that is no candidate. Errors (caller): it may not, or nobody knows.
Result<bool> took_place(
    Backend& spare,
    const std::function<Result<std::unique_ptr<Backend>>(const std::string&)>&
        open);

}  // namespace nbd_remap
