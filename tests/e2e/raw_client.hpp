#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A client that speaks just enough NBD to misbehave: it stops in the middle of
// the handshake, or asks and does not read, or leaves.

#include <string>

#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {

class RawClient {
 public:
  explicit RawClient(const std::string& socket);  // throws
  int fd() const { return fd_.get(); }
  // Through the handshake (NBD_OPT_EXPORT_NAME).
  void shake_hands();
  // Requests, without reading a reply. False once the server takes no more.
  bool ask_read(std::uint64_t offset, std::uint32_t length, int times = 1);
  bool ask(std::uint16_t flags, std::uint16_t type, std::uint64_t offset,
           std::uint32_t length, const std::string& data = "");
  bool send(const std::string& bytes);
  // Exactly so many bytes, or what came within 10 s.
  std::string receive(std::size_t length);
  void leave() { fd_.reset(); }

 private:
  UniqueFd fd_;
};

}  // namespace nbd_remap
