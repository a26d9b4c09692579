// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/scan_endpoint.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/nbdkit/answers.hpp"
#include "plugins/scanner/scan_cells.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::size_t kShownSuspects = 100;

json when(std::uint64_t unix_seconds) {
  return unix_seconds == 0 ? json() : json(unix_seconds);
}
json words_or_null(const std::string& words) {
  return words.empty() ? json() : json(words);
}

const char* run_word(RunState run) {
  switch (run) {
    case RunState::stopped:
      return "stopped";
    case RunState::running:
      return "running";
    case RunState::paused:
      return "paused";
  }
  return "unknown";
}
const char* phase_word(ScanPhase phase) {
  switch (phase) {
    case ScanPhase::main:
      return "main";
    case ScanPhase::slots:
      return "slots";
    case ScanPhase::pending:
      return "pending";
  }
  return "unknown";
}
const char* rescue_word(Rescue rescue) {
  switch (rescue) {
    case Rescue::off:
      return "off";
    case Rescue::pending:
      return "pending";
    case Rescue::suspect:
      return "suspect";
  }
  return "unknown";
}

json suspects_json(const ScanState& s, std::uint64_t block_bytes) {
  json list = json::array();
  for (const auto& [block, watch] : s.watches)
    if (watch.suspect && list.size() < kShownSuspects)
      list.push_back(
          {{"block", block.value}, {"offset", block.value * block_bytes}});
  return list;
}

json pass_json(const ScanState& s) {
  const PassRecord& p = s.pass;
  if (p.began == 0) return nullptr;
  return {{"plan", scan_plan_text(p.plan)},
          {"began", p.began},
          {"ended", when(p.ended)},
          {"dry_run", s.dry_run},
          {"bytes", p.bytes},
          {"unreadable_sectors", p.unreadable_sectors},
          {"retried_blocks", p.retried_blocks},
          {"slow_chunks", p.slow_chunks},
          {"bad_slots", p.bad_slots},
          {"rescued", p.rescued}};
}

}  // namespace

ScanEndpoint::ScanEndpoint(const Volume& volume, Scanner* scanner,
                           const std::string& name, const Clock& clock)
    : volume_(volume),
      scanner_(scanner),
      base_("/v1/volumes/" + name + "/"),
      clock_(clock) {}

std::optional<HttpResponse> ScanEndpoint::answer(const HttpRequest& request) {
  if (!request.path.starts_with(base_)) return std::nullopt;
  const std::string word = request.path.substr(base_.size());
  const bool asks = word == "scan" || word == "map";
  const bool acts = word == "scan/start" || word == "scan/pause" ||
                    word == "scan/resume" || word == "scan/stop";
  if (!asks && !acts) return std::nullopt;
  const bool get = request.method == "GET";
  const bool post = request.method == "POST";
  if ((acts && !post) || (word == "map" && !get) || (!get && !post))
    return http_problem(405, "Method not allowed",
                        acts ? "use POST" : "use GET");
  if (!scanner_) return conflict("the volume is read-only; nothing is scanned");
  if (word == "map") return cells(request);
  if (word == "scan") return get ? status() : seed(request);
  if (word == "scan/start") return start(request);
  if (word == "scan/pause") return done(scanner_->pause());
  if (word == "scan/resume") return done(scanner_->resume());
  return done(scanner_->halt());
}

HttpResponse ScanEndpoint::done(const Status& status) const {
  if (status) return this->status();
  return conflict(status.error().place);
}

