#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare format: makes a disk the SPARE of a MAIN.
//
// Nothing is written before every check has passed. MAIN is opened for reading
// only. Whatever is found on SPARE must be given up by name (--replace): a
// SPARE or a file system by its UUID.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plugins/base/result.hpp"
#include "plugins/remap/remap_format.hpp"
#include "plugins/spare_tool/signatures.hpp"

namespace nbd_remap {

struct FormatOptions {
  std::string main;
  std::string spare;
  std::optional<std::uint32_t> block_bytes;
  std::vector<std::string> replace;
  bool json = false;
};

// What there is to say of it, for people or as JSON.
Result<std::string> run_format(const FormatOptions& options);

// Pure. What a person typed against what is there: the word that is left over
// (it may name a SPARE), or a refusal.
Result<std::optional<Uuid>> match_replace(
    const std::string& spare_name, const std::vector<Signature>& found,
    const std::vector<std::string>& replace);

// Pure.
struct FormatReport {
  std::string main_name;
  std::string spare_name;
  bool spare_direct = false;
  Superblock superblock;
};
std::string render_format(const FormatReport& report, bool json);

}  // namespace nbd_remap
