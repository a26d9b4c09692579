// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/health/spare_forecast.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace nbd_remap {
namespace {

// REQUIRES: not empty.
double median(std::vector<double> values) {
  const auto middle =
      values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*std::max_element(values.begin(), middle) + *middle) / 2;
}

}  // namespace

SpareForecast forecast_spare(const std::vector<HealthPoint>& points,
                             std::uint64_t slots_gone, std::uint64_t slots,
                             std::uint64_t now) {
  std::vector<HealthPoint> days = by_day(points);
  std::erase_if(days, [&](const HealthPoint& p) {
    return p.time > now || now - p.time > SpareForecast::kWindow;
  });
  SpareForecast out;
  out.days = days.size();
  if (slots_gone >= slots) {
    out.kind = SpareForecast::Kind::full;
    return out;
  }
  if (days.size() < SpareForecast::kLeastDays) return out;
  std::vector<double> slopes;
  for (std::size_t i = 0; i < days.size(); ++i)
    for (std::size_t j = i + 1; j < days.size(); ++j)
      slopes.push_back((static_cast<double>(days[j].slots) -
                        static_cast<double>(days[i].slots)) *
                       static_cast<double>(kDay) /
                       static_cast<double>(days[j].time - days[i].time));
  out.slots_per_day = median(std::move(slopes));
  if (out.slots_per_day <= 0) {
    out.kind = SpareForecast::Kind::not_growing;
    return out;
  }
  const double left =
      static_cast<double>(slots - slots_gone) / out.slots_per_day;
  if (left > SpareForecast::kFarDays) {
    out.kind = SpareForecast::Kind::far;
    return out;
  }
  out.kind = SpareForecast::Kind::day;
  out.days_left = left;
  out.full_at =
      now + static_cast<std::uint64_t>(left * static_cast<double>(kDay));
  return out;
}

std::string day_text(std::uint64_t unix_seconds) {
  // The year 9999; fmt refuses what is far beyond.
  const auto t = static_cast<std::time_t>(
      std::min<std::uint64_t>(unix_seconds, 253402300799));
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(t));
}

std::string forecast_text(const SpareForecast& f) {
  switch (f.kind) {
    case SpareForecast::Kind::too_few:
      return fmt::format("no forecast: {} of {} days are known", f.days,
                         SpareForecast::kLeastDays);
    case SpareForecast::Kind::not_growing:
      return fmt::format("SPARE does not fill (median of {} days)", f.days);
    case SpareForecast::Kind::far:
      return fmt::format(
          "SPARE lasts for more than 10 years (median of {} "
          "days)",
          f.days);
    case SpareForecast::Kind::full:
      return "SPARE is full";
    case SpareForecast::Kind::day:
      return fmt::format(
          "SPARE is full on {} at {:.2f} slots a day (median of "
          "{} days)",
          day_text(f.full_at), f.slots_per_day, f.days);
  }
  return "";
}

const char* forecast_word(SpareForecast::Kind kind) {
  switch (kind) {
    case SpareForecast::Kind::too_few:
      return "too-few-days";
    case SpareForecast::Kind::not_growing:
      return "not-growing";
    case SpareForecast::Kind::far:
      return "far";
    case SpareForecast::Kind::full:
      return "full";
    case SpareForecast::Kind::day:
      return "day";
  }
  return "";
}

}  // namespace nbd_remap
