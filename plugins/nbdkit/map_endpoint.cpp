// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/map_endpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/nbdkit/answers.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

json counts_json(const MapCounts& c) {
  return {{"looked_at", c.looked_at},
          {"remapped", c.remapped},
          {"already", c.already},
          {"unmapped", c.unmapped},
          {"incomplete", c.incomplete},
          {"main_bad", c.main_bad},
          {"readable", c.readable},
          {"pending", c.pending},
          {"cleared_sectors", c.cleared_sectors}};
}

json slot_json(std::uint64_t slot_or_none) {
  return slot_or_none == RemapEntry::kNoSlot ? json() : json(slot_or_none);
}

json history_json(const MapEvents::History& history, std::uint64_t started) {
  json events = json::array();
  for (const MapEvent& e : history.events)
    events.push_back(
        {{"time", e.unix_seconds},
         {"event", map_event_name(e.what)},
         {"slot", slot_json(e.slot_or_none)},
         {"reason", e.why},
         {"error", e.errnum == 0
                       ? json()
                       : json(std::generic_category().message(e.errnum))}});
  return {{"since", history.complete_at == 0 ? started : history.complete_at},
          {"forgotten", history.forgotten},
          {"events", std::move(events)}};
}

}  // namespace

MapEndpoint::MapEndpoint(Volume& volume, const std::string& name,
                         const Clock& clock)
    : volume_(volume),
      base_("/v1/volumes/" + name + "/"),
      started_(clock.unix_seconds()),
      worker_(volume) {}

std::optional<HttpResponse> MapEndpoint::answer(const HttpRequest& request) {
  if (!request.path.starts_with(base_)) return std::nullopt;
  const std::string word = request.path.substr(base_.size());
  for (const auto& [name, action] : kMapActions)
    if (word == name) {
      if (request.method != "POST")
        return http_problem(405, "Method not allowed", "use POST");
      return act(action, request);
    }
  if (word == "grow" || word == "quiesce" || word == "resume") {
    if (request.method != "POST")
      return http_problem(405, "Method not allowed", "use POST");
    if (word == "grow") return grow(request);
    if (word == "quiesce") return quiesce(request);
    volume_.resume();
    return reply({{"schema", kSchema}, {"quiesced", false}});
  }
  const bool asks_job = word.starts_with("jobs/");
  if (!asks_job && word != "explain") return std::nullopt;
  if (request.method != "GET")
    return http_problem(405, "Method not allowed", "use GET");
  if (!asks_job) return explain(request);
  const auto id = number({"", "", {{"id", word.substr(5)}}, ""}, "id", 0);
  return job(id ? *id : 0);
}

HttpResponse MapEndpoint::explain(const HttpRequest& request) const {
  const auto offset = number(request, "offset", volume_.size());
  if (!offset || *offset >= volume_.size())
    return bad_request(fmt::format(
        "offset: expected a byte of the volume, below {}", volume_.size()));
  const VolumeStatus status = volume_.status();
  if (!status.missing_spare.empty())
    return conflict("SPARE is missing, so nothing is known of any block: " +
                    status.missing_spare);
  const std::uint64_t bytes = volume_.block_bytes();
  const BlockNo block{*offset / bytes};
  const auto entries = volume_.entries(block, 1);
  const bool known = !entries.empty() && entries[0].block == block;
  RemapEntry entry;
  entry.block = block;
  entry.valid = ~std::uint64_t{0};
  if (known) entry = entries[0];
  const bool readable = entry.valid >> (*offset % bytes / kSectorBytes) & 1;
  json slot;
  json place;
  std::uint64_t on_disk = *offset;
  if (entry.remapped()) {
    const auto at = status.store.superblock.layout.slot(entry.slot()).value;
    slot = {{"number", entry.slot_or_none}, {"spare_offset", at}};
    on_disk = at + *offset % bytes;
  }
  if (readable)
    place = {{"disk", entry.remapped() ? "SPARE" : "MAIN"},
             {"name", entry.remapped() ? status.spare.info.name
                                       : status.main.info.name},
             {"offset", on_disk}};
  return reply(
      {{"schema", kSchema},
       {"offset", *offset},
       {"size", volume_.size()},
       {"block", block.value},
       {"block_size", bytes},
       {"state", !known             ? "clean"
                 : entry.remapped() ? "remapped"
                                    : "pending"},
       {"slot", slot},
       {"place", place},
       {"unreadable_sectors", unreadable_sectors(entry, volume_.block_bytes())},
       {"history", history_json(volume_.history(block), started_)}});
}

