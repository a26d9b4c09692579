// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/gate.hpp"

namespace nbd_remap {

std::optional<Gate::Pass> Gate::enter() {
  MutexLock lock(mu_);
  if (closed_) return std::nullopt;
  ++inside_;
  return Pass(this);
}

void Gate::close() {
  MutexLock lock(mu_);
  closed_ = true;
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
