#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The words that follow `nbd-remapctl map`, all but `show`.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "server/ctl_map.hpp"

namespace nbd_remap {

class MapWords {
 public:
  void add_to(CLI::App& map);
  // One of these verbs was given.
  bool parsed() const;
  // EDESTADDRREQ: a word that the parser took is wrong.
  Result<MapAnswer> run(const ControlClient& client,
                        const Progress& progress) const;

 private:
  CLI::App* add_verb(CLI::App& map, const char* name, const char* words);
  void add_range(CLI::App* verb, bool length_needed);
  void add_format(CLI::App* verb);
  Result<MapAnswer> act(const ControlClient& client,
                        const Progress& progress) const;

  CLI::App* explain_ = nullptr;
  CLI::App* remap_ = nullptr;
  CLI::App* unmap_ = nullptr;
  CLI::App* retest_ = nullptr;
  CLI::App* clear_ = nullptr;
  CLI::App* export_ = nullptr;
  CLI::App* import_ = nullptr;
  std::string volume_;
  std::string offset_;
  std::string length_;
  bool all_ = false;
  bool yes_ = false;
  std::string format_;
  std::string block_size_;
  std::string of_ = "volume";
  std::string file_;
  bool dry_run_ = false;
};

}  // namespace nbd_remap
