#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// FakeNbdServer: a server that negotiates as it should (structured replies,
// base:allocation) and then does whatever a test wants with each request: lies,
// rubbish, silence. One thread for each connection.
// kHangUp at the end of an answer cuts the connection there.

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "plugins/base/unique_fd.hpp"
#include "tests/fakes/scratch.hpp"

namespace nbd_remap {

// Numbers go big-endian, as on the wire.
class WireBytes {
 public:
  WireBytes& u16(std::uint16_t n) { return number(n, 2); }
  WireBytes& u32(std::uint32_t n) { return number(n, 4); }
  WireBytes& u64(std::uint64_t n) { return number(n, 8); }
  WireBytes& text(const std::string& t) {
    bytes += t;
    return *this;
  }
  std::string bytes;

 private:
  WireBytes& number(std::uint64_t n, int size) {
    for (int i = size - 1; i >= 0; --i)
      bytes += static_cast<char>(n >> (8 * i) & 0xff);
    return *this;
  }
};

inline constexpr std::string_view kHangUp = "<hang up here>";

struct FakeRequest {
  std::uint16_t flags = 0;
  std::uint16_t type = 0;  // 0 read, 1 write, 2 disconnect, 3 flush, 7 status
  std::uint64_t cookie = 0;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  std::string data;  // of a write
};

std::string simple_reply(const FakeRequest& request, std::uint32_t error,
                         const std::string& data = "");
// The last chunk of a reply.
std::string structured_reply(const FakeRequest& request, std::uint16_t type,
                             const std::string& payload);

struct FakeNbdExport {
  std::uint64_t size = 1 << 20;
  std::uint16_t flags = 1 | 4;  // has flags, flush
  std::uint32_t minimum = 0;    // with the next two: sent if one is not 0
  std::uint32_t preferred = 0;
  std::uint32_t maximum = 0;
  bool grows = false;  // by 1 MiB with each connection
};

class FakeNbdServer {
 public:
  // Gives the bytes to send; empty sends nothing.
  using Answer = std::function<std::string(const FakeRequest&)>;
  // After the handshake.
  // socket: where it listens, if not in a directory of its own.
  FakeNbdServer(const FakeNbdExport& exported, Answer answer,
                const std::string& socket = "");
  // Instead of a handshake: sends `greeting` to whoever connects, and waits.
  explicit FakeNbdServer(std::string greeting);
  ~FakeNbdServer();

  std::string uri() const { return "nbd+unix:///?socket=" + socket_; }
  int connections() const { return connections_; }
  int requests() const { return requests_; }
  // Sent, or tried to.
  int answers() const { return answers_; }
  // Cuts every connection that there is.
  void hang_up();

 private:
  void listen();
  void accept_all();
  void serve(int fd);
  bool shake_hands(int fd);

  const FakeNbdExport export_;
  const Answer answer_;
  const std::string greeting_;
  ScratchDir dir_;
  const std::string socket_;
  UniqueFd listener_;
  std::atomic<int> connections_{0};
  std::atomic<int> requests_{0};
  std::atomic<int> answers_{0};
  std::mutex mu_;
  std::vector<UniqueFd> sockets_;
  std::vector<std::jthread> threads_;
  std::jthread acceptor_;
};

}  // namespace nbd_remap
