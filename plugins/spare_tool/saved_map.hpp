#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Reads what `spare dump` has written, to put it back.
//
// The file is hostile until checked: entries are taken one by one, none is kept
// that is not used, and the memory that it needs is bounded by the size of the
// SPARE that it is for. What people read in it (offset, slot_offset,
// unreadable_sectors) must agree with what the map is made of, and all of it
// with its checksum.

#include <istream>
#include <string>

#include "plugins/base/result.hpp"
#include "plugins/remap/spare_restore.hpp"

namespace nbd_remap {

// More than a dump of a SPARE of this size can have.
std::uint64_t max_dump_bytes(std::uint64_t spare_bytes);

// A regular file. Error: it cannot be read, is larger than max_bytes, or what
// parse_saved_map says.
Result<SavedMap> read_saved_map(const std::string& path,
                                std::uint64_t max_bytes);

// Error: one line, what is wrong in it.
Result<SavedMap> parse_saved_map(std::istream& in, const std::string& name);

}  // namespace nbd_remap
