// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/health_endpoint.hpp"

#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/nbdkit/answers.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxBody = 4096;  // a few numbers, so never deep

json forecast_json(const SpareForecast& f) {
  const bool known = f.kind != SpareForecast::Kind::too_few &&
                     f.kind != SpareForecast::Kind::full;
  const bool day = f.kind == SpareForecast::Kind::day;
  return {{"kind", forecast_word(f.kind)},
          {"days_known", f.days},
          {"slots_per_day", known ? json(f.slots_per_day) : json()},
          {"full_at", day ? json(f.full_at) : json()},
          {"method", "Theil-Sen over the last point of each day, 90 days"},
          {"text", forecast_text(f)}};
}

const char* saved_word(HealthKeeper::Saved saved) {
  switch (saved) {
    case HealthKeeper::Saved::yes:
      return "yes";
    case HealthKeeper::Saved::not_yet:
      return "not-yet";
    case HealthKeeper::Saved::nowhere:
      return "nowhere";
    case HealthKeeper::Saved::failed:
      return "failed";
  }
  return "";
}

}  // namespace

json health_json(const HealthReport& report, const HealthMemory& memory) {
  json parts = json::array();
  for (const ScorePart& part : report.parts)
    parts.push_back({{"name", part.name},
                     {"weight", part.weight},
                     {"lost", part.lost},
                     {"why", part.why}});
  json acknowledged;
  if (memory.acknowledged)
    acknowledged = {{"at", memory.acknowledged->at},
                    {"counts", memory.acknowledged->counts}};
  return {{"sentence", report.sentence},
          {"score", report.score},
          {"parts", std::move(parts)},
          {"alert", report.alert},
          {"forecast", forecast_json(report.forecast)},
          {"smart", memory.smart ? smart_json(*memory.smart) : json()},
          {"acknowledged", std::move(acknowledged)}};
}

std::optional<HttpResponse> HealthEndpoint::answer(const HttpRequest& request) {
  if (!request.path.starts_with(base_)) return std::nullopt;
  const std::string word = request.path.substr(base_.size());
  if (word != "health" && word != "smart" && word != "acknowledge")
    return std::nullopt;
  const char* method = word == "health" ? "GET" : "POST";
  if (request.method != method)
    return http_problem(405, "Method not allowed",
                        std::string("use ") + method);
  if (word == "smart") return note_smart(request);
  return word == "health" ? now(nullptr) : acknowledge();
}

HttpResponse HealthEndpoint::now(const char* saved) const {
  const HealthReport report = keeper_.report();
  json body = health_json(report, keeper_.memory());
  body["schema"] = kSchema;
  body["state"] = health_state_name(report.health.state);
  body["reasons"] = reason_texts(report.health);
  if (saved != nullptr) body["saved"] = saved;
  return reply(body);
}

HttpResponse HealthEndpoint::note_smart(const HttpRequest& request) {
  auto counts =
      request.body.size() > kMaxBody
          ? std::nullopt
          : parse_smart_counts(json::parse(request.body, nullptr, false));
  if (!counts)
    return http_problem(400, "Bad request",
                        "body: expected one JSON object with what a drive says "
                        "of itself: passed and below_threshold (true or "
                        "false), pending and such (counts)");
  keeper_.note_smart(*counts);
  return now(saved_word(keeper_.wait_saved(kPatience)));
}

HttpResponse HealthEndpoint::acknowledge() {
  if (const Status done = keeper_.acknowledge(); !done)
    return http_problem(409, "Conflict", error_words(done.error()));
  return now(saved_word(keeper_.wait_saved(kPatience)));
}

}  // namespace nbd_remap
