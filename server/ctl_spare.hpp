#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// `nbd-remapctl spare` is a program of its own, nbd-remap-spare: it reads and
// writes disks, and this program speaks to servers only.

#include <string>
#include <vector>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// Pure. Where it may be, best first: beside nbd-remapctl, as in a build tree,
// and where it is installed.
std::vector<std::string> spare_tool_places(const std::string& own_path);

// Becomes nbd-remap-spare; returns only if there is none. No shell.
Error exec_spare_tool(const std::vector<std::string>& arguments);

}  // namespace nbd_remap
