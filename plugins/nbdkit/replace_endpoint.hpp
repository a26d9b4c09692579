#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ReplaceEndpoint: what the control socket answers about the replacement of
// MAIN. BASE is /v1/volumes/NAME.
//
//   GET  BASE/replace
//        how it stands: ReplaceStatus; "phase" is none, copying, switched,
//        done, failed or aborted
//   POST BASE/replace?disk=PATH-OR-URI[&force=yes]
//        begin, or go on with a disk that was lost; a job like those of
//        MapEndpoint: {"job", "error"}
//   POST BASE/abort-replace
//        the same, to end it
//
// Threads  called by the HTTP server's thread, one request at a time.

#include <optional>
#include <string>

#include "plugins/nbdkit/map_endpoint.hpp"
#include "plugins/replace/replacer.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

class ReplaceEndpoint {
 public:
  // jobs: runs what waits for disks.
  ReplaceEndpoint(Replacer& replacer, MapEndpoint& jobs,
                  const std::string& name);

  // Empty: not one of its paths.
  std::optional<HttpResponse> answer(const HttpRequest& request);

 private:
  HttpResponse show() const;
  HttpResponse start(const HttpRequest& request);

  Replacer& replacer_;
  MapEndpoint& jobs_;
  const std::string base_;
};

}  // namespace nbd_remap
