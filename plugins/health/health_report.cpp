// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/health/health_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "plugins/base/tool_text.hpp"

namespace nbd_remap {
namespace {

struct Step {
  std::string_view code;
  const char* words;
};
// In the order in which an owner should look at them.
constexpr std::array kSteps{
    Step{"stopping", "wait until it has stopped"},
    Step{"spare-missing", "bring SPARE back, then start the server again"},
    Step{"breaker", "look at MAIN's cable, power and controller first"},
    Step{"not-reached", "look at the network and the remote server"},
    Step{"map-failed", "look at SPARE, then start the server again"},
    Step{"main-in-doubt",
         "start the server again and check the file systems on the volume"},
    Step{"spare-in-doubt",
         "start the server again and check the file systems on the volume"},
    Step{"spare-full", "enlarge SPARE, or replace MAIN"},
    Step{"smart-failing", "copy what matters away and replace MAIN now"},
    Step{"spare-soon-full", "enlarge SPARE, or replace MAIN, before that day"},
    Step{"spare-nearly-full", "enlarge SPARE, or replace MAIN"},
    Step{"pending",
         "find the files with `nbd-remapctl map explain` and restore them"},
    Step{"metadata-copy",
         "start the server again, which mends it; if it comes back replace "
         "SPARE"},
    Step{"smart-pending", "scan the volume, which rescues what can be read"},
    Step{"retired", "plan a new SPARE"},
    Step{"smart-worn", "plan a new MAIN"},
    Step{"remapped",
         "nothing is lost; acknowledge it, and replace MAIN if it goes on"}};

constexpr double kSoonDays = 30;

// 0, 1, 2, ... for 0, 1 to 9, 10 to 99, ...
unsigned decades(std::uint64_t n) {
  unsigned out = 0;
  for (; n != 0; n /= 10) ++out;
  return out;
}

// Medium errors since the point at the beginning of the window, or the first.
std::optional<std::uint64_t> recent_errors(const HealthMemory& memory,
                                           std::uint64_t now) {
  const HealthPoint* from = nullptr;
  for (const HealthPoint& p : memory.points)
    if (from == nullptr || (p.time <= now && now - p.time >= kErrorWindow))
      from = &p;
  if (from == nullptr) return std::nullopt;
  return memory.errors - std::min(memory.errors, from->errors);
}

const SmartCounts* known_smart(const HealthMemory& memory, std::uint64_t now) {
  const auto& smart = memory.smart;
  if (!smart || (smart->noted < now && now - smart->noted > kSmartLasts))
    return nullptr;
  return &*smart;
}

bool worn(const SmartCounts& smart) {
  return smart.below_threshold || smart.used_percent.value_or(0) >= 100 ||
         (smart.spare_percent && smart.spare_threshold_percent &&
          *smart.spare_percent <= *smart.spare_threshold_percent);
}

ScorePart errors_part(const HealthMemory& memory, std::uint64_t now) {
  ScorePart part{"errors", 20, 0, "no point of the past yet"};
  const auto n = recent_errors(memory, now);
  if (!n) return part;
  part.lost = std::min(part.weight, 5 * decades(*n));
  part.why = fmt::format("{} of MAIN in 7 days", count_of(*n, "medium error"));
  return part;
}

ScorePart pending_part(const VolumeStatus& s) {
  ScorePart part{"pending", 20, 0, ""};
  const std::uint64_t n = s.store.pending;
  if (n != 0) part.lost = std::min(part.weight, 5 + 5 * decades(n));
  part.why = fmt::format("{} with unreadable sectors", count_of(n, "block"));
  return part;
}

ScorePart spare_part(const VolumeStatus& s) {
  ScorePart part{"spare", 25, 25, "there is no SPARE"};
  const SlotPool::Counts& slots = s.store.slots;
  if (!s.missing_spare.empty() || slots.slots == 0) return part;
  const std::uint64_t gone = std::min(slots.slots, slots.used + slots.retired);
  const double share =
      static_cast<double>(gone) / static_cast<double>(slots.slots);
  // Rounded up: what is used shows.
  part.lost = std::min(part.weight, static_cast<unsigned>(share * part.weight) +
                                        (gone == 0 ? 0U : 1U));
  part.why = fmt::format("{} of {} gone", gone, count_of(slots.slots, "slot"));
  return part;
}

ScorePart trend_part(const SpareForecast& forecast) {
  ScorePart part{"trend", 15, 0, forecast_text(forecast)};
  if (forecast.kind == SpareForecast::Kind::full) part.lost = part.weight;
  if (forecast.kind != SpareForecast::Kind::day) return part;
  part.lost = forecast.days_left <= kSoonDays ? part.weight
              : forecast.days_left <= 90      ? 10
              : forecast.days_left <= 365     ? 5
                                              : 0;
  return part;
}

ScorePart smart_part(const SmartCounts* smart) {
  ScorePart part{"smart", 20, 0, "not known; see nbd-remapctl scan seed"};
  if (smart == nullptr) return part;
  const std::uint64_t pending = smart->pending.value_or(0);
  const std::uint64_t past =
      std::max(smart->reallocated.value_or(0), smart->uncorrected.value_or(0));
  if (smart->passed == false)
    part.lost = part.weight;
  else if (worn(*smart) || pending != 0)
    part.lost = 10;
  else if (past != 0)
    part.lost = 5;
  part.why =
      fmt::format("{}{} pending, {} reallocated, {} uncorrected, of {}",
                  smart->passed == false ? "FAILING, "
                  : worn(*smart)         ? "worn, "
                                         : "",
                  pending, smart->reallocated.value_or(0),
                  smart->uncorrected.value_or(0), day_text(smart->noted));
  return part;
}

void add_reason(Health& health, std::string_view code, std::string text,
                std::uint64_t count = 1) {
  health.state = std::max(health.state, HealthState::degraded);
  health.reasons.push_back({code, count, std::move(text)});
}

void add_smart(Health& health, const SmartCounts& smart) {
  if (smart.passed == false)
    add_reason(health, "smart-failing",
               "MAIN's drive says of itself that it is failing");
  if (const std::uint64_t n = smart.pending.value_or(0); n != 0)
    add_reason(health, "smart-pending",
               fmt::format("MAIN's drive has {} that it cannot read",
                           count_of(n, "sector")),
               n);
  if (smart.passed != false && worn(smart))
    add_reason(health, "smart-worn",
               "MAIN's drive says of itself that it is worn");
}

bool is_news(const HealthReason& reason,
             const std::optional<Acknowledged>& known) {
  if (!known) return true;
  const auto it = known->counts.find(reason.code);
  return it == known->counts.end() || reason.count > it->second;
}

std::string sentence_of(const HealthReport& report,
                        const HealthMemory& memory) {
  const Health& health = report.health;
  if (health.reasons.empty()) return "All is well; there is nothing to do.";
  const bool quiet = !report.alert && health.state == HealthState::degraded;
  for (const Step& step : kSteps)
    for (const HealthReason& reason : health.reasons) {
      if (reason.code != step.code) continue;
      if (quiet) return reason.text + "; acknowledged, nothing is worse since.";
      if (!report.alert || is_news(reason, memory.acknowledged))
        return fmt::format("{}: {}.", reason.text, step.words);
    }
  return health.reasons.front().text + ".";
}

}  // namespace

HealthReport report_health(const VolumeStatus& status,
                           const HealthMemory& memory, std::uint64_t now) {
  HealthReport out;
  out.health = assess_health(status);
  const SmartCounts* smart = known_smart(memory, now);
  if (smart != nullptr) add_smart(out.health, *smart);
  const SlotPool::Counts& slots = status.store.slots;
  if (status.missing_spare.empty()) {
    out.forecast = forecast_spare(memory.points, slots.used + slots.retired,
                                  slots.slots, now);
    if (out.forecast.kind == SpareForecast::Kind::day &&
        out.forecast.days_left <= kSoonDays)
      add_reason(out.health, "spare-soon-full", forecast_text(out.forecast));
  }
  out.parts = {errors_part(memory, now), pending_part(status),
               spare_part(status), trend_part(out.forecast), smart_part(smart)};
  out.score = 100;
  for (const ScorePart& part : out.parts) out.score -= part.lost;
  if (out.health.state == HealthState::failed) out.score = 0;
  // A stop is what somebody wanted.
  out.alert = out.health.state != HealthState::stopping &&
              std::any_of(out.health.reasons.begin(), out.health.reasons.end(),
                          [&](const HealthReason& reason) {
                            return is_news(reason, memory.acknowledged);
                          });
  out.sentence = sentence_of(out, memory);
  out.activity = status.activity;
  if (!status.activity.empty())
    out.sentence =
        status.activity + ". " +
        (out.health.reasons.empty() ? "Else all is well." : out.sentence);
  return out;
}

Acknowledged acknowledge(const HealthReport& report, std::uint64_t now) {
  Acknowledged out;
  out.at = now;
  for (const HealthReason& reason : report.health.reasons)
    out.counts[std::string(reason.code)] = reason.count;
  return out;
}

bool lower_acknowledged(Acknowledged& acknowledged, const Health& health) {
  bool changed = false;
  for (auto it = acknowledged.counts.begin();
       it != acknowledged.counts.end();) {
    std::uint64_t count = 0;
    for (const HealthReason& reason : health.reasons)
      if (reason.code == it->first) count = reason.count;
    changed |= count < it->second;
    if (count == 0) {
      it = acknowledged.counts.erase(it);
      continue;
    }
    it->second = std::min(it->second, count);
    ++it;
  }
  return changed;
}

}  // namespace nbd_remap
