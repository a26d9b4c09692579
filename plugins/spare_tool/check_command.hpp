#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare check: is the map on SPARE whole? Writes nothing.
//
// Exit statuses, which scripts know: 0 sound, 1 repairable (the next start of
// the server mends it), 2 damaged or not of the MAIN that was named (the server
// refuses it), 3 could not be checked, which includes a wrong command line.
// repair, restore and scan have the same.

#include <optional>
#include <string>
#include <vector>

#include "plugins/remap/metadata_survey.hpp"

namespace nbd_remap {

enum class Verdict : int {
  sound = 0,
  repairable = 1,
  damaged = 2,
  unknown = 3,
};
const char* verdict_word(Verdict verdict);

struct CheckReport {
  Verdict verdict = Verdict::unknown;
  bool mismatch = false;  // not of the MAIN that was named; then damaged
  std::string spare_name;
  std::string reason;                    // why damaged or unknown; else empty
  std::vector<std::string> notes;        // what a person should know besides
  std::optional<MetadataSurvey> survey;  // empty: no superblock can be used
};

struct CheckOptions {
  std::string spare;
  std::string main;  // empty: whether the two belong together is not checked
  bool json = false;
};

// Survey and verdict of one that is open.
CheckReport check_spare(Backend& spare);
CheckReport run_check(const CheckOptions& options);

// Of an error that keeps a survey from coming to an end.
Verdict verdict_of(const Error& error);

struct MapCounts {
  std::uint64_t remapped = 0;
  std::uint64_t pending = 0;
  std::uint64_t retired = 0;
};
MapCounts count_map(const MapState& state);

// Pure. The verdict on what the survey found, and its reason if damaged. What
// a crash leaves (the last record in one copy only) is sound.
Verdict judge(const MetadataSurvey& survey);
// Pure.
std::string render_check(const CheckReport& report, bool json);

}  // namespace nbd_remap
