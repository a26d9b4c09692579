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

std::vector<std::string> reason_texts(const Health& health) {
  std::vector<std::string> out;
  for (const HealthReason& reason : health.reasons) out.push_back(reason.text);
  return out;
}

Health assess_health(const VolumeStatus& s) {
  Health health;
  auto add = [&](HealthState at_least, std::string_view code, std::string text,
                 std::uint64_t count = 1) {
    health.state = std::max(health.state, at_least);
    health.reasons.push_back({code, count, std::move(text)});
  };
  if (!s.missing_spare.empty()) {
    add(HealthState::failed, "spare-missing",
        "SPARE is missing: " + s.missing_spare);
  } else {
    const SlotPool::Counts& slots = s.store.slots;
    const std::uint64_t gone = slots.used + slots.retired;
    if (!s.store.failed.empty())
      add(HealthState::failed, "map-failed",
          "the map can no longer change: " + s.store.failed);
    if (s.spare.in_doubt)
      add(HealthState::failed, "spare-in-doubt",
          "a flush of SPARE failed; recent writes are in doubt");
    if (gone >= slots.slots)
      add(HealthState::failed, "spare-full", "SPARE is full");
    else if (gone >= slots.slots - slots.slots / 10)
      add(HealthState::degraded, "spare-nearly-full",
          fmt::format("SPARE is nearly full: {} of {} slots", gone,
                      slots.slots));
    if (std::popcount(s.store.superblock.copies_in_step) < 2 &&
        !s.store.read_only)
      add(HealthState::degraded, "metadata-copy",
          "one copy of the metadata is out of use");
    if (slots.retired != 0)
      add(HealthState::degraded, "retired",
          fmt::format("SPARE has bad places: {} retired",
                      slots.retired == 1
                          ? "1 slot is"
                          : fmt::format("{} slots are", slots.retired)),
          slots.retired);
    if (s.store.pending != 0)
      add(HealthState::degraded, "pending",
          s.store.pending == 1
              ? "1 block has unreadable sectors until it is written again"
              : fmt::format("{} blocks have unreadable sectors until they are "
                            "written again",
                            s.store.pending),
          s.store.pending);
    if (s.store.remapped != 0)
      add(HealthState::degraded, "remapped",
          s.store.remapped == 1
              ? "1 block of MAIN is bad and lives on SPARE"
              : fmt::format("{} blocks of MAIN are bad and live on SPARE",
                            s.store.remapped),
          // A pending block that is remapped is no news of MAIN.
          s.store.remapped + s.store.pending);
  }
  for (const auto& [name, disk] :
       {std::pair{"MAIN", &s.main}, std::pair{"SPARE", &s.spare}})
    if (disk->link && !disk->link->connected)
      add(HealthState::failed, "not-reached",
          fmt::format("{} is not reached; requests wait for it, then fail",
                      name));
  if (s.breaker_open)
    add(HealthState::failed, "breaker",
        "MAIN no longer answers (breaker open)");
  if (s.main.in_doubt)
    add(HealthState::failed, "main-in-doubt",
        "a flush of MAIN failed; recent writes are in doubt");
  if (s.stopping)
    add(HealthState::stopping, "stopping", "the server is stopping");
  return health;
}

}  // namespace nbd_remap
