// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/gate.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{20'000};

TEST(Gate, a_closed_gate_lets_nobody_in) {
  Gate gate;
  EXPECT_FALSE(gate.closed());
  EXPECT_TRUE(gate.enter().has_value());
  gate.close();
  EXPECT_TRUE(gate.closed());
  EXPECT_FALSE(gate.enter().has_value());
}

TEST(Gate, counts_each_pass_once_even_when_it_moves) {
  Gate gate;
  {
    auto first = gate.enter();
    auto second = gate.enter();
    EXPECT_EQ(gate.inside(), 2U);
    const Gate::Pass moved = std::move(*first);
    EXPECT_EQ(gate.inside(), 2U);
  }
  EXPECT_EQ(gate.inside(), 0U);
}

TEST(Gate, drain_ends_at_its_bound_while_somebody_is_inside) {
  Gate gate;
  const auto pass = gate.enter();
  gate.close();
  EXPECT_FALSE(gate.drain(milliseconds(1)));
  EXPECT_FALSE(gate.drain(milliseconds(0)));
}

TEST(Gate, drain_succeeds_at_once_when_nobody_is_inside) {
  Gate gate;
  gate.close();
  EXPECT_TRUE(gate.drain(milliseconds(0)));
}

TEST(Gate, drain_waits_for_the_last_to_leave) {
  Gate gate;
  auto pass = gate.enter();
  std::atomic<bool> left = false;
  std::jthread worker([&] {
    while (!gate.closed()) std::this_thread::yield();
    left = true;
    pass.reset();
  });
  gate.close();
  EXPECT_TRUE(gate.drain(kLong));
  EXPECT_TRUE(left);
}

TEST(Gate, nobody_is_inside_after_a_close_and_drain_under_load) {
  Gate gate;
  std::atomic<int> working = 0;
  std::atomic<std::uint64_t> entered = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      while (auto pass = gate.enter()) {
        ++working;
        ++entered;
        --working;
      }
    });
  while (entered < 1000) std::this_thread::yield();
  gate.close();
  ASSERT_TRUE(gate.drain(kLong));
  EXPECT_EQ(working, 0);
  EXPECT_EQ(gate.inside(), 0U);
}

TEST(Gate, who_holds_it_is_alone_and_a_resume_does_not_end_that) {
  Gate gate;
  auto pass = gate.enter();
  EXPECT_FALSE(gate.hold(milliseconds(1))) << "somebody is inside";
  pass.reset();
  ASSERT_TRUE(gate.hold(kLong));
  EXPECT_FALSE(gate.hold(milliseconds(1))) << "it is held";
  gate.pause(milliseconds(1));
  gate.resume();
  std::atomic<bool> entered = false;
  std::jthread worker([&] { entered = gate.enter().has_value(); });
  EXPECT_FALSE(gate.paused());
  EXPECT_EQ(gate.inside(), 0U);
  EXPECT_FALSE(entered);
  gate.release();
  worker.join();
  EXPECT_TRUE(entered);
}

TEST(Gate, a_close_lets_nobody_wait_for_who_holds_it) {
  Gate gate;
  ASSERT_TRUE(gate.hold(kLong));
  std::jthread worker([&] { EXPECT_FALSE(gate.enter()); });
  gate.close();
}

}  // namespace
}  // namespace nbd_remap
