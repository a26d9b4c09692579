// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/region_locks.hpp"

namespace nbd_remap {
namespace {
constexpr std::uint64_t kRegionBytes = 1 << 20;
constexpr std::uint64_t kStripes = 1024;
}  // namespace

struct alignas(64) RegionLocks::Stripe {
  Mutex mu;
  CondVar changed;
  unsigned sharers GUARDED_BY(mu) = 0;
  unsigned waiting_sharers GUARDED_BY(mu) = 0;
  unsigned waiting_exclusive GUARDED_BY(mu) = 0;
  bool exclusive GUARDED_BY(mu) = false;
  // Sharers whose turn it is: they waited when an exclusive holder ended.
  unsigned admitted GUARDED_BY(mu) = 0;
  std::uint64_t turns GUARDED_BY(mu) = 0;  // exclusive holders that ended

  using Deadline = std::chrono::steady_clock::time_point;

  bool lock_shared(Deadline deadline) {
    MutexLock lock(mu);
    const std::uint64_t came = turns;
    ++waiting_sharers;
    bool in_time = true;
    while (in_time && (exclusive || (waiting_exclusive != 0 && came == turns)))
      in_time = changed.wait_until(mu, deadline);
    --waiting_sharers;
    // Between its turn and now no exclusive holder can have come.
    if (came != turns) --admitted;
    const bool mine = !exclusive && (waiting_exclusive == 0 || came != turns);
    if (mine) ++sharers;
    return mine;
  }

  bool taken() const REQUIRES(mu) {
    return exclusive || sharers != 0 || admitted != 0;
  }

  bool lock_exclusive(Deadline deadline) {
    MutexLock lock(mu);
    ++waiting_exclusive;
    bool in_time = true;
    while (in_time && taken()) in_time = changed.wait_until(mu, deadline);
    --waiting_exclusive;
    if (taken()) {
      changed.notify_all();
      return false;
    }
    exclusive = true;
    return true;
  }

  void unlock(Mode mode) {
    MutexLock lock(mu);
    if (mode == Mode::exclusive) {
      exclusive = false;
      ++turns;
      admitted = waiting_sharers;
    } else {
      --sharers;
    }
    if (sharers == 0) changed.notify_all();
  }
};

RegionLocks::RegionLocks() : stripes_(std::make_unique<Stripe[]>(kStripes)) {}
RegionLocks::~RegionLocks() = default;

template <class F>
std::uint64_t RegionLocks::for_each(std::uint64_t first, std::uint64_t last,
                                    F&& f) {
  std::uint64_t done = 0;
  auto run = [&](std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t i = from; i <= to; ++i, ++done)
      if (!f(stripes_[i])) return false;
    return true;
  };
  if (last - first + 1 >= kStripes) {
    run(0, kStripes - 1);
    return done;
  }
  const std::uint64_t a = first % kStripes;
  const std::uint64_t b = last % kStripes;
  if (a <= b)
    run(a, b);
  else if (run(0, b))
    run(a, kStripes - 1);
  return done;
}

std::optional<RegionLocks::Guard> RegionLocks::lock(
    Mode mode, VolumeOffset offset, std::uint64_t length,
    std::chrono::milliseconds bound) {
  const std::uint64_t first = offset.value / kRegionBytes;
  const std::uint64_t last = (offset.value + length - 1) / kRegionBytes;
  const auto deadline = std::chrono::steady_clock::now() + bound;
  bool in_time = true;
  std::uint64_t taken = for_each(first, last, [&](Stripe& stripe) {
    in_time = mode == Mode::exclusive ? stripe.lock_exclusive(deadline)
                                      : stripe.lock_shared(deadline);
    return in_time;
  });
  if (in_time) return Guard(this, mode, first, last);
  for_each(first, last, [&](Stripe& stripe) {
    if (taken == 0) return false;
    --taken;
    stripe.unlock(mode);
    return true;
  });
  return std::nullopt;
}

void RegionLocks::release(Mode mode, std::uint64_t first, std::uint64_t last) {
  for_each(first, last, [&](Stripe& stripe) {
    stripe.unlock(mode);
    return true;
  });
}

}  // namespace nbd_remap
