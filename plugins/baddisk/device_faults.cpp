// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/device_faults.hpp"

namespace nbd_remap {

void DeadSwitch::die(std::uint64_t after_requests, int errnum) {
  MutexLock lock(mu_);
  status_.errnum = errnum;
  status_.dead = after_requests == 0;
  status_.dies_after.reset();
  if (!status_.dead) status_.dies_after = after_requests;
}

void DeadSwitch::revive() {
  MutexLock lock(mu_);
  status_.dead = false;
  status_.dies_after.reset();
}

int DeadSwitch::fails() {
  MutexLock lock(mu_);
  if (status_.dead) {
    ++status_.fired;
    return status_.errnum;
  }
  if (status_.dies_after && --*status_.dies_after == 0) {
    status_.dies_after.reset();
    status_.dead = true;
  }
  return 0;
}

DeadSwitch::Status DeadSwitch::status() const {
  MutexLock lock(mu_);
  return status_;
}

void HangGate::hang() {
  MutexLock lock(mu_);
  status_.hung = true;
}

void HangGate::unhang() {
  MutexLock lock(mu_);
  status_.hung = false;
}

// In slices, as the sleeper is nbdkit's, which a signal of ours cannot wake.
bool HangGate::pass(const Sleeper& sleep) {
  constexpr std::chrono::milliseconds kSlice{20};
  {
    MutexLock lock(mu_);
    if (!status_.hung) return true;
    ++status_.fired;
    ++status_.waiting;
  }
  for (bool go_on = true;;) {
    if (go_on) go_on = sleep(kSlice);
    MutexLock lock(mu_);
    if (go_on && status_.hung) continue;
    --status_.waiting;
    return go_on;
  }
}

HangGate::Status HangGate::status() const {
  MutexLock lock(mu_);
  return status_;
}

}  // namespace nbd_remap
