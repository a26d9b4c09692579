#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// RegionLocks: what client requests, healing and read-modify-write owe one
// another (contract C13). A request shares the regions that it touches; work
// that changes the map of a block, or rewrites bytes around a request, has
// them alone. Held across I/O by design: it is an exclusion of ranges, not a
// mutex over memory.
//
// Shape       Regions of 1 MiB fall on 1024 stripes; an exclusive holder keeps
//             out the few others of its stripe too, for a moment.
// Order       Stripes are taken in ascending order, all of a range at once; a
//             holder takes no second range. So nobody waits in a circle.
// Fairness    A waiting exclusive holder lets no new sharers in; when one ends,
//             the sharers that wait by then go before the next. So neither
//             sort can keep out the other.
// Threads     any.
// Waits       Bounded by the deadline given; then empty.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "plugins/base/mutex.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

class RegionLocks {
 public:
  enum class Mode { shared, exclusive };

  RegionLocks();
  ~RegionLocks();

  class Guard {
   public:
    Guard(Guard&& other) noexcept
        : locks_(std::exchange(other.locks_, nullptr)),
          mode_(other.mode_),
          first_(other.first_),
          last_(other.last_) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (locks_) locks_->release(mode_, first_, last_);
    }

   private:
    friend class RegionLocks;
    Guard(RegionLocks* locks, Mode mode, std::uint64_t first,
          std::uint64_t last)
        : locks_(locks), mode_(mode), first_(first), last_(last) {}
    RegionLocks* locks_;
    Mode mode_;
    std::uint64_t first_;  // regions
    std::uint64_t last_;
  };

  // REQUIRES: length > 0.
  std::optional<Guard> lock(Mode mode, VolumeOffset offset,
                            std::uint64_t length,
                            std::chrono::milliseconds bound);

 private:
  struct Stripe;
  // Calls f(stripe) in ascending order; stops when it answers false and
  // returns how many answered true.
  template <class F>
  std::uint64_t for_each(std::uint64_t first, std::uint64_t last, F&& f);
  void release(Mode mode, std::uint64_t first, std::uint64_t last);

  std::unique_ptr<Stripe[]> stripes_;
};

}  // namespace nbd_remap