HttpResponse ScanEndpoint::status() const {
  const ScanState s = scanner_->state();
  std::uint64_t left = 0;
  for (const ScanRange& r : s.todo) left += r.to - r.from;
  std::uint64_t suspects = 0;
  std::uint64_t watched = 0;
  for (const auto& [block, watch] : s.watches)
    ++(watch.suspect ? suspects : watched);
  const bool active = s.run != RunState::stopped;
  const BackendInfo main = volume_.status().main.info;
  json position;
  if (active)
    position = {{"phase", phase_word(s.phase)},
                {"offset", s.todo.empty() ? json() : json(s.todo[0].from)},
                {"bytes_done", s.todo_bytes - std::min(s.todo_bytes, left)},
                {"bytes_total", s.todo_bytes}};
  return reply({{"schema", kSchema},
                {"state", run_word(s.run)},
                {"position", position},
                {"seeds_left", s.seeds_left},
                {"rate", scan_rate_text(s.rate)},
                {"rescue", rescue_word(scanner_->options().rescue)},
                // Through the page cache of this machine the cache is read.
                {"medium_tested", main.direct || main.remote},
                {"trouble", words_or_null(scanner_->trouble())},
                {"not_kept", words_or_null(scanner_->not_kept())},
                {"pass", pass_json(s)},
                {"passes", s.passes},
                {"last_full", when(s.last_full)},
                {"unreadable_sectors", s.unreadable_sectors},
                {"rescued", s.rescued},
                {"came_back", s.came_back},
                {"suspects", suspects},
                {"watched", watched},
                {"suspect_blocks", suspects_json(s, volume_.block_bytes())},
                {"next_retest", when(s.next_retest())},
                {"now", clock_.unix_seconds()}});
}

HttpResponse ScanEndpoint::start(const HttpRequest& request) {
  const auto word = [&](const char* key, const char* otherwise) {
    const auto it = request.query.find(key);
    return it == request.query.end() ? std::string(otherwise) : it->second;
  };
  const auto plan = parse_scan_plan(word("plan", "full"), volume_.size());
  if (!plan) return bad_request(plan.error().place);
  std::optional<ScanRate> rate;
  if (const std::string text = word("rate", ""); !text.empty()) {
    const auto parsed = parse_scan_rate(text);
    if (!parsed) return bad_request(parsed.error().place);
    rate = *parsed;
  }
  const std::string dry = word("dry_run", "0");
  if (dry != "0" && dry != "1") return bad_request("dry_run: expected 0 or 1");
  return done(scanner_->start(*plan, rate, dry == "1"));
}

HttpResponse ScanEndpoint::seed(const HttpRequest& request) {
  const char* expected =
      "expected {\"seed\": [{\"offset\": N, \"length\": N}, ...]} in bytes of "
      "the volume";
  const json body = json::parse(request.body, nullptr, false);
  if (!body.is_object() || !body.contains("seed") || !body["seed"].is_array())
    return bad_request(expected);
  std::vector<ScanRange> ranges;
  const std::uint64_t size = volume_.size();
  for (const json& part : body["seed"]) {
    const auto number = [&](const char* key) -> std::optional<std::uint64_t> {
      if (!part.is_object() || !part.contains(key) ||
          !part[key].is_number_unsigned())
        return std::nullopt;
      return part[key].get<std::uint64_t>();
    };
    const auto offset = number("offset");
    const auto length = number("length");
    if (!offset || !length || *length == 0) return bad_request(expected);
    if (*offset >= size || *length > size - *offset)
      return bad_request(fmt::format("{} bytes at {}: the volume has {}",
                                     *length, *offset, size));
    ranges.push_back({*offset, *offset + *length});
  }
  if (ranges.empty()) return bad_request("no parts: " + std::string(expected));
  return done(scanner_->seed(ranges));
}

HttpResponse ScanEndpoint::cells(const HttpRequest& request) const {
  const auto wanted = number(request, "cells", 64);
  if (!wanted || *wanted == 0 || *wanted > kRegions)
    return bad_request(fmt::format("cells: expected 1 to {}", kRegions));
  const auto folded =
      fold_regions(scanner_->state(), volume_.size(), volume_.block_bytes(),
                   *wanted, [&](BlockNo from) -> std::optional<RemapEntry> {
                     const auto one = volume_.entries(from, 1);
                     if (one.empty()) return std::nullopt;
                     return one[0];
                   });
  json list = json::array();
  for (const Cell& c : folded)
    list.push_back({{"offset", c.offset},
                    {"length", c.length},
                    {"state", cell_state_name(c.state)},
                    {"errors", c.errors},
                    {"retries", c.retries},
                    {"suspects", c.suspects},
                    {"pending", c.pending},
                    {"remapped", c.remapped},
                    {"scanned", when(c.scanned_at)},
                    {"slowest_us", c.slowest_us},
                    {"mean_us", c.mean_us}});
  return reply({{"schema", kSchema},
                {"size", volume_.size()},
                {"cells", std::move(list)}});
}

}  // namespace nbd_remap
