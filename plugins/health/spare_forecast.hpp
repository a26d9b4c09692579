#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SpareForecast: the day on which SPARE will be full if it goes on as it did.
// Pure.
//
// Method  Theil-Sen: the median of the slopes between all pairs of days, over
//         the last point of each of the last 90 days in which there was one.
//         One bad day, or a day without the server, moves it little. No
//         forecast of fewer than 7 days. How wrong it may be is not said:
//         what a disk does next is not in its past.

#include <cstdint>
#include <vector>

#include "plugins/health/health_memory.hpp"

namespace nbd_remap {

struct SpareForecast {
  static constexpr std::size_t kLeastDays = 7;
  static constexpr std::uint64_t kWindow = 90 * kDay;
  // Nothing is said of a time beyond it.
  static constexpr double kFarDays = 3650;

  enum class Kind {
    too_few,      // too few days are known
    not_growing,  // half of the pairs of days say so
    far,          // beyond kFarDays
    full,         // already
    day,
  };
  Kind kind = Kind::too_few;
  std::size_t days = 0;       // known, in the window
  double slots_per_day = 0;   // unless too_few
  double days_left = 0;       // of Kind::day
  std::uint64_t full_at = 0;  // of Kind::day: unix seconds
};

// slots_gone: used and retired now.
SpareForecast forecast_spare(const std::vector<HealthPoint>& points,
                             std::uint64_t slots_gone, std::uint64_t slots,
                             std::uint64_t now);

// "2026-11-21", of UTC.
std::string day_text(std::uint64_t unix_seconds);
std::string forecast_text(const SpareForecast& forecast);
const char* forecast_word(SpareForecast::Kind kind);

}  // namespace nbd_remap
