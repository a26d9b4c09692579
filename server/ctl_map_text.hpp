#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the `map` commands say. Pure; every field is a peer's, see
// ctl_render.hpp.

#include <nlohmann/json.hpp>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// The answer of BASE/explain.
Result<std::string> render_explain(const nlohmann::json& answer);

// The commands that name the file over a byte, for a file system that begins
// at byte 0: {"ext4": [...], "xfs": [...], "ntfs": [...]}.
nlohmann::ordered_json file_commands(std::uint64_t offset);

// The sums of an action's counts, and where and why it stopped.
std::string render_action(const nlohmann::json& totals);

}  // namespace nbd_remap
