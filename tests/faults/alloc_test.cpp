// SPDX-License-Identifier: BSD-3-Clause
// Contract C1 to C9, L1: an allocation of the product fails, each one in turn.
// A request fails then, or not; what was acknowledged stays true, and the
// server lives. A start fails, or not, and the next one works.
//
//   NBD_REMAP_LONG=1       all allocations; else one in so many
//   NBD_REMAP_FAULT=NAME   that one alone, as a failure has printed it
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"
#include "tests/faults/alloc_fault.hpp"
#include "tests/faults/fault_inject.hpp"

namespace nbd_remap {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kSlower = 10;
#else
constexpr std::uint64_t kSlower = 1;
#endif

bool one_alone() { return std::getenv("NBD_REMAP_FAULT") != nullptr; }

// Each kind of allocation that the product makes can be made to fail.
TEST(AllocFault, strikes_the_chosen_allocation_and_no_other) {
  const auto failing = [](auto&& allocate, std::uint64_t nth) {
    AllocFault::set(nth, false);
    AllocFault::arm();
    std::vector<bool> thrown;
    for (int i = 0; i < 3; ++i) {
      bool now = false;
      try {
        allocate();
      } catch (const std::bad_alloc&) {
        now = true;
      }
      const AllocFault::Shield shield;
      thrown.push_back(now);
    }
    AllocFault::pause();
    return thrown;
  };
  const std::vector<bool> second{false, true, false};
  EXPECT_EQ(failing([] { ::operator delete(::operator new(8)); }, 2), second);
  EXPECT_EQ(failing([] { const AlignedBuffer buffer(4096); }, 2), second);
  EXPECT_EQ(failing(
                [] {
                  const std::vector<int> some(100);
                  // Seen by somebody, or a compiler may do without it.
                  asm volatile("" : : "r"(some.data()) : "memory");
                },
                2),
            second);
  EXPECT_EQ(AllocFault::fired(), 1U);
}

TEST(AllocFault, at_every_allocation_of_every_scenario_loses_nothing) {
  InjectCounts counts;
  std::uint64_t stride = 7 * kSlower;
  if (std::getenv("NBD_REMAP_LONG") || one_alone()) stride = 1;
  for (std::size_t i = 0; i < fault_scenarios().size(); ++i) {
    FaultInjector injector(i);
    ASSERT_EQ(injector.baseline(), "") << fault_scenarios()[i].name;
    EXPECT_EQ(injector.replay(Inject::memory, stride, counts), "");
  }
  std::printf("memory: %lu of %lu injections in %zu scenarios\n", counts.done,
              counts.possible, fault_scenarios().size());
  if (one_alone()) return;
  EXPECT_EQ(counts.unfired, 0U);
  EXPECT_GE(counts.done, 1'000U / kSlower);
}

}  // namespace
}  // namespace nbd_remap
