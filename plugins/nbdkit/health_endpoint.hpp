#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// HealthEndpoint: what the control socket answers about a volume's health, and
// what it is told. BASE is /v1/volumes/NAME.
//
//   GET  BASE/health       health_json()
//   POST BASE/smart        body: what the drive says of itself, as
//                          parse_smart_counts() takes it
//   POST BASE/acknowledge  409 while requests fail
//
// Both POSTs answer like GET, with "saved": "yes"; "not-yet", when SPARE takes
// its time; "failed"; "nowhere", as SPARE has no room for it.
//
// Threads  called by the HTTP server's thread, one request at a time; holds it
//          up for at most kPatience.

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "plugins/health/health_keeper.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

// score, parts, sentence, alert, forecast, smart, acknowledged.
nlohmann::json health_json(const HealthReport& report,
                           const HealthMemory& memory);

class HealthEndpoint {
 public:
  static constexpr std::chrono::milliseconds kPatience{500};

  HealthEndpoint(HealthKeeper& keeper, const std::string& name)
      : keeper_(keeper), base_("/v1/volumes/" + name + "/") {}

  // Empty: not one of its paths.
  std::optional<HttpResponse> answer(const HttpRequest& request);

 private:
  HttpResponse now(const char* saved) const;
  HttpResponse note_smart(const HttpRequest& request);
  HttpResponse acknowledge();

  HealthKeeper& keeper_;
  const std::string base_;
};

}  // namespace nbd_remap
