// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/fake_nbd_server.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <utility>

namespace nbd_remap {
namespace {

bool receive(int fd, std::string& out, std::size_t size) {
  out.resize(size);
  return size == 0 || ::recv(fd, out.data(), size, MSG_WAITALL) ==
                          static_cast<ssize_t>(size);
}

bool transmit(int fd, const std::string& bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n =
        ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

std::uint64_t number(const std::string& in, std::size_t at, int size) {
  std::uint64_t n = 0;
  for (int i = 0; i < size; ++i)
    n = n << 8 | static_cast<unsigned char>(in[at + i]);
  return n;
}

std::string option_reply(std::uint32_t option, std::uint32_t type,
                         const std::string& data) {
  return WireBytes()
      .u64(0x3e889045565a9)
      .u32(option)
      .u32(type)
      .u32(static_cast<std::uint32_t>(data.size()))
      .text(data)
      .bytes;
}

}  // namespace

std::string simple_reply(const FakeRequest& request, std::uint32_t error,
                         const std::string& data) {
  return WireBytes()
      .u32(0x67446698)
      .u32(error)
      .u64(request.cookie)
      .text(data)
      .bytes;
}

std::string structured_reply(const FakeRequest& request, std::uint16_t type,
                             const std::string& payload) {
  return WireBytes()
      .u32(0x668e33ef)
      .u16(1)
      .u16(type)
      .u64(request.cookie)
      .u32(static_cast<std::uint32_t>(payload.size()))
      .text(payload)
      .bytes;
}

FakeNbdServer::FakeNbdServer(const FakeNbdExport& exported, Answer answer,
                             const std::string& socket)
    : export_(exported),
      answer_(std::move(answer)),
      socket_(socket.empty() ? dir_.file("socket") : socket) {
  listen();
}

FakeNbdServer::FakeNbdServer(std::string greeting)
    : greeting_(std::move(greeting)), socket_(dir_.file("socket")) {
  listen();
}

FakeNbdServer::~FakeNbdServer() {
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  ::unlink(socket_.c_str());
  hang_up();
  threads_.clear();
}

void FakeNbdServer::hang_up() {
  std::lock_guard lock(mu_);
  for (const UniqueFd& fd : sockets_) ::shutdown(fd.get(), SHUT_RDWR);
}

void FakeNbdServer::listen() {
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_.c_str(), sizeof address.sun_path - 1);
  ::unlink(socket_.c_str());
  if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof address) != 0 ||
      ::listen(listener_.get(), 8) != 0)
    throw std::runtime_error("cannot listen");
  acceptor_ = std::jthread([this] { accept_all(); });
}

void FakeNbdServer::accept_all() {
  for (;;) {
    const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    ++connections_;
    std::lock_guard lock(mu_);
    sockets_.emplace_back(fd);
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

bool FakeNbdServer::shake_hands(int fd) {
  const std::uint64_t size =
      export_.size + (export_.grows ? std::uint64_t(connections_) << 20 : 0);
  std::string in;
  if (!transmit(fd, WireBytes().text("NBDMAGICIHAVEOPT").u16(3).bytes) ||
      !receive(fd, in, 4))
    return false;
  for (;;) {
    if (!receive(fd, in, 16)) return false;
    const auto option = static_cast<std::uint32_t>(number(in, 8, 4));
    if (!receive(fd, in, number(in, 12, 4))) return false;
    std::string out;
    if (option == 10)
      out = option_reply(option, 4,
                         WireBytes().u32(1).text("base:allocation").bytes);
    if (option == 7) {
      out = option_reply(option, 3,
                         WireBytes().u16(0).u64(size).u16(export_.flags).bytes);
      if (export_.minimum | export_.preferred | export_.maximum)
        out += option_reply(option, 3,
                            WireBytes()
                                .u16(3)
                                .u32(export_.minimum)
                                .u32(export_.preferred)
                                .u32(export_.maximum)
                                .bytes);
    }
    out += option_reply(option, 1, "");
    if (!transmit(fd, out)) return false;
    if (option == 7) return true;
  }
}

void FakeNbdServer::serve(int fd) {
  std::string in;
  if (!answer_) {
    transmit(fd, greeting_);
    receive(fd, in, 1 << 20);
    return;
  }
  if (!shake_hands(fd)) return;
  while (receive(fd, in, 28)) {
    FakeRequest request;
    request.flags = static_cast<std::uint16_t>(number(in, 4, 2));
    request.type = static_cast<std::uint16_t>(number(in, 6, 2));
    request.cookie = number(in, 8, 8);
    request.offset = number(in, 16, 8);
    request.length = static_cast<std::uint32_t>(number(in, 24, 4));
    if (request.type == 2) {
      ::shutdown(fd, SHUT_RDWR);
      return;
    }
    if (request.type == 1 && !receive(fd, request.data, request.length)) return;
    ++requests_;
    std::string answer = answer_(request);
    const bool cut = answer.ends_with(kHangUp);
    if (cut) answer.resize(answer.size() - kHangUp.size());
    const bool sent = transmit(fd, answer);
    ++answers_;
    if (cut) ::shutdown(fd, SHUT_RDWR);
    if (cut || !sent) return;
  }
}

}  // namespace nbd_remap
