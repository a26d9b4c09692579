#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Puts a map that was saved elsewhere back on its SPARE, whose own is damaged
// in both copies, or which was formatted anew since.
//
// An old map is dangerous. Since it was saved blocks were written to slots
// that it does not know, and slots that it knows were given to other blocks:
// with it a reader gets old data, or another block's. So what SPARE still shows
// is asked first, down to single records, and a map that is older than that is
// refused unless the caller takes the loss upon himself.

#include <cstdint>
#include <optional>
#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

struct SavedMap {
  std::string name;            // of the file, for messages
  Superblock superblock;       // as it was
  std::uint64_t sequence = 0;  // of the map
  MapState state;
};

// Pure. That the sizes, the layout and each entry are possible, and that no
// block and no slot is there twice.
Status check_saved(const SavedMap& saved);

struct RestoreRequest {
  // The SPARE that may be overwritten: the UUID that the disk shows now, or, if
  // it shows none, that of the saved map.
  std::optional<Uuid> replace;
  bool lose_newer_data = false;
};

struct RestorePlan {
  Superblock superblock;  // to be written
  // The newest sequence that SPARE shows of this map; 0: none, and nothing
  // tells whether the saved one is the newest.
  std::uint64_t reached = 0;
};

// Reads SPARE and decides; writes nothing. To do it then is
// write_fresh_map(spare, plan.superblock, saved.state).
// Errors (each says why, and what to do): SPARE is of another size, another
// disk, read-only, without flush, of a newer build; what it holds is not
// named in replace; its map can still be read, or is newer than the saved one;
// it holds the map of another SPARE.
Result<RestorePlan> plan_restore(Backend& spare, const SavedMap& saved,
                                 const RestoreRequest& request);

}  // namespace nbd_remap
