#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Answers the requests of one volume's control socket. Reads only counters and
// snapshots: never waits for I/O.
//
// Threads  called by the HTTP server's thread, one request at a time.

#include <functional>
#include <string>

#include "plugins/base/clock.hpp"
#include "plugins/health/health_keeper.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

class StatusEndpoint {
 public:
  // stop: asks the server to stop; returns at once.
  StatusEndpoint(const Volume& volume, const HealthKeeper& health,
                 std::string name, const Clock& clock,
                 std::function<void()> stop);

  HttpResponse answer(const HttpRequest& request) const;

 private:
  HttpResponse health() const;
  HttpResponse volumes() const;
  HttpResponse volume() const;
  HttpResponse remaps(const HttpRequest& request) const;

  const Volume& volume_;
  const HealthKeeper& health_;
  const std::string name_;
  const Clock& clock_;
  const std::chrono::steady_clock::time_point started_;
  const std::function<void()> stop_;
};

}  // namespace nbd_remap
