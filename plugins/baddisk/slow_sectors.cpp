// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/slow_sectors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "plugins/base/units.hpp"

namespace nbd_remap {

nbd_remap::Status SlowSectors::set(std::span<const BadRange> ranges,
                                   BadMode mode, std::uint64_t delay_ms) {
  if (delay_ms > kMaxDelayMs)
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("a delay of {} ms: expected at most {}",
                                  delay_ms, kMaxDelayMs));
  MutexLock lock(mu_);
  if (auto ok = check_ranges(ranges, size_, map_.size()); !ok) return ok;
  for (const BadRange& range : ranges) {
    std::optional<Delay> delay;
    if (delay_ms != 0) delay = Delay{range.mode.value_or(mode), delay_ms};
    map_.assign(range.start, range.start + range.count, delay);
  }
  return {};
}

std::chrono::milliseconds SlowSectors::delay(DiskOp op, std::uint64_t offset,
                                             std::uint64_t length) {
  const BadMode wanted = op == DiskOp::read ? BadMode::read : BadMode::write;
  std::uint64_t longest = 0;
  MutexLock lock(mu_);
  if (length == 0 || map_.size() == 0) return {};
  map_.visit(offset / kSectorBytes,
             round_up(offset + length, kSectorBytes) / kSectorBytes,
             [&](std::uint64_t, std::uint64_t, const Delay& d) {
               if (has(d.mode, wanted)) longest = std::max(longest, d.ms);
             });
  if (longest != 0) ++fired_;
  return std::chrono::milliseconds(longest);
}

SlowSectors::Status SlowSectors::status(std::size_t limit) const {
  Status status;
  MutexLock lock(mu_);
  status.fired = fired_;
  map_.visit(0, size_, [&](std::uint64_t from, std::uint64_t to, Delay d) {
    if (status.runs.size() < limit)
      status.runs.push_back({from, to - from, d.mode, d.ms});
  });
  return status;
}

}  // namespace nbd_remap
