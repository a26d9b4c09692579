// SPDX-License-Identifier: BSD-3-Clause
// Contract C1 to C10, C12, M2: a fault at every call of every scenario.
//
//   NBD_REMAP_LONG=1       all injections; else one in so many of each kind
//   NBD_REMAP_FAULT=NAME   that one alone, as a failure has printed it
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/faults/fault_inject.hpp"

namespace nbd_remap {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kSlower = 10;
#else
constexpr std::uint64_t kSlower = 1;
#endif

bool one_alone() { return std::getenv("NBD_REMAP_FAULT") != nullptr; }
bool all_of_them() {
  return std::getenv("NBD_REMAP_LONG") != nullptr || one_alone();
}

// Prime to what is nested in them: each call is met, with some class and end.
void replay_all(Inject kind, const char* what, std::uint64_t stride,
                std::uint64_t at_least) {
  InjectCounts counts;
  if (all_of_them()) stride = 1;
  for (std::size_t i = 0; i < fault_scenarios().size(); ++i) {
    FaultInjector injector(i);
    ASSERT_EQ(injector.baseline(), "") << fault_scenarios()[i].name;
    EXPECT_EQ(injector.replay(kind, stride, counts), "");
  }
  std::printf("%s: %lu of %lu injections in %zu scenarios\n", what, counts.done,
              counts.possible, fault_scenarios().size());
  if (one_alone()) return;
  EXPECT_EQ(counts.unfired, 0U);
  EXPECT_GE(counts.done, at_least / kSlower);
}

TEST(FaultAtEveryCall, there_are_thirty_scenarios_and_each_does_what_it_says) {
  EXPECT_GE(fault_scenarios().size(), 30U);
  for (std::size_t i = 0; i < fault_scenarios().size(); ++i)
    EXPECT_EQ(FaultInjector(i).baseline(), "") << fault_scenarios()[i].name;
}

TEST(FaultAtEveryCall, an_error_of_each_class_is_told_and_loses_nothing) {
  replay_all(Inject::errors, "errors", 4 * kSlower, 10'000);
}

TEST(FaultAtEveryCall, a_power_cut_before_and_in_each_call_loses_nothing) {
  replay_all(Inject::cuts, "cuts", 2 * kSlower, 4'000);
}

TEST(FaultAtEveryCall, an_end_before_and_after_each_step_loses_nothing) {
  replay_all(Inject::steps, "steps", 1, 400);
}

}  // namespace
}  // namespace nbd_remap
