// SPDX-License-Identifier: BSD-3-Clause
// One connection of the control socket, from the first byte to its end: what a
// peer sends, in pieces. The first byte says how many; each costs some ten
// system calls, so that they are few. Whatever it is: the session ends when the
// peer has gone, what it answers is HTTP, and the handler sees nothing but what
// its header promises.
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>

#include "plugins/wire/http_client.hpp"
#include "plugins/wire/http_session.hpp"
#include "plugins/wire/target.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kMaxBody = 256;

HttpResponse handle(const HttpRequest& request) {
  require(!request.method.empty(), "a request has a method");
  require(request.path.starts_with('/'), "a path is absolute");
  require(request.path.find('\0') == std::string::npos, "no path ends early");
  require(request.body.size() <= kMaxBody, "a body is bounded");
  std::string target = "/" + percent_encode(request.path.substr(1));
  for (const auto& [key, value] : request.query)
    target += (target.find('?') == std::string::npos ? "?" : "&") +
              percent_encode(key) + "=" + percent_encode(value);
  const auto again = parse_target(target);
  require(again && again->path == request.path && again->query == request.query,
          "a target says the same again");
  if (request.path == "/throw") throw std::runtime_error("asked for");
  return {200, request.body};
}

bool known(int status) {
  return status == 200 || status == 400 || status == 413 || status == 431 ||
         status == 500;
}

struct World {
  net::io_context io{1};
  HttpSessions sessions{handle, [](LogLevel, std::string_view) {}, {}, 0};
  World() {
    sessions.options.max_body_bytes = kMaxBody;
    sessions.options.max_header_bytes = 1024;
    sessions.options.io_timeout = std::chrono::minutes(10);
  }
};

void drain(int fd, std::string& answer) {
  std::array<char, 4096> some{};
  for (;;) {
    const ssize_t n = ::recv(fd, some.data(), some.size(), MSG_DONTWAIT);
    if (n <= 0) return;
    answer.append(some.data(), static_cast<std::size_t>(n));
  }
}

}  // namespace

void fuzz_http(ConstBytes input) {
  static World& world = *new World;
  FuzzInput in(input);
  const auto how = in.number(1);
  const std::size_t pieces = how < 128 ? 1 : 2 + how % 7;
  const std::size_t piece = in.rest_text().size() / pieces + 1;
  std::array<int, 2> fds{};
  require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                       fds.data()) == 0,
          "there are sockets");
  const UniqueFd peer(fds[0]);
  std::make_shared<HttpSession>(world.sessions, world.io, UniqueFd(fds[1]))
      ->read();
  std::string answer;
  const auto work = [&] {
    world.io.restart();
    world.io.poll();
    drain(peer.get(), answer);
  };
  while (!in.empty()) {
    const ConstBytes bytes = in.take(piece);
    if (::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) break;
    work();
  }
  ::shutdown(peer.get(), SHUT_WR);
  for (int i = 0; i < 1000 && world.sessions.open != 0; ++i) work();
  require(world.sessions.open == 0, "a session ends with its peer");
  drain(peer.get(), answer);
  if (answer.empty()) return;
  require(answer.starts_with("HTTP/1.") && answer.size() > 12 &&
              known(std::atoi(answer.c_str() + 9)),
          "an answer is HTTP");
}

}  // namespace nbd_remap
