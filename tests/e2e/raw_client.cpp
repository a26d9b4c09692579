// SPDX-License-Identifier: BSD-3-Clause
#include "tests/e2e/raw_client.hpp"

#include <arpa/inet.h>
#include <endian.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <stdexcept>

#include "plugins/wire/unix_socket.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint32_t kRequestMagic = 0x25609513;
constexpr std::uint16_t kRead = 0;

template <class T>
void append(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

RawClient::RawClient(const std::string& socket) {
  auto fd = connect_unix(socket, std::chrono::seconds(5));
  if (!fd) throw std::runtime_error(fd.error().text());
  fd_ = std::move(*fd);
}

void RawClient::shake_hands() {
  if (receive(18).size() != 18) throw std::runtime_error("no greeting");
  std::string option;
  append(option, htonl(3));  // fixed newstyle, no zeroes
  option += "IHAVEOPT";
  append(option, htonl(1));  // NBD_OPT_EXPORT_NAME
  append(option, htonl(0));
  if (!send(option) || receive(10).size() != 10)
    throw std::runtime_error("the handshake failed");
}

bool RawClient::ask_read(std::uint64_t offset, std::uint32_t length,
                         int times) {
  for (int i = 0; i < times; ++i)
    if (!ask(0, kRead, offset, length)) return false;
  return true;
}

bool RawClient::ask(std::uint16_t flags, std::uint16_t type,
                    std::uint64_t offset, std::uint32_t length,
                    const std::string& data) {
  std::string request;
  append(request, htonl(kRequestMagic));
  append(request, htons(flags));
  append(request, htons(type));
  append(request, std::uint64_t{1});  // cookie
  append(request, htobe64(offset));
  append(request, htonl(length));
  return send(request + data);
}

bool RawClient::send(const std::string& bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    pollfd p{fd_.get(), POLLOUT, 0};
    if (::poll(&p, 1, 200) <= 0) return false;
    const ssize_t n = ::send(fd_.get(), bytes.data() + sent,
                             bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

std::string RawClient::receive(std::size_t length) {
  std::string got(length, '\0');
  std::size_t have = 0;
  while (have < length) {
    pollfd p{fd_.get(), POLLIN, 0};
    if (::poll(&p, 1, 10'000) <= 0) break;
    const ssize_t n = ::recv(fd_.get(), got.data() + have, length - have, 0);
    if (n <= 0) break;
    have += static_cast<std::size_t>(n);
  }
  got.resize(have);
  return got;
}

}  // namespace nbd_remap
