#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare restore: puts what `spare dump` saved back on its SPARE.
// spare_restore.hpp says when that is refused, and why an old map is dangerous.
//
// Exit statuses are those of check: 0 restored, and sound; 3 refused, nothing
// was written; 2 it could not be written whole, SPARE may hold no map now.

#include <string>

#include "plugins/spare_tool/check_command.hpp"

namespace nbd_remap {

struct RestoreOptions {
  std::string spare;
  std::string from;
  std::string replace;  // a UUID
  bool lose_newer_data = false;
  bool json = false;
};

struct RestoreReport {
  Verdict verdict = Verdict::unknown;
  std::string reason;  // why it is not sound
  std::string spare_name;
  std::string file;
  Superblock superblock;
  MapCounts counts;
  std::uint64_t saved_sequence = 0;
  std::uint64_t reached = 0;  // see RestorePlan
};

RestoreReport run_restore(const RestoreOptions& options);

// Pure. REQUIRES: it was restored.
std::string render_restore(const RestoreReport& report, bool json);

}  // namespace nbd_remap
