#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A backend over NBD with a log and counters that a test can look at.

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "tests/unit/nbd_test_tools.hpp"

namespace nbd_remap {

struct Watched {
  explicit Watched(
      const std::string& uri,
      std::chrono::milliseconds deadline = std::chrono::seconds(10),
      std::function<Status(Backend&)> hook = {}) {
    OpenOptions options;
    options.deadline = deadline;
    options.counters = counters;
    options.on_reconnect = std::move(hook);
    options.log = [this](LogLevel, std::string_view text) {
      std::lock_guard lock(mu);
      log += std::string(text) + "\n";
    };
    auto opened = open_nbd_backend(uri, options);
    if (!opened) throw std::runtime_error(opened.error().text());
    disk = *std::move(opened);
  }
  bool logged(const std::string& text) {
    std::lock_guard lock(mu);
    return log.find(text) != std::string::npos;
  }
  std::mutex mu;
  std::string log;
  std::shared_ptr<RemoteCounters> counters = std::make_shared<RemoteCounters>();
  std::unique_ptr<Backend> disk;
};

inline bool write_ok(Backend& disk, std::uint64_t at, ConstBytes data,
                     Durability durability = Durability::cached) {
  return disk.write({at}, data, durability).ok();
}

}  // namespace nbd_remap
