#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ScanEndpoint: what the control socket answers about the scanner, and how it
// is steered. BASE is /v1/volumes/NAME.
//
//   GET  BASE/scan           state, position, what was found, what is next
//   POST BASE/scan/start?plan=PLAN&rate=RATE&dry_run=1
//                            each may be left out; scan_plan.hpp has the words
//   POST BASE/scan/pause, resume, stop
//   POST BASE/scan           {"seed": [{"offset": N, "length": N}, ...]}:
//                            parts to be read before all else
//   GET  BASE/map?cells=N    the volume in so many parts, with the worst state
//                            of each
//
// Each POST answers with the state; 400: a word that is not understood, 409:
// what is under way does not allow it.
//
// Threads  called by the HTTP server's thread, one request at a time; never
//          waits for a disk.

#include <optional>
#include <string>

#include "plugins/scanner/scanner.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

class ScanEndpoint {
 public:
  // scanner: null if the volume is read-only.
  ScanEndpoint(const Volume& volume, Scanner* scanner, const std::string& name,
               const Clock& clock);

  // Empty: not one of its paths.
  std::optional<HttpResponse> answer(const HttpRequest& request);

 private:
  HttpResponse status() const;
  HttpResponse start(const HttpRequest& request);
  HttpResponse seed(const HttpRequest& request);
  HttpResponse cells(const HttpRequest& request) const;
  HttpResponse done(const Status& status) const;

  const Volume& volume_;
  Scanner* const scanner_;
  const std::string base_;
  const Clock& clock_;
};

}  // namespace nbd_remap
