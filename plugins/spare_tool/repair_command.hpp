#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare repair: what check finds and the next start of the server
// would mend, mended now. Without --yes it says what it would do and writes
// nothing, as fsck does when it is told no.
//
// Exit statuses are those of check, of SPARE as it is when the command ends.

#include <string>
#include <vector>

#include "plugins/spare_tool/check_command.hpp"

namespace nbd_remap {

struct RepairOptions {
  std::string spare;
  bool yes = false;
  bool json = false;
};

struct RepairReport {
  CheckReport before;
  std::vector<std::string> plan;  // what is to be done, in words
  std::vector<std::string> done;  // what was said while it was done
  bool written = false;
  std::string failure;                 // why it was not done, or not all
  Verdict verdict = Verdict::unknown;  // of SPARE as it is now
};

RepairReport run_repair(const RepairOptions& options);

// Pure. What repair does about this; empty: nothing.
std::vector<std::string> plan_repair(const MetadataSurvey& survey);
// Pure.
std::string render_repair(const RepairReport& report, bool json);

}  // namespace nbd_remap
