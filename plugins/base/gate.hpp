#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Gate: counts work in flight, and ends it in order. After close() nobody new
// enters; drain() waits, bounded, until those inside have left. pause() makes
// those who come wait, until resume(), close() or its end, whatever is first.
// hold() does the same for work that must be alone, however long it takes, and
// that resume() does not end.
//
// Threads  any; all may race with one another.

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "plugins/base/mutex.hpp"

namespace nbd_remap {

class Gate {
 public:
  // Held while one piece of work runs.
  class Pass {
   public:
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (gate_) gate_->leave();
    }

   private:
    friend class Gate;
    explicit Pass(Gate* gate) : gate_(gate) {}
    Gate* gate_;
  };

  // Empty once the gate is closed.
  std::optional<Pass> enter();
  void close();
  // Of two that overlap the later end counts.
  void pause(std::chrono::milliseconds longest);
  void resume();
  bool paused() const;
  // Waits until nobody is inside, those who come wait; then it is held. False:
  // the time was up first, or another one holds it, and all is as before.
  bool hold(std::chrono::milliseconds bound);
  void release();
  // True when nobody is inside; false when the time was up first.
  bool drain(std::chrono::milliseconds bound);
  std::uint64_t inside() const;
  bool closed() const;

 private:
  void leave();
  void end_pause() REQUIRES(mu_);

  mutable Mutex mu_;
  CondVar empty_;
  CondVar resumed_;
  std::uint64_t inside_ GUARDED_BY(mu_) = 0;
  bool closed_ GUARDED_BY(mu_) = false;
  bool paused_ GUARDED_BY(mu_) = false;
  bool held_ GUARDED_BY(mu_) = false;
  std::chrono::steady_clock::time_point pause_ends_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
