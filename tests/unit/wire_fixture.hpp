#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the tests of the wire share: a folder for the socket, a server that
// echoes, and raw connections to it.

#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "plugins/base/mutex.hpp"
#include "plugins/base/unique_fd.hpp"
#include "plugins/wire/http_client.hpp"
#include "plugins/wire/http_server.hpp"
#include "plugins/wire/unix_socket.hpp"

namespace nbd_remap {
namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

inline int count_entries(const std::string& folder) {
  int n = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    static_cast<void>(entry);
    ++n;
  }
  return n;
}
inline int count_descriptors() { return count_entries("/proc/self/fd"); }
inline int count_threads() { return count_entries("/proc/self/task"); }

class WireTest : public testing::Test {
 protected:
  WireTest() {
    std::string name = fs::temp_directory_path() / "wire-test-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ + "/control";
  }
  ~WireTest() override { fs::remove_all(folder_); }

  static HttpResponse echo(const HttpRequest& request) {
    if (request.path == "/throw") throw std::runtime_error("handler \xff went");
    if (request.path != "/echo")
      return http_problem(404, "Not Found", request.path);
    HttpResponse response;
    response.body = request.method + "|" + request.body;
    for (const auto& [key, value] : request.query)
      response.body += "|" + key + "=" + value;
    return response;
  }

  Result<std::unique_ptr<HttpServer>> try_start(
      const HttpServerOptions& options = {}, HttpHandler handler = echo) {
    return HttpServer::start(
        path_, std::move(handler),
        [this](LogLevel, std::string_view text) {
          MutexLock lock(log_mu_);
          log_ += std::string(text) + "\n";
        },
        options);
  }
  std::unique_ptr<HttpServer> start(const HttpServerOptions& options = {},
                                    HttpHandler handler = echo) {
    auto server = try_start(options, std::move(handler));
    if (!server) {
      ADD_FAILURE() << server.error().text();
      return nullptr;
    }
    return std::move(*server);
  }
  UniqueFd connect() {
    auto fd = connect_unix(path_, 5s);
    if (!fd) {
      ADD_FAILURE() << fd.error().text();
      return {};
    }
    return std::move(*fd);
  }
  static void send(const UniqueFd& fd, const std::string& text) {
    ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
  }
  // All that comes until the peer closes, or until `enough` is in it.
  static std::string receive(const UniqueFd& fd, const std::string& enough = "",
                             milliseconds bound = 8s) {
    std::string all;
    const auto deadline = steady_clock::now() + bound;
    for (;;) {
      const auto left = std::chrono::duration_cast<milliseconds>(
          deadline - steady_clock::now());
      pollfd p{fd.get(), POLLIN, 0};
      if (left.count() <= 0 ||
          ::poll(&p, 1, static_cast<int>(left.count())) <= 0)
        return all + "<still open>";
      char buffer[4096];
      const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (n <= 0) return all;
      all.append(buffer, static_cast<std::size_t>(n));
      if (!enough.empty() && all.find(enough) != std::string::npos) return all;
    }
  }
  std::string log() {
    MutexLock lock(log_mu_);
    return log_;
  }

  std::string folder_;
  std::string path_;
  Mutex log_mu_;
  std::string log_ GUARDED_BY(log_mu_);
};

}  // namespace nbd_remap
