#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Counters of one volume since its start. Each is a plain total; relaxed, so
// that the hot path pays one addition.

#include <array>
#include <atomic>
#include <cstdint>

#include "plugins/base/error_class.hpp"

namespace nbd_remap {

enum class Op { read, write, zero, trim, flush, extents, cache };
inline constexpr int kOpCount = 7;

struct Stats {
  using Counter = std::atomic<std::uint64_t>;

  std::array<Counter, kOpCount> requests{};  // by Op, failed ones included
  Counter bytes_read{0};                     // of requests that succeeded
  Counter bytes_written{0};  // by write, of requests that succeeded
  std::array<Counter, kErrorClassCount> client_errors{};  // by ErrorClass
  Counter healed_writes{0};  // requests that needed a new slot and succeeded
  Counter healed_blocks{0};  // blocks that were given a slot
  Counter retried_reads{0};  // reads that failed at first and then succeeded
  Counter slots_retired{0};
  Counter lock_timeouts{0};  // requests that waited in vain for a region
};

}  // namespace nbd_remap
