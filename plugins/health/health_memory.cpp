// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/health/health_memory.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxCodes = 64;
constexpr std::size_t kMaxPoints = 1000;

struct SmartMember {
  const char* name;
  std::optional<std::uint64_t> SmartCounts::*member;
};
constexpr std::array kSmartMembers{
    SmartMember{"pending", &SmartCounts::pending},
    SmartMember{"reallocated", &SmartCounts::reallocated},
    SmartMember{"uncorrected", &SmartCounts::uncorrected},
    SmartMember{"spare_percent", &SmartCounts::spare_percent},
    SmartMember{"spare_threshold_percent",
                &SmartCounts::spare_threshold_percent},
    SmartMember{"used_percent", &SmartCounts::used_percent}};

// Null: not there.
const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

std::optional<std::uint64_t> count(const json* value) {
  if (value == nullptr || !value->is_number_unsigned()) return std::nullopt;
  return value->get<std::uint64_t>();
}

std::vector<HealthPoint> points_of(const json* list) {
  std::vector<HealthPoint> points;
  if (list == nullptr || !list->is_array() || list->size() > kMaxPoints)
    return points;
  for (const json& p : *list) {
    if (!p.is_array() || p.size() != 4 ||
        !std::all_of(p.begin(), p.end(),
                     [](const json& n) { return n.is_number_unsigned(); }))
      return {};
    const HealthPoint point{p[0], p[1], p[2], p[3]};
    if (!points.empty() && point.time <= points.back().time) return {};
    points.push_back(point);
  }
  return points;
}

std::optional<Acknowledged> acknowledged_of(const json* value) {
  if (value == nullptr) return std::nullopt;
  const json* counts = member(*value, "counts");
  const auto at = count(member(*value, "at"));
  if (!at || counts == nullptr || !counts->is_object() ||
      counts->size() > kMaxCodes)
    return std::nullopt;
  Acknowledged out;
  out.at = *at;
  for (const auto& [code, n] : counts->items()) {
    if (!n.is_number_unsigned()) return std::nullopt;
    out.counts[code] = n.get<std::uint64_t>();
  }
  return out;
}

}  // namespace

bool add_point(std::vector<HealthPoint>& points, const HealthPoint& point) {
  while (!points.empty() && points.back().time > point.time) points.pop_back();
  if (!points.empty() && point.time - points.back().time < kHour) return false;
  points.push_back(point);
  // One of a day is the last of it: it is followed by one of another day.
  std::vector<HealthPoint> kept;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::uint64_t age = point.time - points[i].time;
    const bool last_of_day = i + 1 == points.size() ||
                             points[i].time / kDay != points[i + 1].time / kDay;
    if (age <= kHourlyPoints || (age <= kDailyPoints && last_of_day))
      kept.push_back(points[i]);
  }
  points = std::move(kept);
  return true;
}

std::vector<HealthPoint> by_day(const std::vector<HealthPoint>& points) {
  std::vector<HealthPoint> out;
  for (const HealthPoint& point : points) {
    if (!out.empty() && out.back().time / kDay == point.time / kDay)
      out.pop_back();
    out.push_back(point);
  }
  return out;
}

json smart_json(const SmartCounts& smart) {
  json out{{"noted", smart.noted}, {"below_threshold", smart.below_threshold}};
  if (smart.passed) out["passed"] = *smart.passed;
  for (const auto& [name, value] : kSmartMembers)
    if (smart.*value) out[name] = *(smart.*value);
  return out;
}

std::optional<SmartCounts> parse_smart_counts(const json& body) {
  if (!body.is_object()) return std::nullopt;
  SmartCounts out;
  bool any = false;
  const auto boolean = [&](const char* key) -> std::optional<bool> {
    const json* value = member(body, key);
    if (value == nullptr || !value->is_boolean()) return std::nullopt;
    any = true;
    return value->get<bool>();
  };
  for (const char* key : {"passed", "below_threshold"})
    if (const json* value = member(body, key);
        value != nullptr && !value->is_boolean())
      return std::nullopt;
  out.passed = boolean("passed");
  out.below_threshold = boolean("below_threshold").value_or(false);
  for (const auto& [name, value] : kSmartMembers) {
    const json* given = member(body, name);
    if (given == nullptr) continue;
    out.*value = count(given);
    if (!(out.*value)) return std::nullopt;
    any = true;
  }
  if (!any) return std::nullopt;
  out.noted = count(member(body, "noted")).value_or(0);
  return out;
}

std::string encode_memory(const HealthMemory& memory, std::size_t max_bytes) {
  json out{{"version", 1}, {"errors", memory.errors}};
  if (memory.smart) out["smart"] = smart_json(*memory.smart);
  if (memory.acknowledged)
    out["acknowledged"] = {{"at", memory.acknowledged->at},
                           {"counts", memory.acknowledged->counts}};
  for (std::size_t skip = 0;;) {
    json points = json::array();
    for (std::size_t i = skip; i < memory.points.size(); ++i) {
      const HealthPoint& p = memory.points[i];
      points.push_back({p.time, p.slots, p.pending, p.errors});
    }
    out["points"] = std::move(points);
    std::string text = out.dump();
    if (text.size() <= max_bytes || skip >= memory.points.size()) return text;
    // A point takes at least 9 bytes and at most 86.
    skip = std::min(memory.points.size(),
                    skip + (text.size() - max_bytes) / 86 + 1);
  }
}

HealthMemory decode_memory(std::string_view text) {
  HealthMemory memory;
  const json saved = json::parse(text, nullptr, false);
  if (!saved.is_object() || count(member(saved, "version")) != 1U)
    return memory;
  memory.points = points_of(member(saved, "points"));
  memory.errors = count(member(saved, "errors")).value_or(0);
  if (const json* smart = member(saved, "smart"))
    memory.smart = parse_smart_counts(*smart);
  memory.acknowledged = acknowledged_of(member(saved, "acknowledged"));
  return memory;
}

}  // namespace nbd_remap
