#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SmartReport: what `smartctl --json -x` says of a disk, as far as it means
// something here: counts, verdict, and the places that the drive itself knows
// to be bad. Pure.
//
// Read are, as smartmontools 7.3 and later write them:
//   ATA   attributes 5, 197 and 198; ata_pending_defects_log (size, count,
//         table of lba)
//   SCSI  scsi_grown_defect_list, scsi_pending_defects (count; LBAs under
//         their index), scsi_background_scan (result_N with lba, sense_key and
//         reassign_status), scsi_error_counter_log
//   NVMe  nvme_smart_health_information_log
//
// Hostile  The text is a file's or a program's: its size, depth and number of
//          values are bounded before it is parsed, a member of another type is
//          as if it were not there, and a count larger than the disk has
//          blocks is none, nor is an LBA behind the last of them.
// Units    LBAs count logical blocks of the whole disk.
// Errors   class caller, one line; ENODATA: the disk says nothing of use.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/base/bad_areas.hpp"
#include "plugins/base/result.hpp"

namespace nbd_remap {

inline constexpr std::size_t kMaxSmartBytes = 16 << 20;
// The ATA log has at most 65,535 entries, that of SCSI 2,048.
inline constexpr std::size_t kMaxSmartLbas = 65'536;

struct SmartReport {
  std::string protocol;  // as smartctl calls it: "ATA", "SCSI", "NVMe"
  std::string model;
  std::uint32_t block_bytes = 0;  // logical; 0: not said
  std::uint64_t blocks = 0;       // of the disk; 0: not said
  // Empty: the disk does not say.
  std::optional<bool> passed;                // its own verdict
  std::optional<std::uint64_t> pending;      // sectors it could not read
  std::optional<std::uint64_t> reallocated;  // sectors it replaced
  std::optional<std::uint64_t> uncorrected;  // errors it could not correct
  std::optional<std::uint64_t> spare_percent;
  std::optional<std::uint64_t> spare_threshold_percent;
  std::optional<std::uint64_t> used_percent;  // of the life it was made for
  bool below_threshold = false;  // an attribute says that it fails soon
  // Those it cannot read now, then those it could read with effort.
  std::vector<std::uint64_t> lbas;
  std::uint64_t more_lbas = 0;  // more than kMaxSmartLbas
};

// source: for the complaint.
Result<SmartReport> parse_smart(std::string_view text,
                                const std::string& source);

// What the server keeps: the members that are known.
nlohmann::json smart_counts_json(const SmartReport& report);
// For people, without line feeds: "8 pending, 16 reallocated".
std::string smart_words(const SmartReport& report);

// Where the disk's LBAs are on a volume.
struct SmartSeeds {
  std::vector<ByteRange> ranges;  // whole blocks of the volume, none twice
  std::uint64_t outside = 0;      // LBAs before or behind it on the disk
};
// first: the byte of the disk where MAIN begins.
// REQUIRES: report.block_bytes and block_bytes are not 0.
SmartSeeds place_seeds(const SmartReport& report, std::uint64_t first,
                       std::uint64_t volume_bytes, std::uint64_t block_bytes);

}  // namespace nbd_remap
