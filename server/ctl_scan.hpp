#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The words that follow `nbd-remapctl scan`, and `map cells`: what they ask of
// a server and how its answer reads.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "server/ctl_map.hpp"

namespace nbd_remap {

class ScanWords {
 public:
  void add_to(CLI::App& scan, CLI::App& map);
  // One of these verbs was given.
  bool parsed() const;
  Result<MapAnswer> run(const ControlClient& client) const;

 private:
  CLI::App* add_verb(CLI::App& noun, const char* name, const char* words);

  CLI::App* start_ = nullptr;
  CLI::App* pause_ = nullptr;
  CLI::App* resume_ = nullptr;
  CLI::App* stop_ = nullptr;
  CLI::App* status_ = nullptr;
  CLI::App* cells_ = nullptr;
  std::string name_;
  std::string plan_ = "full";
  std::string rate_;
  bool dry_run_ = false;
  std::uint64_t count_ = 64;
};

// Pure: the server's answers for people.
Result<std::string> render_scan(const nlohmann::json& answer);
Result<std::string> render_cells(const nlohmann::json& answer);

}  // namespace nbd_remap
