// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_render_health.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "server/answer_fields.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them
using nlohmann::json;

std::string health_line(const char* label, const std::string& words) {
  return fmt::format("{:<10}{}\n", label, words);
}

std::string day(std::uint64_t unix_seconds) {
  const auto t = static_cast<std::time_t>(
      std::min<std::uint64_t>(unix_seconds, 253402300799));
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(t));
}

}  // namespace

std::string health_text(const json& health) {
  std::string out = health_line("Health", text(health, "sentence"));
  out +=
      health_line("Score", fmt::format("{} of 100", number(health, "score")));
  for (const json& part : list(health, "parts"))
    out +=
        health_line("", fmt::format("{}: {} of {} lost; {}", text(part, "name"),
                                    number(part, "lost"),
                                    number(part, "weight"), text(part, "why")));
  out += health_line("Forecast", text(field(health, "forecast"), "text"));
  const json& known = field(health, "acknowledged");
  if (!known.is_null())
    out += health_line(
        "", fmt::format("acknowledged on {}{}", day(number(known, "at")),
                        flag(health, "alert") ? "; worse since" : ""));
  return out;
}

std::string health_lines(const json& volume, const char* indent) {
  // Not of a server that is older.
  if (!volume.is_object() || !volume.contains("sentence")) return "";
  return fmt::format("{}{}\n{}score {} of 100\n", indent,
                     text(volume, "sentence"), indent, number(volume, "score"));
}

Result<std::string> render_acknowledge(const std::string& name,
                                       const json& answer) {
  return render([&] {
    std::string out =
        fmt::format("{}: {}\n", printable(name), text(answer, "sentence"));
    const std::string saved = text(answer, "saved");
    if (saved == "nowhere")
      out += "SPARE has no room to note it: it holds until the server stops.\n";
    else if (saved != "yes")
      out += "It is not noted on SPARE yet.\n";
    return out;
  });
}

}  // namespace nbd_remap
