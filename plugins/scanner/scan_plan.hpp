#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What a scan is to read, and how fast; from the words that people type. Pure.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// Bytes of the volume: [from, to).
struct ScanRange {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  friend bool operator==(const ScanRange&, const ScanRange&) = default;
};

struct ScanPlan {
  enum class Kind : std::uint8_t {
    full,     // MAIN, the used slots of SPARE, then pending blocks
    pending,  // pending blocks alone
    older,    // parts of MAIN that were not read for so long
    range,    // a part of MAIN
    seeds,    // parts that somebody else doubts; comes by POST, not by words
  };
  Kind kind = Kind::full;
  std::chrono::seconds older{};
  ScanRange range;
  friend bool operator==(const ScanPlan&, const ScanPlan&) = default;
};

// "full", "pending", "older-than:7d", "range:OFFSET+LENGTH". Error: one line
// with what was expected.
Result<ScanPlan> parse_scan_plan(const std::string& text, std::uint64_t size);
std::string scan_plan_text(const ScanPlan& plan);
// "90s", "30m", "12h", "7d", "4w". Up to 10 years, at least a second.
Result<std::chrono::seconds> parse_duration(const std::string& text);

// Bytes a second, or a share of the time that clients leave; 0 and 100: no
// limit.
struct ScanRate {
  std::uint64_t bytes_per_second = 0;
  unsigned percent = 100;
  friend bool operator==(const ScanRate&, const ScanRate&) = default;
};

// "50M", "30%", "max".
Result<ScanRate> parse_scan_rate(const std::string& text);
std::string scan_rate_text(const ScanRate& rate);

// Sorted, joined where they touch, clipped to the volume and rounded outward to
// whole blocks.
std::vector<ScanRange> normalised(std::vector<ScanRange> ranges,
                                  std::uint64_t size,
                                  std::uint32_t block_bytes);

}  // namespace nbd_remap
