// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/http_server.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "plugins/base/mutex.hpp"
#include "plugins/wire/beast.hpp"
#include "plugins/wire/http_session.hpp"
#include "plugins/wire/unix_socket.hpp"

namespace nbd_remap {
namespace {

using Protocol = net::local::stream_protocol;
using Executor = net::io_context::executor_type;

// Before the next accept() when descriptors or memory ran out: they may come
// back, and asking without a pause would only burn the processor.
constexpr std::chrono::milliseconds kAcceptPause{100};

class Server final : public HttpServer {
 public:
  // accepting: a second descriptor of the listener's, for the acceptor.
  Server(UnixListener listener, UniqueFd accepting, std::string path,
         HttpSessions sessions)
      : path_(std::move(path)),
        sessions_(std::move(sessions)),
        listener_(std::move(listener)),
        io_(std::in_place, 1),
        acceptor_(std::in_place, io_->get_executor()),
        pause_(std::in_place, io_->get_executor()) {
    acceptor_->assign(Protocol(), accepting.get());
    static_cast<void>(accepting.release());
    wait_for_client();
    thread_ = std::thread([this] { run(); });
  }
  ~Server() override { stop(); }

  void stop() override {
    if (own_thread_ == std::this_thread::get_id()) {
      io_->stop();
      return;
    }
    MutexLock lock(stop_mu_);
    if (!thread_.joinable()) return;
    io_->stop();
    thread_.join();
    pause_.reset();
    acceptor_.reset();
    io_.reset();  // and with it the connections, which its operations own
    listener_.reset();
    sessions_.log(LogLevel::info,
                  fmt::format("control socket {}: closed", path_));
  }

 private:
  void run() {
    own_thread_ = std::this_thread::get_id();
    serve();
    // A thread to come may have the same id.
    own_thread_ = std::thread::id{};
  }

  void serve() {
    // Signals are for the host's own threads.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    pthread_setname_np(pthread_self(), "wire-http");
    for (;;) {
      try {
        if (deaf_) wait_for_client();
        io_->run();
        return;
      } catch (const std::exception& e) {
        // Out of memory: the connection that it happened to is gone, or nobody
        // waits for the next one yet.
        complain(e);
        if (deaf_) std::this_thread::sleep_for(kAcceptPause);
      }
    }
  }

  void complain(const std::exception& reason) noexcept {
    try {
      sessions_.log(LogLevel::error,
                    fmt::format("control socket {}: {}", path_, reason.what()));
    } catch (const std::exception&) {
      // There is no memory for the words, either.
    }
  }

  // Waits and accepts in two steps, as Asio's own accept does not set
  // close-on-exec.
  void wait_for_client() {
    acceptor_->async_wait(Protocol::acceptor::wait_read,
                          [this](beast::error_code ec) {
                            if (ec) return;
                            deaf_ = true;
                            if (accept()) return wait_for_client();
                            pause_->expires_after(kAcceptPause);
                            pause_->async_wait([this](beast::error_code late) {
                              if (late) return;
                              deaf_ = true;
                              wait_for_client();
                            });
                            deaf_ = false;
                          });
    deaf_ = false;
  }

  // False when there is something that only time can cure.
  bool accept() {
    UniqueFd fd(::accept4(listener_->fd(), nullptr, nullptr,
                          SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
        return true;
      if (!std::exchange(starved_, true))
        sessions_.log(LogLevel::warning,
                      fmt::format("control socket {}: accept: {}", path_,
                                  make_error(errno, "").text()));
      return false;
    }
    starved_ = false;
    if (sessions_.open >= sessions_.options.max_connections) return true;
    try {
      const bool admitted = listener_->admits(fd.get());
      const auto session =
          std::make_shared<HttpSession>(sessions_, *io_, std::move(fd));
      if (admitted)
        session->read();
      else
        session->refuse(http_problem(
            403, "Forbidden",
            "only root, the server's user and the socket's group may ask"));
    } catch (const std::exception& e) {
      complain(e);
    }
    return true;
  }

  const std::string path_;
  HttpSessions sessions_;  // outlives io_
  std::optional<UnixListener> listener_;
  std::optional<net::io_context> io_;
  std::optional<net::basic_socket_acceptor<Protocol, Executor>> acceptor_;
  std::optional<net::basic_waitable_timer<
      std::chrono::steady_clock, net::wait_traits<std::chrono::steady_clock>,
      Executor>>
      pause_;
  bool starved_ = false;  // said so in the log
  // Nothing is under way that would accept the next client. After the first
  // wait_for_client() the thread's alone.
  bool deaf_ = true;
  std::atomic<std::thread::id> own_thread_{};
  Mutex stop_mu_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::start(
    const std::string& socket_path, HttpHandler handler, LogSink log,
    const HttpServerOptions& options) {
  if (!log) log = [](LogLevel, std::string_view) {};
  try {
    auto listener = UnixListener::open(socket_path);
    if (!listener) return listener.error();
    UniqueFd accepting(::fcntl(listener->fd(), F_DUPFD_CLOEXEC, 0));
    if (!accepting)
      return make_error(errno, fmt::format("socket {}: dup", socket_path));
    log(LogLevel::info,
        fmt::format("control socket {}: listening", socket_path));
    return std::unique_ptr<HttpServer>(std::make_unique<Server>(
        std::move(*listener), std::move(accepting), socket_path,
        HttpSessions{std::move(handler), log, options}));
  } catch (const std::system_error& e) {
    return make_error(e.code().value(),
                      fmt::format("socket {}: {}", socket_path, e.what()));
  } catch (const std::exception& e) {
    return make_error(ENOMEM,
                      fmt::format("socket {}: {}", socket_path, e.what()));
  }
}

Status HttpServer::check(const std::string& socket_path) {
  const auto listener = UnixListener::open(socket_path);
  return listener ? Status() : Status(listener.error());
}

HttpResponse http_problem(int status, const std::string& title,
                          const std::string& detail) {
  const nlohmann::ordered_json problem{{"type", "about:blank"},
                                       {"title", title},
                                       {"status", status},
                                       {"detail", detail}};
  // A text may quote a peer's bytes, which need not be UTF-8.
  return {status,
          problem.dump(-1, ' ', false,
                       nlohmann::ordered_json::error_handler_t::replace),
          "application/problem+json"};
}

}  // namespace nbd_remap
