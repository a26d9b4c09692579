#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// HttpSession: one connection of an HttpServer. Read a request, call the
// handler, write the answer, again. It lives as long as one of its operations
// is under way and closes when it goes.
//
// Threads  the server's own.

#include <memory>
#include <optional>

#include "plugins/base/log.hpp"
#include "plugins/base/unique_fd.hpp"
#include "plugins/wire/beast.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

// What all sessions of a server share. Outlives them.
struct HttpSessions {
  HttpHandler handler;
  LogSink log;
  HttpServerOptions options;
  std::size_t open = 0;
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(HttpSessions& shared, net::io_context& io, UniqueFd socket);
  ~HttpSession();
  HttpSession(const HttpSession&) = delete;
  HttpSession& operator=(const HttpSession&) = delete;

  void read();
  // Sends one answer, then closes. To one who is not to be heard at all.
  void refuse(HttpResponse response);

 private:
  using Protocol = net::local::stream_protocol;
  using Request = http::request<http::string_body>;

  void on_read(beast::error_code ec);
  void reply(HttpResponse response, unsigned version, bool head,
             bool keep_alive);
  void on_write(beast::error_code ec, bool keep_alive);
  void linger();
  HttpResponse respond(Request&& request);

  HttpSessions& shared_;
  beast::basic_stream<Protocol, net::io_context::executor_type> stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
};

}  // namespace nbd_remap
