#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Health: one word for a volume, and the reasons in plain words. Pure.

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

struct Health {
  HealthState state = HealthState::healthy;
  std::vector<std::string> reasons;
};

std::string_view health_state_name(HealthState state);
Health assess_health(const VolumeStatus& status);

}  // namespace nbd_remap
