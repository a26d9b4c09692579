#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// HealthReport: all that is said of a volume's health: its state and reasons
// (plugins/volume/health.hpp) with those of its drive, one sentence with the
// next step, a score and its parts, when SPARE will be full, and whether its
// owner must hear of it. Pure.
//
// Score   100 less what each part loses; a part loses at most its weight, and
//         the weights add up to 100. A volume that fails requests has 0. The
//         weights and steps are policy, not measurements: nbd-remapctl(1).
// Alert   true if there is a reason that the owner has not acknowledged, or
//         more of one than was acknowledged. What fails requests cannot be
//         acknowledged.

#include <cstdint>
#include <string>
#include <vector>

#include "plugins/health/health_memory.hpp"
#include "plugins/health/spare_forecast.hpp"
#include "plugins/volume/health.hpp"

namespace nbd_remap {

struct ScorePart {
  const char* name = "";
  unsigned weight = 0;
  unsigned lost = 0;  // at most weight
  std::string why;    // the measurement behind it
};

struct HealthReport {
  Health health;
  std::string sentence;
  std::string activity;  // of VolumeStatus
  unsigned score = 0;    // 0 to 100
  std::vector<ScorePart> parts;
  SpareForecast forecast;
  bool alert = false;
};

// What a drive said longer ago counts as unknown.
inline constexpr std::uint64_t kSmartLasts = 30 * kDay;
inline constexpr std::uint64_t kErrorWindow = 7 * kDay;

HealthReport report_health(const VolumeStatus& status,
                           const HealthMemory& memory, std::uint64_t now);

// What an acknowledgement of this report would hold.
Acknowledged acknowledge(const HealthReport& report, std::uint64_t now);
// Without what is no more: less of a reason than was acknowledged is all that
// is acknowledged from then on. True if it changed.
bool lower_acknowledged(Acknowledged& acknowledged, const Health& health);

}  // namespace nbd_remap
