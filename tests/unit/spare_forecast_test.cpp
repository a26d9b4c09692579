// SPDX-License-Identifier: BSD-3-Clause
// Tables of cases for the day on which SPARE is full.
#include <gtest/gtest.h>

#include "plugins/health/health_report.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kNow = 1'795'219'200 + 12 * kHour;

// One point a day, the last one today.
std::vector<HealthPoint> daily(const std::vector<std::uint64_t>& slots) {
  std::vector<HealthPoint> points;
  for (std::size_t i = 0; i < slots.size(); ++i)
    points.push_back({kNow - (slots.size() - 1 - i) * kDay, slots[i], 0, 0});
  return points;
}
SpareForecast forecast(const std::vector<std::uint64_t>& slots,
                       std::uint64_t of = 1000) {
  return forecast_spare(daily(slots), slots.empty() ? 0 : slots.back(), of,
                        kNow);
}

TEST(SpareForecast, each_past_has_its_forecast) {
  using Kind = SpareForecast::Kind;
  struct Case {
    const char* what;
    std::vector<std::uint64_t> slots;
    Kind kind;
    double days;
  };
  for (const Case& c : std::vector<Case>{
           {"nothing known", {}, Kind::too_few, 0},
           {"one day", {5}, Kind::too_few, 0},
           {"six days", {0, 10, 20, 30, 40, 50}, Kind::too_few, 0},
           {"seven days", {0, 10, 20, 30, 40, 50, 60}, Kind::day, 94},
           {"no growth", {7, 7, 7, 7, 7, 7, 7, 7}, Kind::not_growing, 0},
           {"slots were freed",
            {70, 60, 50, 40, 30, 20, 10},
            Kind::not_growing,
            0},
           // 12 bad sectors once, and no more.
           {"one bad day",
            {0, 0, 12, 12, 12, 12, 12, 12, 12, 12},
            Kind::not_growing,
            0},
           {"one outlier", {0, 10, 20, 900, 40, 50, 60, 70, 80}, Kind::day, 92},
           {"very slow", {0, 0, 0, 0, 0, 1, 1, 1, 1, 1}, Kind::far, 0},
           {"full", {0, 500, 1000}, Kind::full, 0},
       }) {
    const SpareForecast f = forecast(c.slots);
    EXPECT_EQ(f.kind, c.kind) << c.what;
    EXPECT_EQ(f.days, c.slots.size()) << c.what;
    EXPECT_FALSE(forecast_text(f).empty());
    if (c.kind != Kind::day) {
      EXPECT_EQ(f.full_at, 0U) << c.what;
      continue;
    }
    EXPECT_NEAR(f.days_left, c.days, 1e-6) << c.what;
    EXPECT_EQ((f.full_at - kNow) / kDay, static_cast<std::uint64_t>(c.days));
  }
  EXPECT_EQ(forecast_text(forecast({0, 10, 20, 30, 40, 50, 60})),
            "SPARE is full on 2027-02-23 at 10.00 slots a day (median of 7 "
            "days)");
}

TEST(SpareForecast, days_without_the_server_do_not_bend_it) {
  std::vector<HealthPoint> points;
  for (const std::uint64_t day : {0, 1, 2, 20, 21, 50, 51})
    points.push_back({kNow - (51 - day) * kDay, day * 10, 0, 0});
  const SpareForecast f = forecast_spare(points, 510, 1000, kNow);
  ASSERT_EQ(f.kind, SpareForecast::Kind::day);
  EXPECT_NEAR(f.slots_per_day, 10, 1e-6);
  EXPECT_NEAR(f.days_left, 49, 1e-6);
}

TEST(SpareForecast, only_the_last_of_each_day_and_of_90_days_counts) {
  std::vector<HealthPoint> points = daily({0, 1, 2, 3, 4, 5, 6});
  for (HealthPoint& p : points) p.time -= 91 * kDay;
  EXPECT_EQ(forecast_spare(points, 6, 1000, kNow).kind,
            SpareForecast::Kind::too_few);
  points.clear();
  for (std::uint64_t h = 0; h < 48; ++h)
    points.push_back({kNow - (47 - h) * kHour, h, 0, 0});
  EXPECT_EQ(forecast_spare(points, 47, 1000, kNow).kind,
            SpareForecast::Kind::too_few);
  EXPECT_EQ(forecast_spare(points, 47, 1000, kNow).days, 3U);
}

}  // namespace
}  // namespace nbd_remap
