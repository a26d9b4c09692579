#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What every request of a Volume goes through, for volume*.cpp alone.

#include <fmt/format.h>

#include <cerrno>

#include "plugins/volume/volume.hpp"

namespace nbd_remap {

inline bool is_medium(const Status& status) {
  return !status && status.error().error_class == ErrorClass::medium;
}

inline Error stopping_error() {
  return make_error(ErrorClass::transport, ESHUTDOWN,
                    "volume: the server is stopping");
}

struct HeldGate {
  explicit HeldGate(Gate& held) : gate(held) {}
  ~HeldGate() { gate.release(); }
  HeldGate(const HeldGate&) = delete;
  HeldGate& operator=(const HeldGate&) = delete;
  Gate& gate;
};

template <class Body>
Status Volume::request(Op op, VolumeOffset offset, std::uint64_t length,
                       bool writes, Body&& body) {
  stats_.requests[static_cast<std::size_t>(op)].fetch_add(
      1, std::memory_order_relaxed);
  Status status = [&]() -> Status {
    const auto pass = gate_.enter();
    if (!pass) return stopping_error();
    if (writes && read_only_)
      return make_error(ErrorClass::caller, EROFS, "volume: read-only");
    if (Status in_range = check_range(offset, length); !in_range)
      return in_range;
    if (op == Op::flush) return body();
    if (length == 0) return {};
    if (!store_)
      return make_error(ErrorClass::transport, EIO,
                        "volume: SPARE is missing, so nothing is known of any "
                        "block: " +
                            missing_spare_);
    return body();
  }();
  if (!status) {
    ++stats_
          .client_errors[static_cast<std::size_t>(status.error().error_class)];
    // What is written here from now on would be another server's data.
    if (store_ && store_->taken_over()) gate_.close();
  }
  return status;
}

template <class Body>
Status Volume::locked(Mode mode, VolumeOffset offset, std::uint64_t length,
                      Body&& body) {
  const auto guard = regions_.lock(mode, offset, length, options_.lock_bound);
  if (guard) return body();
  ++stats_.lock_timeouts;
  return make_error(
      ETIMEDOUT,
      fmt::format("volume: waited {} ms for {} bytes at {}",
                  options_.lock_bound.count(), length, offset.value));
}

}  // namespace nbd_remap
