// SPDX-License-Identifier: BSD-3-Clause
// Tables of cases for the score, the sentence and the alert.
#include "plugins/health/health_report.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kNow = 1'795'219'200 + 12 * kHour;

VolumeStatus sound() {
  VolumeStatus status;
  status.store.slots.slots = 1000;
  status.store.superblock.copies_in_step = 3;
  return status;
}
// One point a day, the last one today.
std::vector<HealthPoint> daily(const std::vector<std::uint64_t>& slots) {
  std::vector<HealthPoint> points;
  for (std::size_t i = 0; i < slots.size(); ++i)
    points.push_back({kNow - (slots.size() - 1 - i) * kDay, slots[i], 0, 0});
  return points;
}

const ScorePart& part(const HealthReport& report, const std::string& name) {
  for (const ScorePart& p : report.parts)
    if (name == p.name) return p;
  ADD_FAILURE() << name;
  return report.parts.front();
}

TEST(HealthReport, a_sound_volume_has_all_points_and_nothing_to_do) {
  const HealthReport r = report_health(sound(), {}, kNow);
  EXPECT_EQ(r.score, 100U);
  EXPECT_FALSE(r.alert);
  EXPECT_EQ(r.sentence, "All is well; there is nothing to do.");
  unsigned weights = 0;
  for (const ScorePart& p : r.parts) {
    weights += p.weight;
    EXPECT_EQ(p.lost, 0U) << p.name;
    EXPECT_FALSE(p.why.empty()) << p.name;
  }
  EXPECT_EQ(weights, 100U);
}

TEST(HealthReport, what_is_being_done_to_its_disks_is_said_first) {
  VolumeStatus status = sound();
  status.activity = "SPARE is being replaced by /dev/sdd, 12 % done";
  EXPECT_EQ(
      report_health(status, {}, kNow).sentence,
      "SPARE is being replaced by /dev/sdd, 12 % done. Else all is well.");
  EXPECT_FALSE(report_health(status, {}, kNow).alert);
  status.store.pending = 1;
  const std::string sentence = report_health(status, {}, kNow).sentence;
  EXPECT_TRUE(sentence.starts_with("SPARE is being")) << sentence;
  EXPECT_NE(sentence.find("unreadable sectors"), std::string::npos) << sentence;
}

TEST(HealthReport, each_part_loses_by_its_own_table) {
  struct Case {
    const char* part;
    unsigned lost;
    std::function<void(VolumeStatus&, HealthMemory&)> change;
  };
  using S = VolumeStatus;
  using M = HealthMemory;
  const auto errors = [](std::uint64_t before, std::uint64_t now,
                         std::uint64_t age) {
    return [=](S&, M& m) {
      m.points = {{kNow - age, 0, 0, before}};
      m.errors = now;
    };
  };
  const auto pending = [](std::uint64_t n) {
    return [=](S& s, M&) { s.store.pending = n; };
  };
  const auto used = [](std::uint64_t n, std::uint64_t retired = 0) {
    return [=](S& s, M&) {
      s.store.slots.used = n;
      s.store.slots.retired = retired;
    };
  };
  const auto smart = [](const std::function<void(SmartCounts&)>& what) {
    return [=](S&, M& m) {
      SmartCounts counts;
      counts.noted = kNow - kDay;
      counts.passed = true;
      what(counts);
      m.smart = counts;
    };
  };
  const auto growing = [](std::uint64_t per_day) {
    return [=](S& s, M& m) {
      std::vector<std::uint64_t> slots;
      for (std::uint64_t i = 0; i < 8; ++i) slots.push_back(i * per_day);
      m.points = daily(slots);
      s.store.slots.used = 7 * per_day;
    };
  };
  const std::vector<Case> cases{
      {"errors", 0, errors(5, 5, kDay)},
      {"errors", 5, errors(5, 6, kDay)},
      {"errors", 5, errors(0, 9, kDay)},
      {"errors", 10, errors(0, 10, kDay)},
      {"errors", 15, errors(0, 999, kDay)},
      {"errors", 20, errors(0, 1000, kDay)},
      {"errors", 20, errors(0, ~std::uint64_t{0}, kDay)},
      {"errors", 0, errors(7, 5, kDay)},
      {"pending", 0, pending(0)},
      {"pending", 10, pending(1)},
      {"pending", 10, pending(9)},
      {"pending", 15, pending(10)},
      {"pending", 20, pending(100)},
      {"pending", 20, pending(~std::uint64_t{0})},
      {"spare", 0, used(0)},
      {"spare", 1, used(1)},
      {"spare", 13, used(500)},
      {"spare", 13, used(250, 250)},
      {"spare", 25, used(999)},
      {"spare", 25, used(1000)},
      {"spare", 25, used(~std::uint64_t{0} / 2)},
      {"spare", 25, [](S& s, M&) { s.missing_spare = "gone"; }},
      {"trend", 0, growing(0)},
      {"trend", 0, growing(2)},
      {"trend", 5, growing(5)},
      {"trend", 10, growing(20)},
      {"trend", 15, growing(50)},
      {"trend", 15, used(1000)},
      {"smart", 0, smart([](SmartCounts&) {})},
      {"smart", 20, smart([](SmartCounts& c) { c.passed = false; })},
      {"smart", 10, smart([](SmartCounts& c) { c.pending = 1; })},
      {"smart", 10, smart([](SmartCounts& c) { c.below_threshold = true; })},
      {"smart", 10, smart([](SmartCounts& c) { c.used_percent = 100; })},
      {"smart", 0, smart([](SmartCounts& c) { c.used_percent = 99; })},
      {"smart", 10, smart([](SmartCounts& c) {
         c.spare_percent = 10;
         c.spare_threshold_percent = 10;
       })},
      {"smart", 5, smart([](SmartCounts& c) { c.reallocated = 1; })},
      {"smart", 5, smart([](SmartCounts& c) { c.uncorrected = 7; })},
      {"smart", 0, smart([](SmartCounts& c) {
         c.passed = false;
         c.noted = kNow - 31 * kDay;
       })},
  };
  int number = 0;
  for (const Case& c : cases) {
    VolumeStatus status = sound();
    HealthMemory memory;
    c.change(status, memory);
    const HealthReport r = report_health(status, memory, kNow);
    EXPECT_EQ(part(r, c.part).lost, c.lost)
        << c.part << " case " << number << ": " << part(r, c.part).why;
    EXPECT_LE(r.score, 100U);
    ++number;
  }
}

