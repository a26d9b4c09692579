// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/scanner/scan_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>

#include "plugins/base/tool_text.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

Error wrong(const std::string& words) {
  return make_error(ErrorClass::caller, EINVAL, words);
}

std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t n = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return n;
}

struct Unit {
  char letter;
  std::uint64_t seconds;
};
constexpr Unit kUnits[] = {
    {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
constexpr std::uint64_t kLongest = 3653 * std::uint64_t{86400};

Result<ScanPlan> parse_range(const std::string& text, std::uint64_t size) {
  const auto plus = text.find('+');
  const auto offset = parse_bytes(text.substr(0, plus));
  const auto length = plus == std::string::npos
                          ? std::nullopt
                          : parse_bytes(text.substr(plus + 1));
  if (!offset || !length || *length == 0 || *offset >= size ||
      *length > size - *offset)
    return wrong(fmt::format(
        "plan range:{}: expected OFFSET+LENGTH within the volume's {} bytes, "
        "for example range:1G+64M",
        text, size));
  ScanPlan plan;
  plan.kind = ScanPlan::Kind::range;
  plan.range = {*offset, *offset + *length};
  return plan;
}

}  // namespace

Result<std::chrono::seconds> parse_duration(const std::string& text) {
  for (const Unit& unit : kUnits) {
    if (text.empty() || text.back() != unit.letter) continue;
    const auto n =
        whole_number(std::string_view(text).substr(0, text.size() - 1));
    if (!n || *n == 0 || *n > kLongest / unit.seconds) break;
    return std::chrono::seconds(*n * unit.seconds);
  }
  return wrong(fmt::format(
      "{}: expected a duration up to 10 years, such as 90s, 30m, 12h, 7d or 4w",
      text));
}

Result<ScanPlan> parse_scan_plan(const std::string& text, std::uint64_t size) {
  ScanPlan plan;
  if (text == "full") return plan;
  if (text == "pending") {
    plan.kind = ScanPlan::Kind::pending;
    return plan;
  }
  constexpr std::string_view kOlder = "older-than:";
  constexpr std::string_view kRange = "range:";
  if (text.starts_with(kOlder)) {
    const auto age = parse_duration(text.substr(kOlder.size()));
    if (!age) return wrong("plan older-than:" + age.error().place);
    plan.kind = ScanPlan::Kind::older;
    plan.older = *age;
    return plan;
  }
  if (text.starts_with(kRange))
    return parse_range(text.substr(kRange.size()), size);
  return wrong(
      fmt::format("plan {}: expected full, pending, older-than:DURATION or "
                  "range:OFFSET+LENGTH",
                  text));
}

std::string scan_plan_text(const ScanPlan& plan) {
  switch (plan.kind) {
    case ScanPlan::Kind::full:
      return "full";
    case ScanPlan::Kind::pending:
      return "pending";
    case ScanPlan::Kind::older:
      return fmt::format("older-than:{}s", plan.older.count());
    case ScanPlan::Kind::range:
      return fmt::format("range:{}+{}", plan.range.from,
                         plan.range.to - plan.range.from);
    case ScanPlan::Kind::seeds:
      return "seeds";
  }
  return "unknown";
}

Result<ScanRate> parse_scan_rate(const std::string& text) {
  ScanRate rate;
  if (text == "max") return rate;
  if (!text.empty() && text.back() == '%') {
    const auto n =
        whole_number(std::string_view(text).substr(0, text.size() - 1));
    if (n && *n >= 1 && *n <= 100) {
      rate.percent = static_cast<unsigned>(*n);
      return rate;
    }
  } else if (const auto bytes = parse_bytes(text);
             bytes && *bytes >= kMaxBlockBytes) {
    rate.bytes_per_second = *bytes;
    return rate;
  }
  return wrong(fmt::format(
      "rate {}: expected bytes a second of at least 32K, such as 50M, or a "
      "share of the idle time from 1% to 100%, or max",
      text));
}

std::string scan_rate_text(const ScanRate& rate) {
  if (rate.bytes_per_second != 0)
    return fmt::format("{}", rate.bytes_per_second);
  if (rate.percent != 100) return fmt::format("{}%", rate.percent);
  return "max";
}

std::vector<ScanRange> normalised(std::vector<ScanRange> ranges,
                                  std::uint64_t size,
                                  std::uint32_t block_bytes) {
  std::vector<ScanRange> out;
  std::sort(
      ranges.begin(), ranges.end(),
      [](const ScanRange& a, const ScanRange& b) { return a.from < b.from; });
  for (ScanRange r : ranges) {
    if (r.from >= size || r.to <= r.from) continue;
    r.from = round_down(r.from, block_bytes);
    r.to = r.to >= size ? size : std::min(size, round_up(r.to, block_bytes));
    if (!out.empty() && r.from <= out.back().to)
      out.back().to = std::max(out.back().to, r.to);
    else
      out.push_back(r);
  }
  return out;
}

}  // namespace nbd_remap
