#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// HealthMemory: what a volume's health is judged by besides its state now:
// points of its past, what its drive said of itself, and what its owner has
// seen and acknowledged. Kept on SPARE as JSON, see nbd-remap-format(5); may be
// lost without losing data.
//
// Pure. What is read back is hostile until checked: a member that is not as it
// should be is as if it were not there.

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nbd_remap {

struct HealthPoint {
  std::uint64_t time = 0;     // unix seconds
  std::uint64_t slots = 0;    // used and retired
  std::uint64_t pending = 0;  // blocks
  std::uint64_t errors = 0;   // medium errors of MAIN, all there ever were
  friend bool operator==(const HealthPoint&, const HealthPoint&) = default;
};

// Empty members: the drive does not say.
struct SmartCounts {
  std::uint64_t noted = 0;  // unix seconds
  std::optional<bool> passed;
  std::optional<std::uint64_t> pending;
  std::optional<std::uint64_t> reallocated;
  std::optional<std::uint64_t> uncorrected;
  std::optional<std::uint64_t> spare_percent;
  std::optional<std::uint64_t> spare_threshold_percent;
  std::optional<std::uint64_t> used_percent;
  bool below_threshold = false;
  friend bool operator==(const SmartCounts&, const SmartCounts&) = default;
};

struct Acknowledged {
  std::uint64_t at = 0;  // unix seconds
  // Of each reason there was, by its code, how much of it.
  std::map<std::string, std::uint64_t, std::less<>> counts;
  friend bool operator==(const Acknowledged&, const Acknowledged&) = default;
};

struct HealthMemory {
  std::vector<HealthPoint> points;  // ascending in time
  std::uint64_t errors = 0;         // see HealthPoint
  std::optional<SmartCounts> smart;
  std::optional<Acknowledged> acknowledged;
  friend bool operator==(const HealthMemory&, const HealthMemory&) = default;
};

inline constexpr std::uint64_t kHour = 3600;
inline constexpr std::uint64_t kDay = 24 * kHour;
// Points are kept for so long each, then one of each day (UTC), the last.
inline constexpr std::uint64_t kHourlyPoints = 2 * kDay;
inline constexpr std::uint64_t kDailyPoints = 250 * kDay;

// True if it was taken: at least an hour after the one before. Points of a
// future that a clock has been set back from are forgotten.
bool add_point(std::vector<HealthPoint>& points, const HealthPoint& point);
// The last point of each day.
std::vector<HealthPoint> by_day(const std::vector<HealthPoint>& points);

// At most max_bytes: the oldest points are left out if it must be.
std::string encode_memory(const HealthMemory& memory, std::size_t max_bytes);
HealthMemory decode_memory(std::string_view text);

nlohmann::json smart_json(const SmartCounts& smart);
// What an owner's tool sends; the time is the caller's. Empty: no object, or a
// member that is no count, or none at all.
std::optional<SmartCounts> parse_smart_counts(const nlohmann::json& body);

}  // namespace nbd_remap