TEST(HealthReport, errors_of_more_than_a_week_ago_are_forgotten) {
  HealthMemory memory;
  for (std::uint64_t day = 0; day <= 10; ++day)
    memory.points.push_back(
        {kNow - (10 - day) * kDay, 0, 0, day < 2 ? 0U : 500U});
  memory.errors = 501;
  EXPECT_EQ(part(report_health(sound(), memory, kNow), "errors").lost, 5U);
}

// Mistake 36: whatever the numbers, the score is one.
TEST(HealthReport, the_score_is_never_outside_its_range) {
  std::mt19937_64 random(5);
  const auto any = [&] {
    return random() >> (random() % 64);  // of every size
  };
  for (int i = 0; i < 20'000; ++i) {
    VolumeStatus status;
    status.store.slots.slots = any();
    status.store.slots.used = any();
    status.store.slots.retired = any();
    status.store.pending = any();
    status.store.remapped = any();
    status.breaker_open = random() % 8 == 0;
    HealthMemory memory;
    std::uint64_t time = 0;
    for (int p = 0; p < 12; ++p)
      memory.points.push_back({time += 1 + any() % kDay, any(), any(), any()});
    memory.errors = any();
    SmartCounts smart;
    smart.noted = any();
    smart.pending = any();
    smart.spare_percent = any();
    memory.smart = smart;
    const HealthReport r = report_health(status, memory, any());
    ASSERT_LE(r.score, 100U);
    unsigned lost = 0;
    for (const ScorePart& p : r.parts) {
      ASSERT_LE(p.lost, p.weight);
      lost += p.lost;
    }
    if (r.health.state != HealthState::failed) {
      ASSERT_EQ(r.score, 100 - lost);
    }
    ASSERT_FALSE(r.sentence.empty());
  }
}

TEST(HealthReport, the_sentence_names_the_worst_and_the_next_step) {
  struct Case {
    const char* begins;
    const char* step;
    std::function<void(VolumeStatus&, HealthMemory&)> change;
  };
  using S = VolumeStatus;
  using M = HealthMemory;
  for (const Case& c : std::vector<Case>{
           {"2 blocks of MAIN are bad", "acknowledge it",
            [](S&s, M&) { s.store.remapped = 2; }},
           {"3 blocks have unreadable", "map explain",
            [](S&s, M&) { s.store.remapped = 2, s.store.pending = 3; }},
           {"MAIN no longer answers", "cable",
            [](S&s, M&) { s.breaker_open = true, s.store.pending = 3; }},
           {"SPARE is full", "enlarge SPARE",
            [](S&s, M&) { s.store.slots.used = 1000, s.store.pending = 1; }},
           {"MAIN's drive says of itself that it is failing", "replace MAIN",
            [](S&s, M&m) {
              s.store.pending = 1;
              m.smart = SmartCounts();
              m.smart->noted = kNow;
              m.smart->passed = false;
            }},
           {"SPARE is full on 2026-11-25", "before that day",
            [](S&s, M&m) {
              m.points = daily({0, 100, 200, 300, 400, 500, 600});
              s.store.slots.used = 600;
            }},
           {"the server is stopping", "wait",
            [](S&s, M&) { s.stopping = true; }},
       }) {
    VolumeStatus status = sound();
    HealthMemory memory;
    c.change(status, memory);
    const std::string said = report_health(status, memory, kNow).sentence;
    EXPECT_EQ(said.find(c.begins), 0U) << said;
    EXPECT_NE(said.find(c.step), std::string::npos) << said;
    EXPECT_EQ(said.back(), '.');
  }
}

