// SPDX-License-Identifier: BSD-3-Clause
// Contract C2, C3, C5, C6, M2a: everything that can happen to a volume of 4
// blocks and 2 slots in a few steps.
//
//   NBD_REMAP_SMALL_STEPS   how many steps at most (2, with a sanitizer 1; 3 by
//                           tests/run --soak)
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/sim/small_world.hpp"

namespace nbd_remap {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kSteps = 1;
#else
constexpr std::size_t kSteps = 2;
#endif

// All sequences of one step first: what fails is as short as can be.
bool explore(SmallWorld& world, std::vector<std::size_t>& steps,
             std::size_t left) {
  if (left == 0) return world.explore(steps);
  for (std::size_t step = 0; step < SmallWorld::kSteps.size(); ++step) {
    steps.push_back(step);
    if (!explore(world, steps, left - 1)) return false;
    steps.pop_back();
  }
  return true;
}

TEST(SmallWorld, no_end_of_any_sequence_loses_or_invents_a_sector) {
  const char* text = std::getenv("NBD_REMAP_SMALL_STEPS");
  const std::size_t most = text ? std::strtoul(text, nullptr, 10) : kSteps;
  for (std::size_t n = 1; n <= most; ++n) {
    // Of how many different states the starts are cut too: one in so many.
    constexpr std::array<std::uint64_t, 3> kShort{10, 400, 2000};
    constexpr std::array<std::uint64_t, 3> kLong{1, 30, 200};
    SmallWorld world((most < 3 ? kShort : kLong).at(std::min(n, 3UL) - 1));
    std::vector<std::size_t> steps;
    ASSERT_TRUE(explore(world, steps, n)) << world.violation();
    const SmallWorld::Counts& c = world.counts();
    std::printf(
        "%zu steps: %lu sequences, %lu ends (%lu with too many states "
        "for all), %lu states, %lu starts that differ, %lu cut starts, "
        "%lu unreadable sectors\n",
        n, c.sequences, c.ends, c.sampled, c.states, c.starts, c.cut_starts,
        c.unreadable);
    EXPECT_GT(c.ends, 4 * c.sequences);
    EXPECT_GT(c.states, 4 * c.ends);
    EXPECT_LT(c.sampled, c.ends / 10);
    EXPECT_GT(c.starts, 50U);
    EXPECT_GT(c.cut_starts, 1000U);
    EXPECT_GT(c.unreadable, 0U);
  }
}

}  // namespace
}  // namespace nbd_remap
