// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_replace.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "server/answer_fields.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them
using nlohmann::json;

std::string time_left(std::uint64_t seconds) {
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 7200) return fmt::format("{} min", seconds / 60);
  return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
}

bool is_of_spare(const json& s) {
  const auto role = s.find("role");
  return role != s.end() && *role == "spare";
}

std::string copying(const json& s) {
  const std::uint64_t bytes = number(s, "bytes");
  const std::uint64_t copied = number(s, "copied_bytes");
  const std::uint64_t checked = number(s, "checked_bytes");
  const bool checks = copied >= bytes && !is_of_spare(s);
  std::string out =
      fmt::format("{}: {} of {} ({})", checks ? "reading it back" : "copying",
                  human_bytes(checks ? checked : copied), human_bytes(bytes),
                  percent_of(checks ? checked : copied, bytes));
  if (const std::uint64_t rate = number(s, "bytes_per_second"); rate != 0)
    out += fmt::format(", {}/s", human_bytes(rate));
  if (const json& left = field(s, "seconds_left"); !left.is_null())
    out += fmt::format(", about {} left",
                       time_left(number_of(left, "seconds_left")));
  return out;
}

std::string state_of(const json& s) {
  const std::string phase = text(s, "phase");
  if (phase == "copying") return copying(s);
  if (phase == "switched")
    return "switched; blocks on SPARE are being copied back";
  if (phase == "done") return "done";
  return fmt::format("{}: {}", phase, text(s, "reason"));
}

std::string replace_text(const std::string& name, const json& s) {
  if (text(s, "phase") == "none")
    return fmt::format("{}: {} was never replaced\n", printable(name),
                       is_of_spare(s) ? "SPARE" : "MAIN");
  std::string out = fmt::format("{}: {} to {}: {}\n", printable(name),
                                text(s, "old"), text(s, "new"), state_of(s));
  if (const json& waits = field(s, "waits_for"); !waits.is_null())
    out += fmt::format("  waits: {}\n", text_of(waits, "waits_for"));
  const std::uint64_t errors = number(s, "read_errors");
  const std::uint64_t lost = number(s, "unreadable_sectors");
  const std::uint64_t unread = number(s, "unread_bytes");
  if (errors + lost + unread != 0)
    out += fmt::format(
        "  read errors {}, {} left for patient reading, {} sectors cannot be "
        "read\n",
        errors, human_bytes(unread), lost);
  if (text(s, "phase") == "copying" && !is_of_spare(s))
    out += fmt::format("  in sync after a crash: {} of {} regions\n",
                       number(s, "regions_in_sync"), number(s, "regions"));
  return out;
}

}  // namespace

Result<std::string> new_disk_word(const std::string& word) {
  const std::size_t colon = word.find(':');
  if (word.starts_with("nbd") && colon != std::string::npos &&
      word.find('/') > colon)
    return word;
  std::error_code error;
  const auto path = std::filesystem::absolute(word, error);
  if (!error && !word.empty()) return path.string();
  return make_error(ErrorClass::caller, EDESTADDRREQ,
                    fmt::format("\"{}\": expected the path or the NBD URI of "
                                "the new disk",
                                word));
}

Result<std::string> render_replace(const std::string& name,
                                   const json& status) {
  return render([&] { return replace_text(name, status); });
}

ExitStatus replace_exit(const json& status) {
  const bool bad = status.value("phase", "") == "failed" ||
                   status.value("waits_for", json()).is_string();
  return bad ? ExitStatus::failed : ExitStatus::fine;
}

}  // namespace nbd_remap
