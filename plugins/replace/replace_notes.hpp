#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Where the state of a replacement is kept: SPARE's state area.

#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/state_area.hpp"
#include "plugins/replace/replacer.hpp"

namespace nbd_remap {

// area: null if SPARE has none; outlives what is returned.
ReplaceNotes notes_in(StateArea* area);

// Words for the owner who starts a server with a disk that was MAIN once:
// which disk took its place. Empty if SPARE says nothing of it. Only reads.
std::string replaced_by(Backend& spare, const std::string& main_identity);

}  // namespace nbd_remap
