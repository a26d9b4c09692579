#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The `map` commands of nbd-remapctl beyond `show`: what they ask of a server,
// step by step, and what they make of files. Files are read and checked whole
// before the first question that changes anything.
//
// Errors  errnum says which exit status: see exit_status().

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "plugins/base/bad_areas.hpp"
#include "plugins/base/result.hpp"
#include "plugins/base/tool_text.hpp"
#include "server/ctl_client.hpp"

namespace nbd_remap {

enum class ListFormat { ddrescue, badblocks };

struct MapExport {
  ListFormat format = ListFormat::ddrescue;
  std::uint32_t block_bytes = 1024;  // of badblocks
  bool of_main = false;  // what MAIN cannot give, instead of the volume
};

struct MapImport {
  std::string file;
  ListFormat format = ListFormat::ddrescue;
  std::uint32_t block_bytes = 1024;
  bool dry_run = false;
};

// json's destructor only asserts. NOLINTNEXTLINE(bugprone-exception-escape)
struct MapAnswer {
  nlohmann::json json;
  std::string text;
  ExitStatus status = ExitStatus::fine;
};

// Called now and then with one line for people.
using Progress = std::function<void(const std::string&)>;

Result<MapAnswer> map_explain(const ControlClient& client,
                              const std::string& name, std::uint64_t offset);
// length: empty for the block that holds offset.
Result<MapAnswer> map_act(const ControlClient& client, const std::string& name,
                          const std::string& action, std::uint64_t offset,
                          std::optional<std::uint64_t> length,
                          const Progress& progress);
// retest, over the whole volume.
Result<MapAnswer> map_retest_all(const ControlClient& client,
                                 const std::string& name,
                                 const Progress& progress);
Result<MapAnswer> map_export(const ControlClient& client,
                             const std::string& name, const MapExport& what);
Result<MapAnswer> map_import(const ControlClient& client,
                             const std::string& name, const MapImport& what,
                             const Progress& progress);

}  // namespace nbd_remap
