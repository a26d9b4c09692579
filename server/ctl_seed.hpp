#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// `nbd-remapctl scan seed`: the places that MAIN's drive knows to be bad are
// read by the server's scan before all others, and its counts become part of
// the volume's health.
// All is read and checked before the first question that changes anything.
//
// Errors  errnum says which exit status: see exit_status().

#include <string>

#include "server/ctl_map.hpp"

namespace nbd_remap {

struct SeedRequest {
  std::string device;      // ask smartctl about it; or
  std::string smart_json;  // what it said, in a file
  // Where MAIN begins on that disk: bytes, or "auto".
  std::string partition = "auto";
  bool dry_run = false;
  std::string sysfs = "/sys";
};

Result<MapAnswer> scan_seed(const ControlClient& client,
                            const std::string& name, const SeedRequest& what,
                            const Progress& progress);

}  // namespace nbd_remap
