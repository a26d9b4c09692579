#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// HttpServer: HTTP/1.1 with JSON bodies on a Unix socket, for control and
// status. Protocol by Boost.Beast; limits and peer check are ours.
//
// Peers    SO_PEERCRED: root, the server's own user, or a member of the
//          socket's group; anybody else is answered 403 and closed. The socket
//          has mode 0660.
// Limits   See HttpServerOptions. A slow or broken client is dropped; it never
//          delays another one.
//          Too long a header is answered 431, too long a body 413, what is not
//          HTTP 400; then the connection is closed. One connection too many is
//          closed at once.
// Threads  One thread of its own runs the handler: at most one call at a time.
//          The handler must not block for long; what it throws becomes a 500.
//          stop(): any thread, more than once. Called by the handler it only
//          asks (and its answer may be lost): the next stop() or the
//          destructor, from outside, finishes.
// Start    A socket file left by a dead server is replaced; one that a living
//          server answers on is refused (EADDRINUSE), and so is a file that is
//          no socket (EEXIST). The error is one line that says which.
// Stop     Closes all connections, joins the thread, removes the socket file.
//          Waits for no client, only for a handler that is running.

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "plugins/base/log.hpp"
#include "plugins/base/result.hpp"

namespace nbd_remap {

struct HttpRequest {
  std::string method;                        // "GET"
  std::string path;                          // "/v1/health", percent-decoded
  std::map<std::string, std::string> query;  // decoded; '+' is a plus
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
};

// A problem detail (RFC 9457): {"type":"about:blank","title","status","detail"}
HttpResponse http_problem(int status, const std::string& title,
                          const std::string& detail);

using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

struct HttpServerOptions {
  std::size_t max_body_bytes = 65536;
  std::size_t max_header_bytes = 8192;
  std::size_t max_connections = 32;
  // To send or to receive one message; so long may a connection idle.
  std::chrono::milliseconds io_timeout{5000};
};

class HttpServer {
 public:
  static Result<std::unique_ptr<HttpServer>> start(
      const std::string& socket_path, HttpHandler handler, LogSink log,
      const HttpServerOptions& options = {});
  // What start() would say of the path, without a server: for a host that can
  // start threads only when it can no longer fail in front of people.
  static Status check(const std::string& socket_path);
  virtual ~HttpServer() = default;  // stops
  virtual void stop() = 0;
};

}  // namespace nbd_remap