TEST(HealthReport, every_reason_of_a_volume_has_a_next_step) {
  VolumeStatus all = sound();
  all.store.failed = "x";
  all.main.in_doubt = all.spare.in_doubt = true;
  all.store.slots.retired = 1;
  all.store.slots.used = 950;
  all.store.superblock.copies_in_step = 2;
  all.store.pending = all.store.remapped = 1;
  all.main.link = LinkStatus{false, 1, 0};
  all.breaker_open = all.stopping = true;
  VolumeStatus missing = sound();
  missing.missing_spare = "x";
  VolumeStatus full = sound();
  full.store.slots.used = 1000;
  for (const VolumeStatus& s : {all, missing, full})
    for (const HealthReason& reason : assess_health(s).reasons) {
      Acknowledged others;
      for (const HealthReason& other : assess_health(s).reasons)
        if (other.code != reason.code)
          others.counts[std::string(other.code)] = ~std::uint64_t{0};
      HealthMemory memory;
      memory.acknowledged = others;
      VolumeStatus awake = s;
      awake.stopping = false;
      if (reason.code == "stopping") continue;
      const std::string said = report_health(awake, memory, kNow).sentence;
      EXPECT_EQ(said.find(reason.text + ": "), 0U) << reason.code << said;
    }
}

TEST(HealthReport, a_volume_that_fails_requests_has_no_points) {
  VolumeStatus status = sound();
  status.breaker_open = true;
  EXPECT_EQ(report_health(status, {}, kNow).score, 0U);
}

TEST(HealthReport, what_was_acknowledged_is_no_alert_until_there_is_more) {
  VolumeStatus status = sound();
  status.store.remapped = 10;
  status.store.pending = 2;
  HealthMemory memory;
  const HealthReport before = report_health(status, memory, kNow);
  EXPECT_TRUE(before.alert);
  memory.acknowledged = acknowledge(before, kNow);
  HealthReport r = report_health(status, memory, kNow + 30 * kDay);
  EXPECT_FALSE(r.alert);
  EXPECT_EQ(r.health.state, HealthState::degraded);
  EXPECT_NE(r.sentence.find("acknowledged"), std::string::npos);
  // A known bad block moved to SPARE.
  status.store.remapped = 11;
  status.store.pending = 1;
  EXPECT_FALSE(report_health(status, memory, kNow).alert);
  // A new one.
  status.store.remapped = 12;
  r = report_health(status, memory, kNow);
  EXPECT_TRUE(r.alert);
  EXPECT_EQ(r.sentence.find("12 blocks of MAIN are bad"), 0U) << r.sentence;
  status.store.remapped = 9;
  status.store.pending = 3;
  EXPECT_TRUE(report_health(status, memory, kNow).alert);
  // Another kind of thing.
  status = sound();
  status.store.slots.retired = 1;
  EXPECT_TRUE(report_health(status, memory, kNow).alert);
}

TEST(HealthReport, what_is_better_is_all_that_stays_acknowledged) {
  Acknowledged known{kNow, {{"pending", 12}, {"retired", 1}}};
  Health health;
  health.reasons = {{"pending", 12, ""}, {"retired", 1, ""}};
  EXPECT_FALSE(lower_acknowledged(known, health));
  health.reasons = {{"pending", 20, ""}, {"retired", 1, ""}};
  EXPECT_FALSE(lower_acknowledged(known, health));
  EXPECT_EQ(known.counts.at("pending"), 12U);
  health.reasons = {{"pending", 3, ""}};
  EXPECT_TRUE(lower_acknowledged(known, health));
  EXPECT_EQ(known.counts.at("pending"), 3U);
  EXPECT_EQ(known.counts.count("retired"), 0U);
}

TEST(HealthReport, a_stop_is_no_alert) {
  VolumeStatus status = sound();
  status.stopping = true;
  EXPECT_FALSE(report_health(status, {}, kNow).alert);
}

}  // namespace
}  // namespace nbd_remap
