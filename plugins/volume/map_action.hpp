#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What an owner can ask of a range of the map, and what a step of it did.
//
//   remap   blocks that MAIN still holds are copied to SPARE, verified, mapped;
//           sectors that cannot be read have no data there. A block of which
//           nothing can be read becomes pending.
//   unmap   remapped blocks are copied back to MAIN, verified, un-mapped; then
//           their slots are free. One with sectors that have no data stays.
//   retest  the unreadable sectors of pending blocks are read again.
//   check   like retest; and blocks that were clean are read as well: what
//           cannot be read becomes pending.
//   clear   sectors that have no data, pending or remapped, are written with
//           zeroes. Sectors that can be read are not touched.

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "plugins/base/result.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

enum class MapAction { remap, unmap, retest, check, clear };

inline constexpr std::array<std::pair<std::string_view, MapAction>, 5>
    kMapActions{{{"remap", MapAction::remap},
                 {"unmap", MapAction::unmap},
                 {"retest", MapAction::retest},
                 {"check", MapAction::check},
                 {"clear", MapAction::clear}}};

inline std::string_view map_action_name(MapAction action) {
  for (const auto& [name, known] : kMapActions)
    if (known == action) return name;
  return "";
}

// Of blocks, unless the name says sectors.
struct MapCounts {
  std::uint64_t looked_at = 0;
  std::uint64_t remapped = 0;         // by this step
  std::uint64_t already = 0;          // remapped before
  std::uint64_t unmapped = 0;         // by this step
  std::uint64_t incomplete = 0;       // stay remapped: sectors without data
  std::uint64_t main_bad = 0;         // stay remapped: MAIN cannot hold them
  std::uint64_t readable = 0;         // were pending, now clean
  std::uint64_t pending = 0;          // are pending after the step
  std::uint64_t cleared_sectors = 0;  // zeroes now
};

struct MapStep {
  MapCounts counts;
  VolumeOffset next;  // all before it is done
  Status status;      // why it ended there, if not for lack of time
};

}  // namespace nbd_remap
