// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_scan.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <map>

#include "plugins/base/tool_text.hpp"
#include "plugins/wire/http_client.hpp"
#include "server/answer_fields.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them

// "3 min", "2 days": of people's size.
std::string duration_words(std::uint64_t seconds) {
  if (seconds < 120) return count_of(seconds, "second");
  if (seconds < 7200) return fmt::format("{} minutes", seconds / 60);
  if (seconds < 172800) return fmt::format("{} hours", seconds / 3600);
  return fmt::format("{} days", seconds / 86400);
}
std::string ago(std::uint64_t now, std::uint64_t then) {
  return then >= now ? "just now" : duration_words(now - then) + " ago";
}

std::string position_line(const json& answer) {
  const json& p = field(answer, "position");
  if (p.is_null()) return "";
  const std::string phase = text(p, "phase");
  if (phase == "slots") return "  reading the slots of SPARE that are used\n";
  if (phase == "pending") return "  trying pending blocks again\n";
  const std::uint64_t done = number(p, "bytes_done");
  const std::uint64_t total = number(p, "bytes_total");
  return fmt::format("  MAIN: {} of {} read ({} %)\n", human_bytes(done),
                     human_bytes(total), total == 0 ? 100 : done * 100 / total);
}

std::string pass_lines(const json& answer, std::uint64_t now) {
  const json& p = field(answer, "pass");
  if (p.is_null()) return "  never scanned\n";
  const json& ended = field(p, "ended");
  std::string out = fmt::format(
      "  {} pass, plan {}{}, {}: {} read, {} unreadable, {} read only at a "
      "later try, {} slow, {} rescued\n",
      ended.is_null() ? "this" : "last", text(p, "plan"),
      flag(p, "dry_run") ? " (dry run)" : "",
      ended.is_null() ? "begun " + ago(now, number(p, "began"))
                      : "ended " + ago(now, number_of(ended, "ended")),
      human_bytes(number(p, "bytes")),
      count_of(number(p, "unreadable_sectors"), "sector"),
      count_of(number(p, "retried_blocks"), "block"),
      count_of(number(p, "slow_chunks"), "chunk"),
      count_of(number(p, "rescued"), "block"));
  if (const std::uint64_t n = number(p, "bad_slots"); n != 0)
    out += fmt::format("  {} of SPARE cannot be read\n", count_of(n, "slot"));
  return out;
}

}  // namespace

Result<std::string> render_scan(const json& answer) {
  return render([&] {
    const std::uint64_t now = number(answer, "now");
    std::string out =
        fmt::format("scan {}, rate {}, rescue {}\n", text(answer, "state"),
                    text(answer, "rate"), text(answer, "rescue"));
    out += position_line(answer);
    out += pass_lines(answer, now);
    out += fmt::format("  {} suspect now, {} rescued and {} came back in all\n",
                       count_of(number(answer, "suspects"), "block"),
                       number(answer, "rescued"), number(answer, "came_back"));
    if (const json& next = field(answer, "next_retest"); !next.is_null()) {
      const std::uint64_t at = number_of(next, "next_retest");
      out += fmt::format("  pending blocks are tried again in {}\n",
                         duration_words(at > now ? at - now : 0));
    }
    if (!flag(answer, "medium_tested"))
      out +=
          "  MAIN is read through the page cache: the cache is tested, not "
          "the medium\n";
    if (const json& why = field(answer, "trouble"); !why.is_null())
      out += "  waits: " + text_of(why, "trouble") + "\n";
    if (const json& why = field(answer, "not_kept"); !why.is_null())
      out += "  not kept over a restart: " + text_of(why, "not_kept") + "\n";
    return out;
  });
}

