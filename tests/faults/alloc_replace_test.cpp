// SPDX-License-Identifier: BSD-3-Clause
// Contract L1: each allocation of the start of a replacement fails in turn, and
// each of a write that both disks get. The start fails with ENOMEM (or does
// without), the volume keeps its disk and goes on, and the next start replaces
// it. After such a write the replacement still comes to its end, and the new
// disk has what was read from the old one.
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <new>
#include <string>

#include "tests/fakes/replace_fixture.hpp"
#include "tests/fakes/spare_replace_fixture.hpp"
#include "tests/faults/alloc_fault.hpp"
#include "tests/unit/spare_replace_rig.hpp"

namespace nbd_remap {
namespace {

using namespace std::chrono_literals;

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

TEST(AllocReplace, a_write_without_memory_is_the_same_on_both_mains) {
  each_allocation(5, [](std::uint64_t n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    ReplaceRig rig;
    EXPECT_TRUE(rig.copy_all(1));
    EXPECT_EQ(rig.write(kMiB, 2 * kBlock, 1), 0);
    rig.settle();
    const auto state = unpack_replace_state(rig.notes);
    EXPECT_TRUE(state && state->in_sync.at(0));
    const Status status = strike(n, [&]() -> Status {
      const int errnum = rig.write(kMiB, 2 * kBlock, 2);
      if (errnum != 0) return make_error(errnum, "write");
      return {};
    });
    const bool fired = AllocFault::fired() != 0;
    AllocFault::set(AllocFault::kNever, false);
    const bool is_new = rig.holds(kMiB, 2 * kBlock, 2);
    EXPECT_TRUE(is_new || rig.holds(kMiB, 2 * kBlock, 1));
    EXPECT_TRUE(is_new || !status);
    // Nor does it keep the next write waiting.
    const auto began = std::chrono::steady_clock::now();
    EXPECT_EQ(rig.write(kBlock, kBlock, 3), 0);
    EXPECT_LT(std::chrono::steady_clock::now() - began, CopyMap::kPatience);
    EXPECT_TRUE(rig.run_to(ReplacePhase::done));
    EXPECT_TRUE(rig.holds(kMiB, 2 * kBlock, is_new ? 2 : 1));
    EXPECT_TRUE(rig.holds(kBlock, kBlock, 3));
    return fired;
  });
}

TEST(AllocReplace, a_write_without_memory_is_the_same_on_both_spares) {
  each_allocation(5, [](std::uint64_t n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    SpareRig rig;
    EXPECT_TRUE(rig.world.replacer->start("next", false));
    (void)rig.world.replacer->step();
    const Status status = strike(n, [&]() -> Status {
      const int errnum = rig.world.write(20 * kBlock, kBlock, 3);
      if (errnum != 0) return make_error(errnum, "write");
      return {};
    });
    const bool fired = AllocFault::fired() != 0;
    AllocFault::set(AllocFault::kNever, false);
    const bool is_new = rig.world.holds(20 * kBlock, kBlock, 3);
    EXPECT_TRUE(is_new || rig.world.holds(20 * kBlock, kBlock, 2));
    EXPECT_TRUE(is_new || !status);
    EXPECT_TRUE(rig.world.run_to(ReplacePhase::done));
    EXPECT_TRUE(rig.world.holds(20 * kBlock, kBlock, is_new ? 3 : 2));
    EXPECT_EQ(rig.world.write(20 * kBlock, kBlock, 4), 0);
    return fired;
  });
}

// What a quiesce refuses must not keep the volume for itself.
TEST(AllocReplace, a_refusal_without_memory_holds_no_gate) {
  each_allocation(1, [](std::uint64_t n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    ReplaceRig rig;
    const auto nothing = [](Disk&) { return Status(); };
    EXPECT_TRUE(rig.volume->quiesce(1s, 60s));
    const Status status =
        strike(n, [&] { return rig.volume->alone(1s, nothing); });
    const bool fired = AllocFault::fired() != 0;
    AllocFault::set(AllocFault::kNever, false);
    EXPECT_FALSE(status);
    rig.volume->resume();
    EXPECT_TRUE(rig.volume->alone(1s, nothing)) << "it is held";
    return fired;
  });
}

}  // namespace
}  // namespace nbd_remap
