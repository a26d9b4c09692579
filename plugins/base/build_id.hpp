#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The version and git hash of this build, as --version, --dump-plugin, the log
// and the metadata on SPARE show it: "0.1.0 (1a2b3c4d5e6f)".

#include <string_view>

namespace nbd_remap {

std::string_view build_id();

}  // namespace nbd_remap
