// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_seed_words.hpp"

namespace nbd_remap {

void SeedWords::add_to(CLI::App& scan) {
  seed_ = scan.add_subcommand("seed",
                              "Read the places that MAIN's drive calls bad");
  seed_->fallthrough();
  seed_->add_option("NAME", volume_, "May be left out if there is only one");
  seed_->add_option("--device", request_.device,
                    "The whole disk that MAIN is on, for smartctl");
  seed_->add_option("--smart-json", request_.smart_json,
                    "A file with what smartctl --json -x said of it");
  seed_->add_option("--offset-of-partition", request_.partition,
                    "The byte of that disk where MAIN begins (default auto)");
  seed_->add_flag("--dry-run", request_.dry_run, "Say what would be read");
}

Result<MapAnswer> SeedWords::run(const ControlClient& client,
                                 const Progress& progress) const {
  const auto name = client.volume_name(volume_);
  if (!name) return name.error();
  return scan_seed(client, *name, request_, progress);
}

}  // namespace nbd_remap
