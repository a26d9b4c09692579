// SPDX-License-Identifier: BSD-3-Clause
// Whom the scanner suspects, what it rescues and when it tries again.
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/scan_fixture.hpp"

namespace nbd_remap {
namespace {

using namespace scan_fixture;  // NOLINT: this file is about it

using ScannerRescue = ScanRig;

TEST_F(ScannerRescue, a_block_read_at_the_second_try_is_rescued) {
  volume.flaky = {1000};
  make();
  start();
  run();
  EXPECT_EQ(volume.rescued, std::vector<std::uint64_t>{1000});
  ASSERT_EQ(volume.events.size(), 1U);
  EXPECT_EQ(volume.events[0].what, MapEvent::What::suspect);
  EXPECT_EQ(state().pass.rescued, 1U);
  EXPECT_TRUE(state().watches.empty());
}

TEST_F(ScannerRescue, a_slow_block_is_rescued_after_three_slow_reads_only) {
  volume.slow = {30'000};
  make();
  start();
  run();
  EXPECT_EQ(state().pass.slow_chunks, 1U);
  ASSERT_EQ(state().watches.size(), 1U);
  EXPECT_TRUE(volume.rescued.empty()) << "slow once is no suspect";
  pass_time(6s);
  EXPECT_TRUE(volume.rescued.empty()) << "nor twice";
  pass_time(6s);
  EXPECT_EQ(volume.rescued, std::vector<std::uint64_t>{30'000});
}

TEST_F(ScannerRescue, one_that_was_slow_once_is_forgotten) {
  volume.slow = {30'000};
  make();
  start();
  run();
  volume.slow.clear();
  pass_time(60s);
  EXPECT_TRUE(state().watches.empty());
  EXPECT_TRUE(volume.rescued.empty());
}

TEST_F(ScannerRescue, what_clients_slow_down_is_not_doubted) {
  volume.slow = {20'000, 30'000, 40'000};
  make();
  volume.beside = true;
  start();
  run();
  EXPECT_EQ(state().passes, 1U);
  EXPECT_EQ(state().pass.slow_chunks, 0U);
  EXPECT_TRUE(state().watches.empty());
}

TEST_F(ScannerRescue, an_even_slow_disk_is_not_doubted) {
  for (std::uint64_t b = 0; b < 65536; b += 64) volume.slow.insert(b);
  make();
  start();
  run();
  EXPECT_EQ(state().pass.slow_chunks, 0U);
}

TEST_F(ScannerRescue, the_policy_says_what_is_rescued) {
  volume.flaky = {1000};
  volume.bad = {2000};
  for (const Rescue rescue : {Rescue::off, Rescue::pending}) {
    volume.pending.clear();
    volume.rescued.clear();
    volume.bad = {2000};
    ScanOptions options;
    options.rescue = rescue;
    make(options);
    start();
    run();
    EXPECT_TRUE(volume.rescued.empty());
    EXPECT_EQ(state().watches.size(), 1U) << "known, and left alone";
    volume.bad.clear();
    start("pending");
    run();
    EXPECT_EQ(volume.rescued.size(), rescue == Rescue::pending ? 1U : 0U);
    EXPECT_TRUE(volume.pending.empty());
    volume.remapped.clear();
  }
  // Suspect for a while, then quick again and again: forgotten.
  volume.flaky.clear();
  ScanOptions options;
  options.rescue = Rescue::off;
  make(options, state());
  pass_time(2h);
  EXPECT_TRUE(state().watches.empty());
}

TEST_F(ScannerRescue, a_dry_run_rescues_nothing) {
  volume.flaky = {1000};
  volume.pending = {9};
  make();
  start("full", true);
  run();
  EXPECT_EQ(state().passes, 1U);
  EXPECT_TRUE(volume.rescued.empty());
  EXPECT_EQ(state().watches.size(), 1U);
}

TEST_F(ScannerRescue, rescues_keep_within_the_budget_of_an_hour) {
  for (std::uint64_t b = 0; b < 100; ++b) volume.flaky.insert(b * 100);
  ScanOptions options;
  options.rescues_per_hour = 30;
  make(options);
  start();
  run();
  EXPECT_EQ(volume.rescued.size(), 30U);
  // A restart does not give a new one.
  make(options, state());
  pass_time(40min);
  EXPECT_EQ(volume.rescued.size(), 30U);
  pass_time(40min);
  EXPECT_EQ(volume.rescued.size(), 60U);
  pass_time(3h);
  EXPECT_EQ(volume.rescued.size(), 100U);
}

TEST_F(ScannerRescue, a_spare_without_room_is_asked_again_later) {
  volume.flaky = {1000};
  volume.full = true;
  make();
  start();
  run();
  EXPECT_EQ(state().passes, 1U) << "the pass goes on";
  volume.full = false;
  pass_time(20min);
  EXPECT_EQ(volume.rescued.size(), 1U);
}

TEST_F(ScannerRescue, pending_blocks_are_tried_after_ever_longer_waits) {
  volume.bad = volume.pending = {5};
  make();
  std::vector<std::uint64_t> at;
  const auto began = clock.unix_seconds();
  for (int minutes = 0; minutes < 40 * 24 * 60; ++minutes) {
    const auto before = volume.retests;
    pass_time(1min);
    if (volume.retests != before)
      at.push_back((clock.unix_seconds() - began) / 60);
  }
  // 5 minutes, then 10, 20, ... 5120 later, then a week each, and to each the
  // minute in which it is noticed.
  ASSERT_GE(at.size(), 12U);
  std::uint64_t expected = 0;
  for (std::size_t i = 0; i < at.size(); ++i) {
    expected += std::min<std::uint64_t>(5 << i, 7 * 24 * 60);
    EXPECT_GE(at[i], expected) << i;
    EXPECT_LE(at[i], expected + i + 1) << i;
  }
  volume.bad.clear();
  pass_time(8 * 24h);
  EXPECT_EQ(volume.rescued, std::vector<std::uint64_t>{5});
  EXPECT_EQ(state().next_retest(), 0U);
}

TEST_F(ScannerRescue, blocks_far_from_each_other_are_tried_at_their_own_times) {
  volume.bad = volume.pending = {5};
  make();
  pass_time(3h);
  EXPECT_EQ(volume.retested, std::vector<std::uint64_t>(5, 5))
      << "after 5, 15, 35, 75 and 155 minutes";
  // A client's read meets another one, and the next try of the first is far.
  volume.bad.insert(60'000);
  volume.pending.insert(60'000);
  volume.retested.clear();
  pass_time(8min);
  EXPECT_EQ(volume.retested, std::vector<std::uint64_t>{60'000});
  // One beside it begins anew for both.
  pass_time(1h);
  volume.bad.insert(60'001);
  start("range:" + std::to_string(60'001 * kBlock) + "+4K");
  volume.retested.clear();
  pass_time(7min);
  EXPECT_EQ(volume.retested, (std::vector<std::uint64_t>{60'000, 60'001}));
}

TEST_F(ScannerRescue, nothing_begins_after_stop_by_hand) {
  volume.bad = volume.pending = {5};
  ScanOptions options;
  options.every = 24h;
  make(options);
  ASSERT_TRUE(engine->stop());
  pass_time(30 * 24h);
  EXPECT_EQ(volume.reads + volume.retests, 0U);
  make(options);
  pass_time(30 * 24h);
  EXPECT_GE(state().passes, 29U);
}

TEST_F(ScannerRescue,
       a_disk_that_degrades_over_weeks_is_rescued_block_by_block) {
  std::mt19937_64 random(7);
  ScanOptions options;
  options.every = 24h;
  make(options);
  std::set<std::uint64_t> all;
  for (int day = 0; day < 84; ++day) {
    // What was flaky a week ago dies now.
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t b = random() % 65536;
      if (all.insert(b).second) volume.flaky.insert(b);
    }
    pass_time(24h);
    if (day % 7 == 6) {
      for (const std::uint64_t b : volume.flaky)
        if (!volume.remapped.contains(b)) volume.bad.insert(b);
    }
  }
  pass_time(48h);
  EXPECT_GE(state().passes, 84U);
  EXPECT_GT(all.size(), 480U);
  for (const std::uint64_t b : all)
    EXPECT_TRUE(volume.remapped.contains(b)) << b;
  EXPECT_TRUE(volume.pending.empty());
}

}  // namespace
}  // namespace nbd_remap
