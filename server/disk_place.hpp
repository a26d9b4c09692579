#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// DiskPlace: which whole disk a block device is on, and where it begins there,
// by sysfs.

#include <cstdint>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

struct DiskPlace {
  std::string disk;               // "8:16", of the whole disk
  std::uint64_t start_bytes = 0;  // 0 of a whole disk
};

// sysfs: "/sys". The error is one line about path: class caller; ENOTBLK for
// what is no block device, or is made of others (dm, md, loop).
Result<DiskPlace> place_on_disk(const std::string& path,
                                const std::string& sysfs);
// number: "8:17".
Result<DiskPlace> place_of_number(const std::string& number,
                                  const std::string& path,
                                  const std::string& sysfs);

}  // namespace nbd_remap
