// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/control.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "plugins/baddisk/control_actions.hpp"
#include "plugins/baddisk/parameters.hpp"
#include "plugins/base/build_id.hpp"

namespace nbd_remap {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kRoot = "/v1/baddisk";

Json show_bad(const BadSectors::Status& status) {
  Json runs = Json::array();
  for (const auto& run : status.runs)
    runs.push_back({{"start", run.start},
                    {"count", run.count},
                    {"mode", bad_mode_name(run.mode)},
                    {"transient", run.transient}});
  return runs;
}

Json show_slow(const SlowSectors::Status& status) {
  Json runs = Json::array();
  for (const auto& run : status.runs)
    runs.push_back({{"start", run.start},
                    {"count", run.count},
                    {"mode", bad_mode_name(run.mode)},
                    {"delay_ms", run.delay_ms}});
  return runs;
}

Json show_rot(const BitRot::Status& status) {
  Json runs = Json::array();
  for (const auto& run : status.runs)
    runs.push_back({{"start", run.start},
                    {"count", run.count},
                    {"seed", run.seed},
                    {"bits", run.bits}});
  return runs;
}

Json show_device(BadDisk& disk) {
  const auto dead = disk.dead().status();
  const auto hang = disk.hang().status();
  return {{"dead", dead.dead},
          {"dies_after", dead.dies_after ? Json(*dead.dies_after) : Json()},
          {"errno", errno_name(dead.errnum)},
          {"hung", hang.hung},
          {"waiting", hang.waiting}};
}

Json show_cache(BadDisk& disk) {
  if (disk.cache() == nullptr) return {};
  const auto status = disk.cache()->status();
  return {{"power", status.power},
          {"limit_bytes", status.limit_bytes},
          {"held_bytes", status.held_bytes},
          {"held_writes", status.held_writes},
          {"destaged", status.destaged},
          {"cuts", status.cuts},
          {"sectors_kept", status.sectors_kept},
          {"sectors_lost", status.sectors_lost}};
}

HttpResponse show(BadDisk& disk, const BadDiskDefaults& defaults,
                  std::uint64_t limit) {
  const auto bad = disk.bad().status(limit);
  const auto slow = disk.slow().status(limit);
  const auto rot = disk.rot().status(limit);
  const DiskCounters& requests = disk.requests();
  const Json body{
      {"version", build_id()},
      {"file", disk.info().name},
      {"size_sectors", disk.bad().size_sectors()},
      {"sector_bytes", kSectorBytes},
      {"seed", defaults.seed},
      {"heal_on_write", defaults.heal_on_write},
      {"bad_sectors", bad.bad_sectors},
      {"bad_runs", bad.all_runs},
      {"bad", show_bad(bad)},
      {"slow", show_slow(slow)},
      {"rot", show_rot(rot)},
      {"device", show_device(disk)},
      {"write_cache", show_cache(disk)},
      {"fired",
       {{"read", bad.fired_reads},
        {"write", bad.fired_writes},
        {"slow", slow.fired},
        {"rot", rot.fired},
        {"rot_in_file", requests.rotted_sectors.load()},
        {"dead", disk.dead().status().fired},
        {"hung", disk.hang().status().fired},
        {"no_power", disk.cache() ? disk.cache()->status().refused : 0}}},
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
      return http_problem(
          400, "Bad Request",
          fmt::format("{}={}: expected limit, a number up to {}, for example "
                      "?limit=10",
                      key, value, kMaxRunLimit));
    limit = *number;
  }
  return show(disk, defaults, limit);
}

const char* title_of(int status) {
  return status == 400   ? "Bad Request"
         : status == 409 ? "Conflict"
                         : "Internal Server Error";
}

}  // namespace

HttpResponse answer_control(BadDisk& disk, const BadDiskDefaults& defaults,
                            const HttpRequest& request) {
  const std::string_view path = request.path;
  const bool is_root = path == kRoot;
  Action act = nullptr;
  if (path.starts_with(kRoot) && path.substr(kRoot.size()).starts_with('/'))
    act = find_action(path.substr(kRoot.size() + 1));
  if (!is_root && act == nullptr)
    return http_problem(404, "Not Found",
                        fmt::format("{}: expected {}, or one of {} under it",
                                    path, kRoot, action_names()));
  const char* const method = is_root ? "GET" : "POST";
  if (request.method != method)
    return http_problem(405, "Method Not Allowed",
                        fmt::format("{}: expected {}", path, method));
  if (is_root) return show(disk, defaults, request);
  if (const auto problem = act(disk, defaults, request))
    return http_problem(problem->status, title_of(problem->status),
                        problem->detail);
  return show(disk, defaults, kDefaultRunLimit);
}

}  // namespace nbd_remap
