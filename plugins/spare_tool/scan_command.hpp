#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare scan: which of these disks are SPAREs, in what state, and
// of which MAIN. Writes nothing.
//
// Of a folder the regular files and block devices in it are looked at, not
// those in folders below. Each disk counts once, under whatever names. What a
// server is using is told by its superblock, without a verdict. To learn that a
// disk is no SPARE two sectors are read.

#include <optional>
#include <string>
#include <vector>

#include "plugins/spare_tool/check_command.hpp"

namespace nbd_remap {

struct ScanOptions {
  std::vector<std::string> paths;  // or NBD URIs
  bool json = false;
};

struct ScannedSpare {
  std::string name;
  bool in_use = false;  // then there is no verdict
  Verdict verdict = Verdict::unknown;
  std::string reason;
  std::vector<std::string> notes;
  std::optional<Superblock> superblock;  // empty: none can be used
  std::optional<MapCounts> counts;       // empty: no map, or in use
  std::string main_name;  // where MAIN is among what was scanned; else empty
};

struct ScanReport {
  std::vector<ScannedSpare> spares;
  std::vector<std::string> not_spares;   // of those that were named
  std::vector<std::string> not_scanned;  // in words
  std::uint64_t looked_at = 0;           // disks
};

ScanReport run_scan(const ScanOptions& options);

// Pure. The worst verdict; unknown if something could not be looked at, or
// there is no SPARE at all.
Verdict scan_verdict(const ScanReport& report);
// Pure.
std::string render_scan(const ScanReport& report, bool json);

}  // namespace nbd_remap
