// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/control_body.hpp"

#include <fmt/format.h>

#include <utility>

namespace nbd_remap {

ControlBody::ControlBody(const HttpRequest& request,
                         std::initializer_list<const char*> members,
                         Empty empty) {
  if (!request.query.empty()) refuse("expected no query");
  if (request.body.empty() && empty == Empty::allowed) return;
  // Depth is bounded by the body's size, and the parser does not recurse.
  auto body = nlohmann::json::parse(request.body, nullptr, false);
  if (!body.is_object()) {
    refuse(
        "the body: expected a JSON object, for example "
        "{\"ranges\":\"100-199\"}");
    return;
  }
  for (const auto& [key, value] : body.items()) {
    bool known = false;
    for (const char* member : members) known = known || key == member;
    if (!known) refuse(fmt::format("member \"{}\": unknown", key));
  }
  body_ = std::move(body);
}

void ControlBody::refuse(std::string problem) {
  if (problem_.empty()) problem_ = std::move(problem);
}

const nlohmann::json* ControlBody::find(const char* name) const {
  const auto it = body_.find(name);
  return it == body_.end() ? nullptr : &*it;
}

std::optional<std::uint64_t> ControlBody::whole(const char* name,
                                                std::uint64_t max) {
  const auto* const value = find(name);
  if (value == nullptr) return {};
  if (value->is_number_unsigned() && value->get<std::uint64_t>() <= max)
    return value->get<std::uint64_t>();
  refuse(fmt::format("member \"{}\": expected a whole number, at most {}", name,
                     max));
  return {};
}

std::optional<std::string> ControlBody::text(const char* name) {
  const auto* const value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  refuse(fmt::format("member \"{}\": expected a string", name));
  return {};
}

std::optional<BadMode> ControlBody::mode() {
  const auto name = text("mode");
  if (!name) return {};
  const auto mode = parse_bad_mode(*name);
  if (!mode) refuse("member \"mode\": expected read, write or both");
  return mode;
}

bool ControlBody::flag(const char* name) {
  const auto* const value = find(name);
  if (value == nullptr) return false;
  if (!value->is_boolean())
    refuse(fmt::format("member \"{}\": expected true or false", name));
  return *value == true;
}

std::optional<double> ControlBody::percent() {
  const auto* const value = find("percent");
  if (value == nullptr) return {};
  const double percent = value->is_number() ? value->get<double>() : 0;
  if (percent > 0 && percent <= 100) return percent;
  refuse("member \"percent\": expected a number above 0 and up to 100");
  return {};
}

std::vector<BadRange> ControlBody::sectors(std::uint64_t default_seed,
                                           std::uint64_t size_sectors) {
  const auto list = text("ranges");
  auto count = whole("count");
  const auto share = percent();
  const auto seed = whole("seed");
  if (!problem_.empty()) return {};
  if (list.has_value() + count.has_value() + share.has_value() != 1) {
    refuse(
        "expected one of \"ranges\", \"count\" and \"percent\", for example "
        "{\"ranges\":\"100-199\"}");
    return {};
  }
  if (share) count = percent_of(*share, size_sectors);
  auto ranges =
      list ? parse_bad_list(*list)
           : choose_sectors(seed.value_or(default_seed), *count, size_sectors);
  if (ranges) return std::move(*ranges);
  refuse(ranges.error().place);
  return {};
}

}  // namespace nbd_remap
