#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// One HTTP request over a Unix socket, with a deadline for all of it.

#include <chrono>
#include <string>

#include "plugins/base/result.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

struct HttpClientOptions {
  std::chrono::milliseconds timeout{5000};
  std::size_t max_body_bytes = 64 << 20;
};

// Any status is a response. An Error means that none came (class transport), or
// that the method, the target or the socket's path cannot be one (caller).
// target: path and query, already percent-encoded.
// Threads: any. Leaves no descriptor behind.
Result<HttpResponse> http_request(const std::string& socket_path,
                                  const std::string& method,
                                  const std::string& target,
                                  const std::string& body = "",
                                  const HttpClientOptions& options = {});

// Percent-encodes one path segment or query value (RFC 3986 unreserved kept).
std::string percent_encode(const std::string& text);

}  // namespace nbd_remap
