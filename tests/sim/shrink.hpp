#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Makes a plan that fails as short as it can: rounds, then operations, then
// everything else is left out or made smaller as long as it still fails.

#include <cstdint>
#include <functional>

#include "tests/sim/sim_plan.hpp"

namespace nbd_remap {

// fails: whether a plan (still) does. It is asked at most so many times.
// REQUIRES: fails(plan).
SimPlan shrink(SimPlan plan, const std::function<bool(const SimPlan&)>& fails,
               std::uint64_t tries);

}  // namespace nbd_remap
