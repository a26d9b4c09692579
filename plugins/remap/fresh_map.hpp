#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Writes all of SPARE's metadata anew: what format, restore and grow have in
// common.

#include "plugins/backend/backend.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

// Both copies then hold one checkpoint with this state and an empty log. What
// an older map left cannot be taken for part of the new one, even under the
// same UUID. Old superblocks are erased first, new ones written last: cut in
// between, SPARE is as it was or holds no map, never half of one. What the
// state area held is gone.
// REQUIRES: superblock.layout is of this disk, map_sequence is what the
// checkpoint gets, the state fits.
// Errors: the disk's; then SPARE may hold no map.
Status write_fresh_map(Backend& spare, const Superblock& superblock,
                       const MapState& state);

// The same without the superblocks: durable when it succeeds.
Status write_map(Backend& spare, const Superblock& superblock,
                 const MapState& state);

// What was noted beside an older map is not true of another one.
Status erase_states(Backend& spare, const Layout& layout);

}  // namespace nbd_remap
