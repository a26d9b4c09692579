#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// LossyServer: an NBD server with a write cache that dies and comes back on the
// same socket. kill() cuts every connection at once and throws away what was
// not flushed; restart() listens again. The disk behind it lives on.
//
// Threads  kill(), restart() and the rest: one. Each connection has its own.

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "tests/unit/fake_nbd_server.hpp"

namespace nbd_remap {

class LossyServer {
 public:
  explicit LossyServer(std::uint64_t size, std::uint16_t flags = kFlags)
      : durable_(size, '\0'), cached_(durable_), flags_(flags) {
    restart();
  }

  // Has flags, flush, FUA, trim, write zeroes, multi-conn.
  static constexpr std::uint16_t kFlags = 1 | 4 | 8 | 32 | 64 | 256;

  static constexpr std::uint32_t kNoReply = 0xFFFFFFFF;
  // Asked before each request is served; an errno of NBD, or 0. It may wait.
  std::function<std::uint32_t(const FakeRequest&)> fault;
  std::string uri() const {
    return "nbd+unix:///?socket=" + dir_.file("socket");
  }
  void kill() {
    server_.reset();
    std::lock_guard lock(mu_);
    lost_ += cached_ != durable_;
    cached_ = durable_;
  }
  void restart(std::uint64_t size = 0, std::uint16_t flags = 0) {
    FakeNbdExport exported;
    exported.size = size ? size : durable_.size();
    exported.flags = flags ? flags : flags_;
    server_ = std::make_unique<FakeNbdServer>(
        exported, [this](const FakeRequest& r) { return serve(r); },
        dir_.file("socket"));
  }
  FakeNbdServer& server() { return *server_; }
  // Kills that did lose something.
  int lost() const {
    std::lock_guard lock(mu_);
    return lost_;
  }
  int flushes() const {
    std::lock_guard lock(mu_);
    return flushes_;
  }
  std::string durable() const {
    std::lock_guard lock(mu_);
    return durable_;
  }
  std::string cached() const {
    std::lock_guard lock(mu_);
    return cached_;
  }
  // As another server would that takes the disk over.
  void scribble(std::size_t at, const std::string& text) {
    std::lock_guard lock(mu_);
    durable_.replace(at, text.size(), text);
    cached_.replace(at, text.size(), text);
  }

 private:
  std::string serve(const FakeRequest& r) {
    if (fault)
      if (const std::uint32_t error = fault(r))
        return error == kNoReply ? "" : simple_reply(r, error);
    std::lock_guard lock(mu_);
    const bool ranged = r.type != 3;
    if (ranged && r.offset + r.length > cached_.size())
      return simple_reply(r, 22);
    switch (r.type) {
      case 0:
        return structured_reply(r, 1,
                                WireBytes()
                                    .u64(r.offset)
                                    .text(cached_.substr(r.offset, r.length))
                                    .bytes);
      case 1:
        cached_.replace(r.offset, r.length, r.data);
        break;
      case 3:
        ++flushes_;
        durable_ = cached_;
        break;
      case 6:
        cached_.replace(r.offset, r.length, std::string(r.length, '\0'));
        break;
      default:
        break;
    }
    if (ranged && (r.flags & 1))
      durable_.replace(r.offset, r.length, cached_.substr(r.offset, r.length));
    return simple_reply(r, 0);
  }

  mutable std::mutex mu_;
  std::string durable_;
  std::string cached_;
  int lost_ = 0;
  int flushes_ = 0;
  const std::uint16_t flags_;
  ScratchDir dir_;
  std::unique_ptr<FakeNbdServer> server_;  // last: its threads use the rest
};

}  // namespace nbd_remap
