#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Breaker: tells a disk with many bad blocks from one that no longer answers
// (contract C10). It counts blocks that failed one after another with no
// success on MAIN between; at the threshold the volume reads probes spread
// over the disk, and only if all of those fail too the breaker opens. It stays
// open until the server is started again, or another disk is MAIN.
//
// Threads  any, at once.

#include <atomic>
#include <cstdint>

#include "plugins/base/mutex.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

class Breaker {
 public:
  // threshold: blocks in a row; at least 1.
  explicit Breaker(std::uint64_t threshold) : threshold_(threshold) {}

  bool open() const { return open_; }
  void trip() { open_ = true; }

  // MAIN failed on this block; successes: calls on MAIN that succeeded so far.
  // True when it is time to probe.
  bool failed(BlockNo block, std::uint64_t successes) {
    MutexLock lock(mu_);
    if (successes != successes_) run_ = 0;
    if (run_ == 0 || block != last_) ++run_;
    successes_ = successes;
    last_ = block;
    return run_ >= threshold_;
  }
  // Another disk is MAIN now.
  void begin_anew() {
    MutexLock lock(mu_);
    run_ = 0;
    open_ = false;
  }
  // A probe was answered.
  void answered() {
    MutexLock lock(mu_);
    run_ = 0;
  }

 private:
  const std::uint64_t threshold_;
  std::atomic<bool> open_{false};
  Mutex mu_;
  std::uint64_t run_ GUARDED_BY(mu_) = 0;
  std::uint64_t successes_ GUARDED_BY(mu_) = 0;
  BlockNo last_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
