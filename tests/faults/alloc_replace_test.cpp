// SPDX-License-Identifier: BSD-3-Clause
// Contract L1: each allocation of the start of a replacement fails in turn. The
// start fails with ENOMEM (or does without), the volume keeps its disk and goes
// on, and the next start replaces it.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <new>
#include <string>

#include "tests/fakes/replace_fixture.hpp"
#include "tests/fakes/spare_replace_fixture.hpp"
#include "tests/faults/alloc_fault.hpp"
#include "tests/unit/spare_replace_rig.hpp"

namespace nbd_remap {
namespace {

// What start() answers when the nth allocation in it fails.
template <class Start>
Status strike(std::uint64_t nth, Start&& start) {
  AllocFault::set(nth, false);
  AllocFault::arm_this_thread();
  Status status;
  try {
    status = start();
  } catch (const std::bad_alloc&) {
    status = make_error(ENOMEM, "out of memory");
  }
  AllocFault::pause();
  return status;
}

// one(nth): in a new world. False once nothing failed any more.
template <class One>
void each_allocation(std::uint64_t least, One&& one) {
  std::uint64_t n = 1;
  while (one(n)) {
    if (::testing::Test::HasFailure()) break;
    ++n;
  }
  AllocFault::set(AllocFault::kNever, false);
  EXPECT_GT(n, least);
}

TEST(AllocReplace, a_start_without_memory_leaves_main_in_its_place) {
  each_allocation(30, [](std::uint64_t n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    ReplaceRig rig;
    EXPECT_EQ(rig.write(0, kMiB, 1), 0);
    const Status status = strike(n, [&] { return rig.start(); });
    const bool fired = AllocFault::fired() != 0;
    AllocFault::set(AllocFault::kNever, false);
    EXPECT_TRUE(rig.holds(0, kMiB, 1));
    EXPECT_EQ(rig.write(kMiB, kBlock, 2), 0);
    if (!status) {
      EXPECT_EQ(status.error().errnum, ENOMEM) << text_of(status);
      EXPECT_EQ(rig.phase(), ReplacePhase::none);
      const Status again = rig.start();
      EXPECT_TRUE(again) << text_of(again);
    }
    EXPECT_TRUE(rig.run_to(ReplacePhase::done));
    EXPECT_TRUE(rig.holds(0, kMiB, 1));
    EXPECT_TRUE(rig.holds(kMiB, kBlock, 2));
    return fired;
  });
}

TEST(AllocReplace, a_start_without_memory_leaves_spare_in_its_place) {
  each_allocation(30, [](std::uint64_t n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    SpareRig rig;
    const Status status =
        strike(n, [&] { return rig.world.replacer->start("next", false); });
    const bool fired = AllocFault::fired() != 0;
    AllocFault::set(AllocFault::kNever, false);
    EXPECT_TRUE(same_as_written(rig.world));
    if (!status) {
      EXPECT_EQ(status.error().errnum, ENOMEM) << text_of(status);
      EXPECT_EQ(rig.world.phase(), ReplacePhase::none);
      const Status again = rig.world.replacer->start("next", true);
      EXPECT_TRUE(again) << text_of(again);
    }
    EXPECT_TRUE(rig.world.run_to(ReplacePhase::done));
    EXPECT_TRUE(same_as_written(rig.world));
    return fired;
  });
}

}  // namespace
}  // namespace nbd_remap
