#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Health: one word for a volume, and the reasons in plain words. Pure.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/volume/volume.hpp"

namespace nbd_remap {

enum class HealthState {
  healthy,   // nothing to do
  degraded,  // all requests are served, or fail for a sector long known
  failed,    // some requests fail that a sound volume would serve
  stopping,
};

struct HealthReason {
  // What it is about, for programs: "pending", "spare-full".
  std::string_view code;
  // How much of it: more is worse. 1 if there is nothing to count.
  std::uint64_t count = 1;
  std::string text;
};

struct Health {
  HealthState state = HealthState::healthy;
  std::vector<HealthReason> reasons;
};

std::string_view health_state_name(HealthState state);
std::vector<std::string> reason_texts(const Health& health);
Health assess_health(const VolumeStatus& status);

}  // namespace nbd_remap
