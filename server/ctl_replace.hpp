#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// `nbd-remapctl volume replace`: what it makes of a server's answers. Pure.

#include <nlohmann/json.hpp>
#include <string>

#include "plugins/base/result.hpp"
#include "plugins/base/tool_text.hpp"

namespace nbd_remap {

// What the server is to open, wherever it runs: a path is made absolute.
Result<std::string> new_disk_word(const std::string& word);

Result<std::string> render_replace(const std::string& name,
                                   const nlohmann::json& status);
// 1 if it failed, or waits for something.
ExitStatus replace_exit(const nlohmann::json& status);

}  // namespace nbd_remap
