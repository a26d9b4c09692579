// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/status_endpoint.hpp"

#include <unistd.h>

#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

#include "plugins/base/build_id.hpp"
#include "plugins/nbdkit/answers.hpp"
#include "plugins/nbdkit/health_endpoint.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxRemaps = 10'000;

json errors_json(const std::array<std::uint64_t, kErrorClassCount>& errors) {
  json out = json::object();
  for (int i = 0; i < kErrorClassCount; ++i)
    out[std::string(error_class_name(static_cast<ErrorClass>(i)))] =
        errors[static_cast<std::size_t>(i)];
  return out;
}

json link_json(const DiskStatus& disk) {
  if (!disk.link) return nullptr;
  return {{"connected", disk.link->connected},
          {"reconnects", disk.link->reconnects},
          {"replayed_bytes", disk.link->replayed_bytes}};
}

}  // namespace

StatusEndpoint::StatusEndpoint(const Volume& volume, const HealthKeeper& health,
                               std::string name, const Clock& clock,
                               std::function<void()> stop)
    : volume_(volume),
      health_(health),
      name_(std::move(name)),
      clock_(clock),
      started_(clock.now()),
      stop_(std::move(stop)) {}

HttpResponse StatusEndpoint::answer(const HttpRequest& request) const {
  const std::string base = "/v1/volumes/" + name_;
  const bool known = request.path == "/v1/health" ||
                     request.path == "/v1/volumes" || request.path == base ||
                     request.path == base + "/remaps";
  if (request.path == base + "/stop") {
    if (request.method != "POST")
      return http_problem(405, "Method not allowed", "use POST");
    stop_();
    return reply({{"schema", kSchema}, {"state", "stopping"}}, 202);
  }
  if (!known)
    return http_problem(
        404, "Not found",
        "no such path; this socket serves the volume \"" + name_ + "\"");
  if (request.method != "GET")
    return http_problem(405, "Method not allowed", "use GET");
  if (request.path == "/v1/health") return health();
  if (request.path == "/v1/volumes") return volumes();
  if (request.path == base) return volume();
  return remaps(request);
}

HttpResponse StatusEndpoint::health() const {
  const HealthReport report = health_.report();
  const std::string state(health_state_name(report.health.state));
  return reply({{"schema", kSchema},
                {"state", state},
                {"alert", report.alert},
                {"volumes",
                 {{{"name", name_},
                   {"state", state},
                   {"alert", report.alert},
                   {"score", report.score},
                   {"sentence", report.sentence},
                   {"reasons", reason_texts(report.health)}}}}});
}

HttpResponse StatusEndpoint::volumes() const {
  const VolumeStatus status = volume_.status();
  return reply({{"schema", kSchema},
                {"volumes",
                 {{{"name", name_},
                   {"state", health_state_name(health_.report().health.state)},
                   {"size", status.size}}}}});
}

HttpResponse StatusEndpoint::volume() const {
  const VolumeStatus s = volume_.status();
  const HealthReport report = health_.report();
  const Stats& stats = volume_.stats();
  const auto requests = [&](Op op) {
    return stats.requests[static_cast<std::size_t>(op)].load();
  };
  std::array<std::uint64_t, kErrorClassCount> client{};
  for (std::size_t i = 0; i < client.size(); ++i)
    client[i] = stats.client_errors[i];
  json spare = nullptr;
  if (s.missing_spare.empty()) {
    const Superblock& sb = s.store.superblock;
    spare = {{"name", s.spare.info.name},
             {"identity", s.spare.info.identity},
             {"uuid", uuid_text(sb.uuid)},
             {"direct", s.spare.info.direct},
             {"remote", s.spare.info.remote},
             {"link", link_json(s.spare)},
             {"slots", s.store.slots.slots},
             {"used", s.store.slots.used},
             {"retired", s.store.slots.retired},
             {"copies_in_step", std::popcount(sb.copies_in_step)},
             {"sequence", s.store.sequence},
             {"log_length", s.store.log_length},
             {"log_records", sb.layout.log_records}};
  }
  return reply(
      {{"schema", kSchema},
       {"name", name_},
       {"state", health_state_name(report.health.state)},
       {"reasons", reason_texts(report.health)},
       {"size", s.size},
       {"block_size", volume_.block_bytes()},
       {"read_only", s.read_only},
       {"quiesced", s.quiesced},
       {"build", build_id()},
       {"pid", ::getpid()},
       {"uptime_seconds", std::chrono::duration_cast<std::chrono::seconds>(
                              clock_.now() - started_)
                              .count()},
       {"activity", report.activity.empty() ? json() : json(report.activity)},
       {"flush_in_doubt", s.main.in_doubt || s.spare.in_doubt},
       {"main",
        {{"name", s.main.info.name},
         {"identity", s.main.info.identity},
         {"direct", s.main.info.direct},
         {"remote", s.main.info.remote},
         {"link", link_json(s.main)},
         {"failed", s.breaker_open}}},
       {"spare", spare},
       {"blocks",
        {{"remapped", s.store.remapped},
         {"pending", s.store.pending},
         {"pending_capacity", s.store.pending_capacity}}},
       {"requests",
        {{"read", requests(Op::read)},
         {"write", requests(Op::write)},
         {"zero", requests(Op::zero)},
         {"trim", requests(Op::trim)},
         {"flush", requests(Op::flush)},
         {"extents", requests(Op::extents)},
         {"cache", requests(Op::cache)}}},
       {"bytes",
        {{"read", stats.bytes_read.load()},
         {"written", stats.bytes_written.load()}}},
       {"errors",
        {{"main", errors_json(s.main.errors)},
         {"spare", errors_json(s.spare.errors)},
         {"client", errors_json(client)}}},
       {"healed",
        {{"writes", stats.healed_writes.load()},
         {"blocks", stats.healed_blocks.load()},
         {"retried_reads", stats.retried_reads.load()}}},
       {"lock_timeouts", stats.lock_timeouts.load()},
       {"in_flight", s.in_flight},
       {"health", health_json(report, health_.memory())},
       {"breaker", s.breaker_open ? "open" : "closed"}});
}

HttpResponse StatusEndpoint::remaps(const HttpRequest& request) const {
  const auto from = number(request, "from", 0);
  const auto limit = number(request, "limit", 1000);
  if (!from || !limit || *limit == 0 || *limit > kMaxRemaps)
    return http_problem(400, "Bad request",
                        "from: expected a block number; limit: expected 1 to "
                        "10000");
  const std::uint64_t block_bytes = volume_.block_bytes();
  auto entries = volume_.entries(BlockNo{*from}, *limit + 1);
  const bool more = entries.size() > *limit;
  if (more) entries.pop_back();
  json list = json::array();
  for (const RemapEntry& e : entries) {
    list.push_back(
        {{"block", e.block.value},
         {"offset", e.block.value * block_bytes},
         {"state", e.remapped() ? "remapped" : "pending"},
         {"slot", e.remapped() ? json(e.slot_or_none) : json()},
         {"unreadable_sectors", unreadable_sectors(e, volume_.block_bytes())}});
  }
  const json next = more ? json(entries.back().block.value + 1) : json();
  return reply({{"schema", kSchema},
                {"block_size", block_bytes},
                {"entries", std::move(list)},
                {"next", next}});
}

}  // namespace nbd_remap
