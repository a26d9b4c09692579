#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Runs smartctl of smartmontools, without a shell.

#include <chrono>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// A disk that must spin up first takes a while for each log.
inline constexpr std::chrono::seconds kSmartBound{120};

// What `smartctl --json -x` prints of the disk, whatever its exit status. It is
// ended when the bound is over.
// Errors  class caller, one line. ENOENT: there is no smartctl.
Result<std::string> run_smartctl(const std::string& device,
                                 std::chrono::milliseconds bound = kSmartBound);
// Of a saved one. EFBIG: more than kMaxSmartBytes.
Result<std::string> read_smart_file(const std::string& path);

}  // namespace nbd_remap
