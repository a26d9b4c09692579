#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Clock: time as a parameter, so that tests can turn the hands.

#include <chrono>
#include <cstdint>

namespace nbd_remap {

class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes back; for durations and deadlines.
  virtual std::chrono::steady_clock::time_point now() const = 0;
  // Seconds since 1970; for people and for metadata, never for order.
  virtual std::uint64_t unix_seconds() const = 0;
};

class SystemClock final : public Clock {
 public:
  std::chrono::steady_clock::time_point now() const override {
    return std::chrono::steady_clock::now();
  }
  std::uint64_t unix_seconds() const override {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::seconds>(
            std::chrono::system_clock::now().time_since_epoch())
            .count());
  }
};

}  // namespace nbd_remap
