// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/health/health_memory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::uint64_t kStart = 1'795'219'200;  // midnight UTC
constexpr std::size_t kRoom = 16 << 10;

HealthMemory rich() {
  HealthMemory memory;
  for (std::uint64_t h = 0; h < 400 * 24; ++h)
    add_point(memory.points, {kStart + h * kHour, h / 24, h % 7, h});
  memory.errors = 12345;
  SmartCounts smart;
  smart.noted = kStart;
  smart.passed = true;
  smart.pending = 8;
  smart.used_percent = 3;
  memory.smart = smart;
  memory.acknowledged = Acknowledged{kStart, {{"pending", 12}}};
  return memory;
}

TEST(HealthMemory, a_point_is_taken_of_each_hour) {
  std::vector<HealthPoint> points;
  EXPECT_TRUE(add_point(points, {kStart, 1, 0, 0}));
  EXPECT_FALSE(add_point(points, {kStart, 2, 0, 0}));
  EXPECT_FALSE(add_point(points, {kStart + kHour - 1, 2, 0, 0}));
  EXPECT_TRUE(add_point(points, {kStart + kHour, 2, 0, 0}));
  EXPECT_EQ(points.size(), 2U);
}

TEST(HealthMemory, old_hours_become_days_and_old_days_are_forgotten) {
  const std::vector<HealthPoint> points = rich().points;
  const std::uint64_t now = points.back().time;
  std::size_t hourly = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::uint64_t age = now - points[i].time;
    EXPECT_LE(age, kDailyPoints);
    if (age <= kHourlyPoints)
      ++hourly;
    else  // the last one of its day
      EXPECT_EQ(points[i].time % kDay, 23 * kHour);
    EXPECT_TRUE(i == 0 || points[i - 1].time < points[i].time);
  }
  EXPECT_EQ(hourly, 49U);
  EXPECT_EQ(points.size(), 49U + 248U);
  EXPECT_EQ(by_day(points).size(), 251U);
  EXPECT_EQ(by_day(points).back(), points.back());
}

TEST(HealthMemory, a_clock_that_was_set_back_does_not_end_the_history) {
  std::vector<HealthPoint> points;
  add_point(points, {kStart, 1, 0, 0});
  add_point(points, {kStart + 1000 * kDay, 2, 0, 0});
  EXPECT_TRUE(add_point(points, {kStart + kDay, 3, 0, 0}));
  EXPECT_EQ(points.back().slots, 3U);
  EXPECT_TRUE(std::is_sorted(
      points.begin(), points.end(),
      [](const auto& a, const auto& b) { return a.time < b.time; }));
}

TEST(HealthMemory, what_is_written_is_read_again) {
  const HealthMemory memory = rich();
  const std::string text = encode_memory(memory, kRoom);
  EXPECT_LE(text.size(), kRoom);
  EXPECT_EQ(decode_memory(text), memory);
  EXPECT_EQ(decode_memory(encode_memory({}, kRoom)), HealthMemory());
}

TEST(HealthMemory, the_oldest_points_give_way_where_there_is_no_room) {
  HealthMemory memory = rich();
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  for (std::size_t i = 0; i < memory.points.size(); ++i)
    memory.points[i] = {kMost - memory.points.size() + i, kMost, kMost, kMost};
  const std::string text = encode_memory(memory, kRoom);
  EXPECT_LE(text.size(), kRoom);
  const HealthMemory back = decode_memory(text);
  EXPECT_GT(back.points.size(), 100U);
  EXPECT_LT(back.points.size(), memory.points.size());
  EXPECT_EQ(back.points.back(), memory.points.back());
  EXPECT_EQ(back.acknowledged, memory.acknowledged);
  EXPECT_EQ(back.smart, memory.smart);
}

TEST(HealthMemory, what_is_not_as_it_should_be_is_not_there) {
  for (const char* text :
       {"", "x", "null", "[]", "{}", R"({"version":2,"errors":5})",
        R"({"version":1,"points":[[1,2,3]]})",
        R"({"version":1,"points":[[2,0,0,0],[1,0,0,0]]})",
        R"({"version":1,"points":[[-1,0,0,0]]})",
        R"({"version":1,"points":{"a":1}})",
        R"({"version":1,"smart":{"pending":-1}})",
        R"({"version":1,"smart":{"passed":3}})", R"({"version":1,"smart":7})",
        R"({"version":1,"acknowledged":{"at":1,"counts":{"a":-1}}})",
        R"({"version":1,"acknowledged":{"counts":{}}})"})
    EXPECT_EQ(decode_memory(text), HealthMemory()) << text;
  const std::string whole = encode_memory(rich(), kRoom);
  for (std::size_t n = 0; n < whole.size(); n += 97)
    (void)decode_memory(whole.substr(0, n));
  // One odd member takes no other with it.
  json odd = json::parse(whole);
  odd["points"] = 1;
  EXPECT_EQ(decode_memory(odd.dump()).acknowledged, rich().acknowledged);
  EXPECT_TRUE(decode_memory(odd.dump()).points.empty());
}

TEST(SmartCounts, a_body_is_taken_whole_or_not_at_all) {
  for (const char* body :
       {"null", "[]", "{}", R"({"noted":1})", R"({"pending":"8"})",
        R"({"pending":8,"reallocated":-1})", R"({"pending":1.5})",
        R"({"passed":"yes"})", R"({"passed":true,"below_threshold":1})"})
    EXPECT_FALSE(parse_smart_counts(json::parse(body))) << body;
  const auto counts = parse_smart_counts(
      json::parse(R"({"passed":false,"pending":8,"unknown":[]})"));
  ASSERT_TRUE(counts);
  EXPECT_EQ(counts->passed, false);
  EXPECT_EQ(counts->pending, 8U);
  EXPECT_FALSE(counts->reallocated);
}

}  // namespace
}  // namespace nbd_remap
