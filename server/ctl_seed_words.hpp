#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The words that follow `nbd-remapctl scan seed`.

#include <CLI/CLI.hpp>
#include <string>

#include "server/ctl_seed.hpp"

namespace nbd_remap {

class SeedWords {
 public:
  void add_to(CLI::App& scan);
  bool parsed() const { return seed_->parsed(); }
  Result<MapAnswer> run(const ControlClient& client,
                        const Progress& progress) const;

 private:
  CLI::App* seed_ = nullptr;
  std::string volume_;
  SeedRequest request_;
};

}  // namespace nbd_remap
