// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/health.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace nbd_remap {

std::string_view health_state_name(HealthState state) {
  switch (state) {
    case HealthState::healthy:
      return "healthy";
    case HealthState::degraded:
      return "degraded";
    case HealthState::failed:
      return "failed";
    case HealthState::stopping:
      return "stopping";
  }
  return "failed";
}

Health assess_health(const VolumeStatus& s) {
  Health health;
  auto add = [&](HealthState at_least, std::string reason) {
    health.state = std::max(health.state, at_least);
    health.reasons.push_back(std::move(reason));
  };
  if (!s.missing_spare.empty()) {
    add(HealthState::failed, "SPARE is missing: " + s.missing_spare);
  } else {
    const SlotPool::Counts& slots = s.store.slots;
    const std::uint64_t gone = slots.used + slots.retired;
    if (!s.store.failed.empty())
      add(HealthState::failed,
          "the map can no longer change: " + s.store.failed);
    if (s.spare.in_doubt)
      add(HealthState::failed,
          "a flush of SPARE failed; recent writes are in doubt");
    if (gone >= slots.slots)
      add(HealthState::failed, "SPARE is full");
    else if (gone >= slots.slots - slots.slots / 10)
      add(HealthState::degraded,
          fmt::format("SPARE is nearly full: {} of {} slots", gone,
                      slots.slots));
    if (std::popcount(s.store.superblock.copies_in_step) < 2 &&
        !s.store.read_only)
      add(HealthState::degraded, "one copy of the metadata is out of use");
    if (slots.retired != 0)
      add(HealthState::degraded,
          fmt::format("SPARE has bad places: {} slots are retired",
                      slots.retired));
    if (s.store.pending != 0)
      add(HealthState::degraded,
          fmt::format("{} blocks have unreadable sectors until they are "
                      "written again",
                      s.store.pending));
    if (s.store.remapped != 0)
      add(HealthState::degraded,
          fmt::format("{} blocks of MAIN are bad and live on SPARE",
                      s.store.remapped));
  }
  for (const auto& [name, disk] :
       {std::pair{"MAIN", &s.main}, std::pair{"SPARE", &s.spare}})
    if (disk->link && !disk->link->connected)
      add(HealthState::failed,
          fmt::format("{} is not reached; requests wait for it, then fail",
                      name));
  if (s.breaker_open)
    add(HealthState::failed, "MAIN no longer answers (breaker open)");
  if (s.main.in_doubt)
    add(HealthState::failed,
        "a flush of MAIN failed; recent writes are in doubt");
  if (s.stopping) add(HealthState::stopping, "the server is stopping");
  return health;
}

}  // namespace nbd_remap
