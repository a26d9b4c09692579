#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare dump: all that SPARE says, as one JSON object, and all
// that restore needs (saved_map.hpp reads it). Writes nothing to SPARE.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/remap/metadata_survey.hpp"

namespace nbd_remap {

// 2: with the masks and the checksum that restore needs.
inline constexpr int kDumpSchema = 2;

// Of the entries and retired slots, as a checkpoint has them.
std::string map_checksum(const MapState& state);

// As 512-byte sectors of the volume; the last block may reach beyond it.
std::vector<std::uint64_t> unreadable_sectors(const RemapEntry& entry,
                                              const Superblock& superblock);

// Takes the text piece by piece; false: cannot take more.
using TextSink = std::function<bool(std::string_view)>;

struct DumpOptions {
  std::string spare;
  bool entries = true;
};

// If no copy can be believed there are no entries in the dump, and an error is
// returned after it.
Status run_dump(const DumpOptions& options, const TextSink& sink);

// Pure but for the sink; one entry a line. False: the sink gave up.
bool write_dump(const std::string& spare_name, const MetadataSurvey& survey,
                bool entries, const TextSink& sink);

}  // namespace nbd_remap
