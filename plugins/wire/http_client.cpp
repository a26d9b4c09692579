// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/http_client.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/wire/beast.hpp"
#include "plugins/wire/unix_socket.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;
using ErrorCode = beast::error_code;

constexpr std::size_t kMaxHeaderBytes = 65536;

// A connected socket as Beast's SyncStream, with one deadline for all calls.
class DeadlineStream {
 public:
  DeadlineStream(UniqueFd fd, steady_clock::time_point deadline)
      : fd_(std::move(fd)), deadline_(deadline) {}

  template <class Buffers>
  std::size_t read_some(const Buffers& buffers, ErrorCode& ec) {
    const auto buffer = first_of<net::mutable_buffer>(buffers);
    if (buffer.size() == 0) return done(0, ec);
    while (wait(POLLIN, ec)) {
      const ssize_t n =
          ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (n == 0) {
        ec = net::error::eof;
        return 0;
      }
      if (n > 0) return done(n, ec);
      if (!may_try_again(ec)) return 0;
    }
    return 0;
  }
  template <class Buffers>
  std::size_t write_some(const Buffers& buffers, ErrorCode& ec) {
    const auto buffer = first_of<net::const_buffer>(buffers);
    if (buffer.size() == 0) return done(0, ec);
    while (wait(POLLOUT, ec)) {
      const ssize_t n = ::send(fd_.get(), buffer.data(), buffer.size(),
                               MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n >= 0) return done(n, ec);
      if (!may_try_again(ec)) return 0;
    }
    return 0;
  }
  // The concept asks for these two; nobody calls them.
  template <class Buffers>
  std::size_t read_some(const Buffers& buffers) {
    ErrorCode ec;
    const std::size_t n = read_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return n;
  }
  template <class Buffers>
  std::size_t write_some(const Buffers& buffers) {
    ErrorCode ec;
    const std::size_t n = write_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return n;
  }

 private:
  template <class Buffer, class Buffers>
  static Buffer first_of(const Buffers& buffers) {
    for (auto it = net::buffer_sequence_begin(buffers);
         it != net::buffer_sequence_end(buffers); ++it)
      if (Buffer buffer(*it); buffer.size() != 0) return buffer;
    return {};
  }
  static std::size_t done(ssize_t n, ErrorCode& ec) {
    ec = {};
    return static_cast<std::size_t>(n);
  }
  static bool may_try_again(ErrorCode& ec) {
    if (errno == EAGAIN || errno == EINTR) return true;
    ec.assign(errno, boost::system::system_category());
    return false;
  }
  bool wait(short events, ErrorCode& ec) const {
    for (;;) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(
          deadline_ - steady_clock::now());
      if (left.count() <= 0) {
        ec = beast::error::timeout;
        return false;
      }
      pollfd p{fd_.get(), events, 0};
      const int rc = ::poll(
          &p, 1,
          static_cast<int>(std::min<std::int64_t>(left.count(), 3'600'000)));
      if (rc > 0) return true;
      if (rc < 0 && !may_try_again(ec)) return false;
    }
  }

  UniqueFd fd_;
  steady_clock::time_point deadline_;
};

bool is_target(const std::string& target) {
  return !target.empty() && target.front() == '/' &&
         std::all_of(target.begin(), target.end(),
                     [](char c) { return c > ' ' && c < 0x7f; });
}

Result<HttpResponse> exchange(const std::string& socket_path, http::verb verb,
                              const std::string& target,
                              const std::string& body,
                              const HttpClientOptions& options) {
  const auto deadline = steady_clock::now() + options.timeout;
  auto fd = connect_unix(socket_path, options.timeout);
  if (!fd) {
    Error error = std::move(fd).error();
    if (error.error_class != ErrorClass::caller)
      error.error_class = ErrorClass::transport;
    return error;
  }
  const auto failed = [&](int errnum, const std::string& what) {
    return make_error(
        ErrorClass::transport, errnum,
        fmt::format("socket {}: {} {}: {}", socket_path,
                    std::string(http::to_string(verb)), target, what));
  };
  const auto timed_out = [&] {
    return failed(ETIMEDOUT, fmt::format("no answer within {} ms",
                                         options.timeout.count()));
  };
  DeadlineStream stream(std::move(*fd), deadline);

  http::request<http::string_body> request(verb, target, 11, body);
  request.set(http::field::host, "localhost");
  request.set(http::field::user_agent, "nbd-remap");
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.keep_alive(false);
  request.prepare_payload();
  ErrorCode ec;
  http::write(stream, request, ec);
  if (ec == beast::error::timeout) return timed_out();
  // A server may answer (413, 403) and close before it has read all we send:
  // what it said is worth more than the EPIPE.

  http::response_parser<http::string_body> parser;
  parser.body_limit(options.max_body_bytes);
  parser.header_limit(kMaxHeaderBytes);
  parser.skip(verb == http::verb::head);
  beast::flat_buffer buffer;
  http::read(stream, buffer, parser, ec);
  if (ec == beast::error::timeout) return timed_out();
  if (ec == http::error::body_limit)
    return failed(EMSGSIZE, fmt::format("the answer is longer than {} bytes",
                                        options.max_body_bytes));
  if (ec && ec.category() == boost::system::system_category())
    return failed(ec.value(), "no answer");
  if (ec)
    return failed(EPROTO, fmt::format("no valid answer ({})", ec.message()));
  auto message = parser.release();
  return HttpResponse{static_cast<int>(message.result_int()),
                      std::move(message.body()),
                      std::string(message[http::field::content_type])};
}

}  // namespace

Result<HttpResponse> http_request(const std::string& socket_path,
                                  const std::string& method,
                                  const std::string& target,
                                  const std::string& body,
                                  const HttpClientOptions& options) {
  try {
    const http::verb verb = http::string_to_verb(method);
    if (verb == http::verb::unknown || verb == http::verb::connect)
      return make_error(ErrorClass::caller, EINVAL,
                        fmt::format("HTTP method \"{}\": not known", method));
    if (!is_target(target))
      return make_error(
          ErrorClass::caller, EINVAL,
          "HTTP target: expected a percent-encoded path such as /v1/health");
    return exchange(socket_path, verb, target, body, options);
  } catch (const std::exception& e) {
    return make_error(ErrorClass::transport, ENOMEM,
                      fmt::format("socket {}: {}", socket_path, e.what()));
  }
}

std::string percent_encode(const std::string& text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if ((u >= '0' && u <= '9') || (u >= 'A' && u <= 'Z') ||
        (u >= 'a' && u <= 'z') || u == '-' || u == '.' || u == '_' ||
        u == '~') {
      out += c;
    } else {
      out += '%';
      out += kHex[u >> 4];
      out += kHex[u & 15];
    }
  }
  return out;
}

}  // namespace nbd_remap
