// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/http_session.hpp"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "plugins/wire/target.hpp"

namespace nbd_remap {
namespace {

// The status that tells the peer what was wrong with its request; 0 when there
// is nobody to tell (gone, or too slow).
int status_of(const beast::error_code& ec) {
  if (ec == http::error::body_limit) return 413;
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow)
    return 431;
  if (ec == http::error::end_of_stream || ec == http::error::partial_message)
    return 0;
  if (ec.category() ==
      http::make_error_code(http::error::bad_method).category())
    return 400;
  return 0;
}

}  // namespace

// The buffer holds what was received and not parsed yet; bodies are elsewhere.
HttpSession::HttpSession(HttpSessions& shared, net::io_context& io,
                         UniqueFd socket)
    : shared_(shared),
      stream_(io.get_executor()),
      buffer_(shared.options.max_header_bytes + 65536) {
  stream_.socket().assign(Protocol(), socket.get());
  // From here on the stream closes it.
  static_cast<void>(socket.release());
  ++shared_.open;
}

HttpSession::~HttpSession() { --shared_.open; }

void HttpSession::read() {
  parser_.emplace();
  parser_->header_limit(
      static_cast<std::uint32_t>(shared_.options.max_header_bytes));
  parser_->body_limit(shared_.options.max_body_bytes);
  stream_.expires_after(shared_.options.io_timeout);
  http::async_read(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code ec, std::size_t) {
        self->on_read(ec);
      });
}

void HttpSession::refuse(HttpResponse response) {
  reply(std::move(response), 11, false, false);
}

void HttpSession::on_read(beast::error_code ec) {
  if (ec) {
    if (const int status = status_of(ec); status != 0)
      refuse(http_problem(status,
                          std::string(http::obsolete_reason(http::int_to_status(
                              static_cast<unsigned>(status)))),
                          ec.message()));
    return;
  }
  auto request = parser_->release();
  const bool keep_alive = request.keep_alive();
  const bool head = request.method() == http::verb::head;
  const unsigned version = request.version();
  reply(respond(std::move(request)), version, head, keep_alive);
}

HttpResponse HttpSession::respond(Request&& request) {
  const std::string target(request.target());
  auto parsed = parse_target(target);
  if (!parsed)
    return http_problem(400, "Bad Request",
                        "the target is not a percent-encoded path and query");
  try {
    return shared_.handler({std::string(request.method_string()),
                            std::move(parsed->path), std::move(parsed->query),
                            std::move(request.body())});
  } catch (const std::exception& e) {
    shared_.log(LogLevel::error,
                fmt::format("control request {}: {}", target, e.what()));
    return http_problem(500, "Internal Server Error", e.what());
  } catch (...) {
    shared_.log(LogLevel::error, "control request: unknown exception");
    return http_problem(500, "Internal Server Error", "unknown exception");
  }
}

void HttpSession::reply(HttpResponse response, unsigned version, bool head,
                        bool keep_alive) {
  response_ = {};
  response_.version(version);
  response_.result(static_cast<unsigned>(response.status));
  response_.set(http::field::content_type, response.content_type);
  response_.set(http::field::cache_control, "no-store");
  response_.keep_alive(keep_alive);
  response_.content_length(response.body.size());
  if (!head) response_.body() = std::move(response.body);
  stream_.expires_after(shared_.options.io_timeout);
  http::async_write(stream_, response_,
                    [self = shared_from_this(), keep_alive](
                        beast::error_code ec, std::size_t) {
                      self->on_write(ec, keep_alive);
                    });
}

void HttpSession::on_write(beast::error_code ec, bool keep_alive) {
  if (ec) return;
  if (keep_alive) return read();
  stream_.expires_after(shared_.options.io_timeout);
  stream_.socket().shutdown(Protocol::socket::shutdown_send, ec);
  linger();
}

// Closing on a peer that is still sending would cost it our answer: throw away
// what it sends until it has read the answer and closes, or the time is up.
void HttpSession::linger() {
  buffer_.clear();
  stream_.async_read_some(
      buffer_.prepare(4096),
      [self = shared_from_this()](beast::error_code ec, std::size_t) {
        if (!ec) self->linger();
      });
}

}  // namespace nbd_remap
