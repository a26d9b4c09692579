#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ReplaceEndpoint: what the control socket answers about the replacement of
// MAIN, or with role=spare of SPARE. BASE is /v1/volumes/NAME.
//
//   GET  BASE/replace[?role=spare]
//        how it stands: ReplaceStatus; "phase" is none, copying, switched,
//        done, failed or aborted
//   POST BASE/replace?disk=PATH-OR-URI[&role=spare][&force=yes]
//        begin, or go on with a disk that was lost; a job like those of
//        MapEndpoint: {"job", "error"}. One of the two at a time.
//   POST BASE/abort-replace[?role=spare]
//        the same, to end it
//
// Threads  called by the HTTP server's thread, one request at a time.

#include <optional>
#include <string>

#include "plugins/nbdkit/map_endpoint.hpp"
#include "plugins/replace/replacer.hpp"
#include "plugins/replace/spare_replacer.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

class ReplaceEndpoint {
 public:
  // jobs: runs what waits for disks.
  ReplaceEndpoint(Replacer& main, SpareReplacer& spare, MapEndpoint& jobs,
                  const std::string& name);

  // Empty: not one of its paths.
  std::optional<HttpResponse> answer(const HttpRequest& request);

 private:
  HttpResponse show(bool spare) const;
  HttpResponse start(const HttpRequest& request, bool spare);
  Status begin(const std::string& spec, bool force, bool spare);

  Replacer& main_;
  SpareReplacer& spare_;
  MapEndpoint& jobs_;
  const std::string base_;
};

// What is being done, for the sentence on a volume's health; empty: nothing.
std::string replace_words(const ReplaceStatus& main,
                          const ReplaceStatus& spare);

}  // namespace nbd_remap
