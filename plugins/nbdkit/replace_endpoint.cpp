// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/replace_endpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "plugins/backend/open_backend.hpp"
#include "plugins/nbdkit/answers.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

const char* phase_name(ReplacePhase phase) {
  switch (phase) {
    case ReplacePhase::none:
      return "none";
    case ReplacePhase::copying:
      return "copying";
    case ReplacePhase::switched:
      return "switched";
    case ReplacePhase::done:
      return "done";
    case ReplacePhase::failed:
      return "failed";
    case ReplacePhase::aborted:
      return "aborted";
  }
  return "none";
}

json or_null(const std::string& text) {
  return text.empty() ? json() : json(text);
}

}  // namespace

ReplaceEndpoint::ReplaceEndpoint(Replacer& main, SpareReplacer& spare,
                                 MapEndpoint& jobs, const std::string& name)
    : main_(main),
      spare_(spare),
      jobs_(jobs),
      base_("/v1/volumes/" + name + "/") {}

std::optional<HttpResponse> ReplaceEndpoint::answer(
    const HttpRequest& request) {
  const bool abort = request.path == base_ + "abort-replace";
  if (!abort && request.path != base_ + "replace") return std::nullopt;
  const auto role = request.query.find("role");
  const bool spare = role != request.query.end() && role->second == "spare";
  if (role != request.query.end() && !spare && role->second != "main")
    return http_problem(400, "Bad request", "role: expected main or spare");
  if (request.method == "GET" && !abort) return show(spare);
  if (request.method != "POST")
    return http_problem(405, "Method not allowed",
                        abort ? "use POST" : "use GET or POST");
  if (abort)
    return jobs_.run("abort-replace", [this, spare] {
      return spare ? spare_.abort() : main_.abort();
    });
  return start(request, spare);
}

// Jobs run one after another.
Status ReplaceEndpoint::begin(const std::string& spec, bool force, bool spare) {
  if (!spare && spare_.busy())
    return make_error(ErrorClass::caller, EBUSY,
                      "SPARE is being replaced; MAIN can be when that ended");
  if (!spare) return main_.start(spec, force);
  const ReplacePhase phase = main_.status().phase;
  if (phase == ReplacePhase::copying || phase == ReplacePhase::switched)
    return make_error(ErrorClass::caller, EBUSY,
                      "MAIN is being replaced; SPARE can be when that ended");
  return spare_.start(spec, force);
}

HttpResponse ReplaceEndpoint::start(const HttpRequest& request, bool spare) {
  const auto disk = request.query.find("disk");
  const bool named =
      disk != request.query.end() &&
      (is_nbd_uri(disk->second) || disk->second.starts_with("/"));
  if (!named)
    return http_problem(400, "Bad request",
                        "disk: expected the absolute path or the NBD URI of "
                        "the new disk");
  const auto word = request.query.find("force");
  const bool force = word != request.query.end() && word->second == "yes";
  return jobs_.run("replace", [this, spec = disk->second, force, spare] {
    return begin(spec, force, spare);
  });
}

std::string replace_words(const ReplaceStatus& main,
                          const ReplaceStatus& spare) {
  const auto percent = [](std::uint64_t part, std::uint64_t all) {
    return all == 0 ? 0 : std::min<std::uint64_t>(100, part * 100 / all);
  };
  std::string words;
  if (main.phase == ReplacePhase::copying)
    words = fmt::format(
        "MAIN is being replaced by {}, {} % done", main.next,
        percent(main.copied_bytes + main.checked_bytes, 2 * main.bytes));
  else if (main.phase == ReplacePhase::switched)
    words = fmt::format(
        "MAIN was replaced by {}, blocks on SPARE are being "
        "copied back",
        main.next);
  else if (spare.phase == ReplacePhase::copying)
    words = fmt::format("SPARE is being replaced by {}, {} % done", spare.next,
                        percent(spare.copied_bytes, spare.bytes));
  const std::string& waits =
      words.starts_with("MAIN") ? main.waits_for : spare.waits_for;
  if (!words.empty() && !waits.empty()) words += "; it waits: " + waits;
  return words;
}

HttpResponse ReplaceEndpoint::show(bool spare) const {
  const ReplaceStatus s = spare ? spare_.status() : main_.status();
  json events = json::array();
  for (const ReplaceEvent& e : s.events)
    events.push_back({{"time", e.unix_seconds}, {"event", e.text}});
  // A new MAIN is read once more when all is copied.
  const std::uint64_t left =
      (spare ? 1 : 2) * s.bytes - s.copied_bytes - s.checked_bytes;
  const bool runs = s.phase == ReplacePhase::copying && s.bytes_per_second > 0;
  const auto seconds = static_cast<double>(left) / s.bytes_per_second;
  return reply(
      {{"schema", kSchema},
       {"role", spare ? "spare" : "main"},
       {"phase", phase_name(s.phase)},
       {"new", or_null(s.next)},
       {"new_identity", or_null(s.next_identity)},
       {"old", or_null(s.old)},
       {"old_identity", or_null(s.old_identity)},
       {"started", s.started},
       {"changed", s.changed},
       {"waits_for", or_null(s.waits_for)},
       {"reason", or_null(s.reason)},
       {"bytes", s.bytes},
       {"copied_bytes", s.copied_bytes},
       {"checked_bytes", s.checked_bytes},
       {"unread_bytes", s.unread_bytes},
       {"read_errors", s.read_errors},
       {"unreadable_sectors", s.lost_sectors},
       {"bytes_per_second", static_cast<std::uint64_t>(s.bytes_per_second)},
       {"seconds_left",
        runs ? json(static_cast<std::uint64_t>(seconds)) : json()},
       {"regions", s.regions},
       {"regions_in_sync", s.regions_in_sync},
       {"events", std::move(events)}});
}

}  // namespace nbd_remap