HttpResponse MapEndpoint::act(MapAction action, const HttpRequest& request) {
  const std::uint64_t size = volume_.size();
  const auto offset = number(request, "offset", size);
  const auto length = number(request, "length", 0);
  if (!offset || *offset >= size)
    return bad_request(
        fmt::format("offset: expected a byte of the volume, below {}", size));
  if (!length || *length == 0 || *length > size - *offset)
    return bad_request(fmt::format("length: expected 1 to {} bytes from {} on",
                                   size - *offset, *offset));
  if (action == MapAction::clear) {
    if (*offset % kSectorBytes != 0 || *length % kSectorBytes != 0)
      return bad_request(
          "only whole sectors can be cleared; expected multiples of 512");
    const auto word = request.query.find("confirm");
    if (word == request.query.end() || word->second != "lose-data")
      return bad_request(
          "what cannot be read now is lost for good; expected "
          "confirm=lose-data");
  }
  if (volume_.read_only())
    return conflict("the volume is read-only; nothing can be changed");
  const auto id = worker_.start(action, VolumeOffset{*offset}, *length);
  if (!id) return conflict("another action on the map is running");
  return job(*id);
}

HttpResponse MapEndpoint::grow(const HttpRequest& request) {
  const auto word = request.query.find("disk");
  if (word == request.query.end() ||
      (word->second != "main" && word->second != "spare"))
    return bad_request("disk: expected main or spare");
  if (volume_.read_only())
    return conflict("the volume is read-only; nothing can be changed");
  const auto id = worker_.start(
      word->second == "main" ? MapWorker::Grow::main : MapWorker::Grow::spare);
  if (!id) return conflict("another action is running");
  return job(*id);
}

HttpResponse MapEndpoint::quiesce(const HttpRequest& request) {
  const auto seconds = number(request, "seconds", kQuiesceSeconds);
  if (!seconds || *seconds == 0 || *seconds > kMostQuiesceSeconds)
    return bad_request(
        fmt::format("seconds: expected 1 to {}", kMostQuiesceSeconds));
  const auto id = worker_.quiesce(std::chrono::seconds(*seconds));
  if (!id) return conflict("another action is running");
  return job(*id);
}

HttpResponse MapEndpoint::run(const std::string& name,
                              std::function<Status()> work) {
  const auto id = worker_.start(name, std::move(work));
  if (!id) return conflict("another action is running");
  return job(*id);
}

HttpResponse MapEndpoint::job(std::uint64_t id) {
  const auto found = worker_.wait(id, kPatience);
  if (!found)
    return http_problem(404, "Not found", "only the last job is known");
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::steady_clock::now() - found->began);
  json body{{"schema", kSchema},
            {"job",
             {{"id", found->id},
              {"action", found->name},
              {"offset", found->offset.value},
              {"length", found->length},
              {"state", found->done ? "done" : "running"},
              {"seconds", seconds.count()}}}};
  if (!found->done) return reply(body, 202);
  const MapStep& step = found->step;
  const bool of_map =
      std::any_of(kMapActions.begin(), kMapActions.end(),
                  [&](const auto& a) { return a.first == found->name; });
  if (!of_map) {
    if (found->name == "grow")
      body["size"] = step.status ? json(found->grown_to) : json();
    body["error"] =
        step.status ? json() : json(error_words(step.status.error()));
    return reply(body);
  }
  const bool all =
      step.status && step.next.value >= found->offset.value + found->length;
  body["counts"] = counts_json(step.counts);
  body["next"] = all ? json() : json(step.next.value);
  body["error"] = step.status ? json() : json(error_words(step.status.error()));
  return reply(body);
}

}  // namespace nbd_remap
