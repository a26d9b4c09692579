// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/control.hpp"

#include <fmt/format.h>

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "plugins/base/build_id.hpp"

namespace nbd_remap {
namespace {

using Json = nlohmann::ordered_json;

HttpResponse bad_request(const std::string& detail) {
  return http_problem(400, "Bad Request", detail);
}

HttpResponse show(BadDisk& disk, const BadDiskDefaults& defaults,
                  std::uint64_t limit) {
  const auto status = disk.bad().status(limit);
  const DiskCounters& requests = disk.requests();
  Json runs = Json::array();
  for (const auto& run : status.runs)
    runs.push_back({{"start", run.start},
                    {"count", run.count},
                    {"mode", bad_mode_name(run.mode)},
                    {"transient", run.transient}});
  const Json body{
      {"version", build_id()},
      {"file", disk.info().name},
      {"size_sectors", disk.bad().size_sectors()},
      {"sector_bytes", kSectorBytes},
      {"seed", defaults.seed},
      {"heal_on_write", defaults.heal_on_write},
      {"bad_sectors", status.bad_sectors},
      {"bad_runs", status.all_runs},
      {"bad", std::move(runs)},
      {"fired", {{"read", status.fired_reads}, {"write", status.fired_writes}}},
      {"requests",
       {{"read", requests.reads.load()},
        {"write", requests.writes.load()},
        {"zero", requests.zeroes.load()},
        {"trim", requests.trims.load()},
        {"flush", requests.flushes.load()}}}};
  return {200, body.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"};
}

HttpResponse show(BadDisk& disk, const BadDiskDefaults& defaults,
                  const HttpRequest& request) {
  std::uint64_t limit = kDefaultRunLimit;
  for (const auto& [key, value] : request.query) {
    const auto number = parse_whole(value);
    if (key != "limit" || !number || *number > kMaxRunLimit)
      return bad_request(
          fmt::format("{}={}: expected limit, a number up to {}, for example "
                      "?limit=10",
                      key, value, kMaxRunLimit));
    limit = *number;
  }
  return show(disk, defaults, limit);
}

// The body as an object that has no other members than these. Otherwise says
// what is wrong with it.
std::optional<Json> parse_body(const HttpRequest& request,
                               std::initializer_list<const char*> members,
                               std::string& problem) {
  if (!request.query.empty()) {
    problem = "expected no query";
    return {};
  }
  // Depth is bounded by the body's size, and the parser does not recurse.
  Json body = Json::parse(request.body, nullptr, false);
  if (!body.is_object()) {
    problem =
        "the body: expected a JSON object, for example "
        "{\"ranges\":\"100-199\"}";
    return {};
  }
  for (const auto& [key, value] : body.items()) {
    bool known = false;
    for (const char* member : members) known = known || key == member;
    if (!known) {
      problem = fmt::format("member \"{}\": unknown", key);
      return {};
    }
  }
  return body;
}

// The member as T if it is there; says what is wrong if it cannot be one.
std::optional<std::uint64_t> whole_member(const Json& body, const char* name,
                                          std::string& problem) {
  const auto it = body.find(name);
  if (it == body.end()) return {};
  if (!it->is_number_unsigned()) {
    problem = fmt::format("member \"{}\": expected a whole number", name);
    return {};
  }
  return it->get<std::uint64_t>();
}

std::optional<std::string> text_member(const Json& body, const char* name,
                                       std::string& problem) {
  const auto it = body.find(name);
  if (it == body.end()) return {};
  if (!it->is_string()) {
    problem = fmt::format("member \"{}\": expected a string", name);
    return {};
  }
  return it->get<std::string>();
}

std::optional<double> percent_member(const Json& body, std::string& problem) {
  const auto it = body.find("percent");
  if (it == body.end()) return {};
  const double percent = it->is_number() ? it->get<double>() : 0;
  if (!(percent > 0 && percent <= 100)) {
    problem = "member \"percent\": expected a number above 0 and up to 100";
    return {};
  }
  return percent;
}

HttpResponse make_bad(BadDisk& disk, const BadDiskDefaults& defaults,
                      const HttpRequest& request) {
  std::string problem;
  const auto body = parse_body(
      request, {"ranges", "count", "percent", "seed", "mode", "transient"},
      problem);
  if (!body) return bad_request(problem);
  const auto list = text_member(*body, "ranges", problem);
  auto count = whole_member(*body, "count", problem);
  const auto percent = percent_member(*body, problem);
  const auto seed = whole_member(*body, "seed", problem);
  const auto mode_name = text_member(*body, "mode", problem);
  const auto transient = whole_member(*body, "transient", problem);
  const auto mode =
      mode_name ? parse_bad_mode(*mode_name) : std::optional(defaults.mode);
  if (!problem.empty()) return bad_request(problem);
  if (list.has_value() + count.has_value() + percent.has_value() != 1)
    return bad_request(
        "expected one of \"ranges\", \"count\" and \"percent\", for example "
        "{\"ranges\":\"100-199\"}");
  if (list && seed)
    return bad_request("member \"seed\": goes with \"count\" or \"percent\"");
  if (!mode)
    return bad_request("member \"mode\": expected read, write or both");
  if (transient && *transient > UINT32_MAX)
    return bad_request("member \"transient\": expected at most 4294967295");

  const std::uint64_t size = disk.bad().size_sectors();
  if (percent) count = percent_of(*percent, size);
  const auto ranges =
      list ? parse_bad_list(*list)
           : choose_sectors(seed.value_or(defaults.seed), *count, size);
  if (!ranges) return bad_request(ranges.error().place);
  if (auto ok = disk.bad().add(
          *ranges, *mode, static_cast<std::uint32_t>(transient.value_or(0)));
      !ok)
    return bad_request(ok.error().place);
  return show(disk, defaults, kDefaultRunLimit);
}

HttpResponse heal(BadDisk& disk, const BadDiskDefaults& defaults,
                  const HttpRequest& request) {
  std::string problem;
  const auto body = parse_body(request, {"ranges", "all"}, problem);
  if (!body) return bad_request(problem);
  const auto list = text_member(*body, "ranges", problem);
  if (!problem.empty()) return bad_request(problem);
  const bool all = body->contains("all") && (*body)["all"] == true;
  if (body->size() != 1 || (!all && !list))
    return bad_request(
        "expected {\"ranges\":\"100-199\"} or {\"all\":true}, one of the two");
  if (all) {
    disk.bad().heal_all();
  } else {
    const auto ranges = parse_bad_list(*list);
    if (!ranges) return bad_request(ranges.error().place);
    if (auto ok = disk.bad().heal(*ranges); !ok)
      return bad_request(ok.error().place);
  }
  return show(disk, defaults, kDefaultRunLimit);
}

}  // namespace

HttpResponse answer_control(BadDisk& disk, const BadDiskDefaults& defaults,
                            const HttpRequest& request) {
  using Answer =
      HttpResponse (*)(BadDisk&, const BadDiskDefaults&, const HttpRequest&);
  struct Route {
    const char* method;
    const char* path;
    Answer answer;
  };
  static constexpr Route kRoutes[] = {{"GET", "/v1/baddisk", show},
                                      {"POST", "/v1/baddisk/bad", make_bad},
                                      {"POST", "/v1/baddisk/heal", heal}};
  for (const Route& route : kRoutes) {
    if (request.path != route.path) continue;
    if (request.method == route.method)
      return route.answer(disk, defaults, request);
    return http_problem(
        405, "Method Not Allowed",
        fmt::format("{}: expected {}", route.path, route.method));
  }
  return http_problem(404, "Not Found",
                      fmt::format("{}: expected /v1/baddisk, /v1/baddisk/bad "
                                  "or /v1/baddisk/heal",
                                  request.path));
}

}  // namespace nbd_remap
