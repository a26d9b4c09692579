#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Calls bite() from a thread of its own if it still exists at a moment.
//
// A start that found no memory is undone with one, too: without memory for the
// thread there is no watchdog, and nothing is thrown.

#include <chrono>
#include <exception>
#include <functional>
#include <thread>
#include <utility>

#include "plugins/base/mutex.hpp"

namespace nbd_remap {

class StopWatchdog {
 public:
  StopWatchdog(std::chrono::steady_clock::time_point moment,
               std::function<void()> bite)
      : moment_(moment), bite_(std::move(bite)) {
    try {
      thread_ = std::thread([this] { watch(); });
    } catch (const std::exception&) {
    }
  }
  ~StopWatchdog() {
    {
      MutexLock lock(mu_);
      over_ = true;
    }
    ended_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  StopWatchdog(const StopWatchdog&) = delete;
  StopWatchdog& operator=(const StopWatchdog&) = delete;

 private:
  void watch() {
    {
      MutexLock lock(mu_);
      while (!over_)
        if (!ended_.wait_until(mu_, moment_)) break;
      if (over_) return;
    }
    bite_();
  }

  const std::chrono::steady_clock::time_point moment_;
  const std::function<void()> bite_;
  Mutex mu_;
  CondVar ended_;
  bool over_ GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace nbd_remap
