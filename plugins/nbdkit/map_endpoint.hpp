#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// MapEndpoint: what the control socket answers about single blocks, and the
// actions that change where they live, or grow a disk. BASE is
// /v1/volumes/NAME.
//
//   GET  BASE/explain?offset=N
//        where a byte lives, and what happened to it
//   POST BASE/ACTION?offset=N&length=N
//        one step of it (map_action.hpp):
//        200 done   {"job", "counts", "next", "error"}; next is the byte to go
//                   on with, null when all of the range is done
//        202 still running, when a disk takes its time; ask for the job
//        409 another one is running, or the volume is read-only
//        clear asks for &confirm=lose-data as well.
//   POST BASE/grow?disk=main|spare
//        the disk was enlarged: as above, with {"job", "size", "error"}
//   POST BASE/quiesce?seconds=N
//        {"job", "error"} when no request is under way and all is durable; new
//        ones wait until POST BASE/resume, or for so many seconds
//   GET  BASE/jobs/N
//        the last one: 200 or 202 as above, else 404
//
// A caller goes on with next until it is null; who leaves in between leaves
// nothing behind but the step that runs.
//
// Threads  called by the HTTP server's thread, one request at a time; holds it
//          up for at most kPatience.

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "plugins/base/clock.hpp"
#include "plugins/nbdkit/map_worker.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

class MapEndpoint {
 public:
  // For a step to end at once. Longer than a step on a quick disk needs, which
  // spares it a second question.
  static constexpr std::chrono::milliseconds kPatience{30};

  // The kernel's client gives a request up after 30 s.
  static constexpr std::uint64_t kQuiesceSeconds = 20;
  static constexpr std::uint64_t kMostQuiesceSeconds = 600;

  MapEndpoint(Volume& volume, const std::string& name, const Clock& clock);

  // Empty: not one of its paths.
  std::optional<HttpResponse> answer(const HttpRequest& request);
  // Runs something else on the same thread: as grow, without a size.
  HttpResponse run(const std::string& name, std::function<Status()> work);

 private:
  HttpResponse explain(const HttpRequest& request) const;
  HttpResponse act(MapAction action, const HttpRequest& request);
  HttpResponse quiesce(const HttpRequest& request);
  HttpResponse grow(const HttpRequest& request);
  HttpResponse job(std::uint64_t id);

  Volume& volume_;
  const std::string base_;
  const std::uint64_t started_;  // unix seconds
  MapWorker worker_;
};

}  // namespace nbd_remap