Result<std::string> render_cells(const json& answer) {
  return render([&] {
    static const std::map<std::string, char> letters{
        {"unknown", '?'}, {"good", '.'},    {"remapped", 'r'},
        {"errors", 'e'},  {"suspect", 's'}, {"pending", 'P'}};
    std::string line;
    std::vector<std::vector<std::string>> rows;
    for (const json& cell : list(answer, "cells")) {
      const std::string state = text(cell, "state");
      const auto letter = letters.find(state);
      line += letter == letters.end() ? '!' : letter->second;
      if (state == "good" || state == "unknown") continue;
      if (rows.empty())
        rows.push_back({"offset", "length", "worst", "pending", "suspect",
                        "remapped", "errors", "retries"});
      rows.push_back({std::to_string(number(cell, "offset")),
                      human_bytes(number(cell, "length")), state,
                      std::to_string(number(cell, "pending")),
                      std::to_string(number(cell, "suspects")),
                      std::to_string(number(cell, "remapped")),
                      std::to_string(number(cell, "errors")),
                      std::to_string(number(cell, "retries"))});
    }
    std::string out;
    for (std::size_t at = 0; at < line.size(); at += 64)
      out += line.substr(at, 64) + "\n";
    out +=
        "? not scanned  . good  r remapped  e had errors  s suspect  "
        "P pending\n";
    return rows.empty() ? out : out + table(rows);
  });
}

CLI::App* ScanWords::add_verb(CLI::App& noun, const char* name,
                              const char* words) {
  CLI::App* verb = noun.add_subcommand(name, words);
  verb->fallthrough();
  verb->add_option("NAME", name_, "May be left out if there is only one");
  return verb;
}

void ScanWords::add_to(CLI::App& scan, CLI::App& map) {
  start_ = add_verb(scan, "start", "Read MAIN, to find what is bad early");
  start_->add_option("--plan", plan_,
                     "full, pending, older-than:DURATION or "
                     "range:OFFSET+LENGTH (default full)");
  start_->add_option("--rate", rate_,
                     "Bytes a second, a share of the idle time such as 30%, "
                     "or max");
  start_->add_flag("--dry-run", dry_run_, "Rescue nothing, say what would be");
  pause_ = add_verb(scan, "pause", "Let it wait where it is");
  resume_ = add_verb(scan, "resume", "Go on from there");
  stop_ = add_verb(scan, "stop", "End it; nothing begins by itself after that");
  status_ = add_verb(scan, "status", "How far it is and what it found");
  cells_ =
      add_verb(map, "cells", "The whole volume in parts, each at its worst");
  cells_->add_option("--cells", count_, "So many parts (default 64)")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{2048}));
}

bool ScanWords::parsed() const {
  for (const CLI::App* verb : {start_, pause_, resume_, stop_, status_, cells_})
    if (verb->parsed()) return true;
  return false;
}

Result<MapAnswer> ScanWords::run(const ControlClient& client) const {
  const auto name = client.volume_name(name_);
  if (!name) return name.error();
  std::string target = "/scan";
  if (start_->parsed()) {
    target += "/start?plan=" + percent_encode(plan_);
    if (!rate_.empty()) target += "&rate=" + percent_encode(rate_);
    if (dry_run_) target += "&dry_run=1";
  }
  if (pause_->parsed()) target += "/pause";
  if (resume_->parsed()) target += "/resume";
  if (stop_->parsed()) target += "/stop";
  if (cells_->parsed()) target = fmt::format("/map?cells={}", count_);
  const bool asks = status_->parsed() || cells_->parsed();
  const auto answer = client.of_volume(*name, asks ? "GET" : "POST", target);
  if (!answer) {
    // The server knows the words of plans and rates; wrong ones are the command
    // line's.
    Error error = answer.error();
    if (start_->parsed() && error.errnum == EINVAL) error.errnum = EDESTADDRREQ;
    return error;
  }
  const auto words =
      cells_->parsed() ? render_cells(*answer) : render_scan(*answer);
  if (!words) return words.error();
  return MapAnswer{*answer, *words, ExitStatus::fine};
}

}  // namespace nbd_remap
