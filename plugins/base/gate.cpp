// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/gate.hpp"

#include <algorithm>

namespace nbd_remap {

std::optional<Gate::Pass> Gate::enter() {
  MutexLock lock(mu_);
  while ((paused_ || held_) && !closed_) {
    if (held_)
      resumed_.wait(mu_);
    else if (!resumed_.wait_until(mu_, pause_ends_) &&
             std::chrono::steady_clock::now() >= pause_ends_)
      end_pause();
  }
  if (closed_) return std::nullopt;
  ++inside_;
  return Pass(this);
}

void Gate::close() {
  MutexLock lock(mu_);
  closed_ = true;
  resumed_.notify_all();
}

void Gate::pause(std::chrono::milliseconds longest) {
  const auto end = std::chrono::steady_clock::now() + longest;
  MutexLock lock(mu_);
  pause_ends_ = paused_ ? std::max(pause_ends_, end) : end;
  paused_ = true;
}

void Gate::resume() {
  MutexLock lock(mu_);
  end_pause();
}

bool Gate::paused() const {
  MutexLock lock(mu_);
  return paused_ && std::chrono::steady_clock::now() < pause_ends_;
}

void Gate::end_pause() {
  paused_ = false;
  resumed_.notify_all();
}

bool Gate::hold(std::chrono::milliseconds bound) {
  {
    MutexLock lock(mu_);
    if (held_) return false;
    held_ = true;
  }
  if (drain(bound)) return true;
  release();
  return false;
}

void Gate::release() {
  MutexLock lock(mu_);
  held_ = false;
  resumed_.notify_all();
}

bool Gate::drain(std::chrono::milliseconds bound) {
  const auto deadline = std::chrono::steady_clock::now() + bound;
  MutexLock lock(mu_);
  while (inside_ != 0)
    if (!empty_.wait_until(mu_, deadline)) return inside_ == 0;
  return true;
}

std::uint64_t Gate::inside() const {
  MutexLock lock(mu_);
  return inside_;
}

bool Gate::closed() const {
  MutexLock lock(mu_);
  return closed_;
}

void Gate::leave() {
  MutexLock lock(mu_);
  if (--inside_ == 0) empty_.notify_all();
}

}  // namespace nbd_remap
