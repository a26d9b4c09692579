#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// DeadSwitch and HangGate: faults of the device as a whole.
//
// Threads  all methods: any, at once. HangGate::pass() waits, bounded only by
//          its Sleeper, and holds no lock meanwhile.

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "plugins/base/mutex.hpp"

namespace nbd_remap {

// False: do not wait any longer, the server stops or the client has left.
using Sleeper = std::function<bool(std::chrono::milliseconds)>;

// A device that answers every request with an error, from some request on.
class DeadSwitch {
 public:
  struct Status {
    bool dead = false;
    // How many requests still work; empty: it is not going to die.
    std::optional<std::uint64_t> dies_after;
    int errnum = EIO;
    std::uint64_t fired = 0;
  };

  void die(std::uint64_t after_requests, int errnum);
  void revive();
  // One more request has come: its errno, 0 if the device lives.
  int fails();
  Status status() const;

 private:
  mutable Mutex mu_;
  Status status_ GUARDED_BY(mu_);
};

// A device that does not answer until it is told to go on.
class HangGate {
 public:
  struct Status {
    bool hung = false;
    std::uint64_t waiting = 0;  // requests that wait now
    std::uint64_t fired = 0;    // requests that had to wait
  };

  void hang();
  void unhang();
  // False: the sleeper gave up.
  bool pass(const Sleeper& sleep);
  Status status() const;

 private:
  mutable Mutex mu_;
  Status status_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
