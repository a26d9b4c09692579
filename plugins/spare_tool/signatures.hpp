#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What else is on a disk that is about to become a SPARE: file systems,
// partition tables, RAID and LVM members, as libblkid knows them.

#include <cstdint>
#include <string>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

struct Signature {
  std::string type;  // "ext4", "gpt", "linux_raid_member"
  std::string uuid;  // empty: it has none
  // Of the bytes by which it is known; length 0: libblkid does not say.
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  // What a person types to give it up: its UUID, or its type if it has none.
  const std::string& name() const { return uuid.empty() ? type : uuid; }
  bool is_named(const std::string& word) const;  // letters of either case
};

// For a path, not a URI.
Result<std::vector<Signature>> find_signatures(const std::string& path);

// After formatting: overwrites the bytes by which old signatures are known, so
// that nobody mounts what is left of them. Touches nothing of the new SPARE.
Status wipe_signatures(const std::string& path, Backend& spare,
                       const Layout& layout);

}  // namespace nbd_remap
