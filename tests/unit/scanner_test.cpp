// SPDX-License-Identifier: BSD-3-Clause
// What the scanner reads, when, and how fast; what it keeps over restarts.
#include <gtest/gtest.h>

#include <random>

#include "plugins/base/units.hpp"
#include "tests/unit/scan_fixture.hpp"

namespace nbd_remap {
namespace {

using namespace scan_fixture;  // NOLINT: this file is about it

using ScannerTest = ScanRig;

TEST_F(ScannerTest, a_full_pass_reads_all_of_main_the_slots_and_pending) {
  volume.bad = {0, 77, 65535};
  volume.remapped = {5, 9000};
  volume.bad_slots = {9000};
  make();
  start();
  run();
  const ScanState s = state();
  EXPECT_EQ(s.run, RunState::stopped);
  EXPECT_EQ(s.passes, 1U);
  EXPECT_EQ(s.pass.unreadable_sectors, 3U);
  EXPECT_EQ(s.pass.bad_slots, 1U);
  EXPECT_EQ(s.pass.bytes, 256 * kMiB);
  EXPECT_EQ(volume.pending, volume.bad);
  EXPECT_EQ(volume.retests, 3U);
  EXPECT_EQ(volume.longest, kMiB);
  ASSERT_EQ(volume.events.size(), 1U);
  EXPECT_EQ(volume.events[0].what, MapEvent::What::slot_unreadable);
  for (const RegionRecord& r : s.regions) EXPECT_NE(r.scanned_at, 0U);
  EXPECT_EQ(s.regions[0].errors, 1U);
  EXPECT_EQ(s.regions[2].errors, 1U);
  EXPECT_EQ(s.regions[kRegions - 1].errors, 1U);
  EXPECT_EQ(s.regions[500].mean_us, 8388U);
}

TEST_F(ScannerTest, plans_read_what_they_name) {
  make();
  start("range:64M+10M");
  run();
  EXPECT_EQ(state().pass.bytes, 10 * kMiB);
  EXPECT_EQ(state().last_full, 0U);
  pass_time(48h);
  start("older-than:1d");
  run();
  EXPECT_EQ(state().pass.bytes, 256 * kMiB);
  start("older-than:1d");
  run();
  EXPECT_EQ(state().pass.bytes, 0U) << "all was read just now";
  volume.pending = {3, 4};
  start("pending");
  run();
  EXPECT_EQ(state().pass.bytes, 0U);
  EXPECT_EQ(state().came_back, 2U);
  EXPECT_EQ(volume.rescued, (std::vector<std::uint64_t>{3, 4}));
}

TEST_F(ScannerTest, commands_are_refused_where_they_mean_nothing) {
  make();
  EXPECT_FALSE(engine->pause());
  EXPECT_FALSE(engine->resume());
  start();
  EXPECT_FALSE(engine->start({}, {}, false));
  run(5);
  const std::uint64_t reads = volume.reads;
  ASSERT_TRUE(engine->pause());
  run(50);
  EXPECT_EQ(volume.reads, reads);
  ASSERT_TRUE(engine->resume());
  run(5);
  EXPECT_GT(volume.reads, reads);
  ASSERT_TRUE(engine->stop());
  run(50);
  EXPECT_EQ(state().run, RunState::stopped);
  EXPECT_EQ(state().passes, 0U) << "it did not end";
}

TEST_F(ScannerTest, goes_on_where_the_last_server_was) {
  make();
  start();
  run(100);
  volume.counts().count(VolumeOffset{kMiB}, RegionCounts::retry);
  const ScanState before = state();
  ASSERT_EQ(before.run, RunState::running);
  ASSERT_EQ(before.regions[8].retries, 1U);
  const auto bytes = pack_scan_state(before);
  EXPECT_LE(bytes.size(), max_state_bytes(StateKind::scan));
  const auto kept = unpack_scan_state(bytes, volume.size(), kBlock);
  ASSERT_TRUE(kept);
  EXPECT_EQ(*kept, before);
  MadeUpVolume again(clock, volume.size());
  ScanEngine next(
      again, clock, {}, [](LogLevel, std::string_view) {}, *kept);
  while (next.run_state() == RunState::running) clock.turn(next.step());
  EXPECT_EQ(next.state().pass.bytes, 256 * kMiB);
  EXPECT_EQ(again.reads, 256U - 100U);
  EXPECT_EQ(next.state().regions[8].retries, 1U) << "not counted twice";
}

TEST_F(ScannerTest, a_state_that_is_damaged_is_refused_or_sane) {
  make();
  volume.flaky = {7};
  start();
  run(20);
  const auto bytes = pack_scan_state(state());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto bad = bytes;
    bad[i] = static_cast<std::byte>(0xff);
    (void)unpack_scan_state(bad, volume.size(), kBlock);
  }
  for (std::size_t n = 0; n < bytes.size(); n += 7)
    EXPECT_FALSE(
        unpack_scan_state(ConstBytes(bytes).first(n), volume.size(), kBlock));
  auto longer = bytes;
  longer.push_back({});
  EXPECT_FALSE(unpack_scan_state(longer, volume.size(), kBlock));
  EXPECT_FALSE(unpack_scan_state(bytes, volume.size() - kMiB, kBlock))
      << "a volume does not shrink";
  EXPECT_TRUE(unpack_scan_state(bytes, 2 * volume.size(), kBlock));
}

TEST_F(ScannerTest, rates_are_kept) {
  make();
  const auto rate = parse_scan_rate("16M");
  ASSERT_TRUE(rate);
  ASSERT_TRUE(engine->start({}, *rate, false));
  const auto began = clock.now();
  run();
  const auto took = std::chrono::duration<double>(clock.now() - began).count();
  EXPECT_NEAR(took, 16.0, 0.3);
  const auto share = parse_scan_rate("25%");
  ASSERT_TRUE(engine->start({}, *share, false));
  const auto again = clock.now();
  run();
  EXPECT_NEAR(std::chrono::duration<double>(clock.now() - again).count(),
              4 * 256 * 0.008388, 0.2);
}

TEST_F(ScannerTest, steps_back_while_clients_are_busy) {
  make();
  start();
  std::chrono::nanoseconds reading{};
  const auto until = clock.now() + 60s;
  volume.longest = 0;
  std::uint64_t steps = 0;
  while (clock.now() < until) {
    ++volume.clients.requests;
    const auto before = clock.now();
    const auto wait = engine->step();
    reading += clock.now() - before;
    clock.turn(std::max<std::chrono::nanoseconds>(wait, 1ms));
    ++steps;
  }
  EXPECT_GT(volume.reads, 100U) << "it gets on all the same";
  EXPECT_EQ(volume.longest, ScanEngine::kBusyChunk);
  EXPECT_LT(reading, 60'000ms / 90) << "about one part in a hundred";
  // And takes all the time there is once they have gone.
  run();
  EXPECT_EQ(volume.longest, kMiB);
}

TEST_F(ScannerTest, waits_while_main_does_not_answer) {
  make();
  start();
  run(10);
  volume.trouble = make_error(ErrorClass::transport, EIO, "gone");
  const std::uint64_t reads = volume.reads;
  pass_time(60s);
  EXPECT_LE(volume.reads, reads + 7);
  EXPECT_FALSE(engine->trouble().empty());
  volume.trouble = {};
  run();
  pass_time(30s);
  EXPECT_EQ(state().passes, 1U);
  EXPECT_TRUE(engine->trouble().empty());
}

TEST_F(ScannerTest, seeds_are_read_before_all_else) {
  volume.bad = {40'000};
  make();
  start();
  run(3);
  ASSERT_TRUE(engine->seed({{40'000 * kBlock + 512, 40'000 * kBlock + 1024}}));
  EXPECT_EQ(state().seeds_left, 1U);
  make({}, unpack_scan_state(pack_scan_state(state()), volume.size(), kBlock));
  EXPECT_EQ(state().seeds_left, 1U) << "over a restart";
  run(2);
  EXPECT_EQ(volume.pending.count(40'000), 1U);
  EXPECT_EQ(state().seeds_left, 0U);
  run();
  EXPECT_EQ(state().passes, 1U);
  EXPECT_EQ(state().pass.bytes, 256 * kMiB + kBlock - kBlock);
  ASSERT_TRUE(engine->seed({{0, 1}}));
  EXPECT_EQ(state().pass.plan.kind, ScanPlan::Kind::seeds);
  run();
  EXPECT_EQ(state().passes, 2U);
  std::vector<ScanRange> many;
  for (std::uint64_t i = 0; i < 5000; ++i)
    many.push_back({i * 8192, i * 8192 + 1});
  EXPECT_FALSE(engine->seed(many)) << "bounded";
}

// A disk that dies block by block over twelve weeks, scanned once a day: each
// block that could still be read when it was first met with trouble is on
// SPARE in the end.

struct ScannerLarge : ScanRig {
  ScannerLarge() : ScanRig(std::uint64_t{1} << 40) {}
};

TEST_F(ScannerLarge, a_tebibyte_is_scanned_in_bounded_memory) {
  for (std::uint64_t b = 0; b < 30'000; ++b) volume.flaky.insert(b * 8000);
  ScanOptions options;
  options.rescue = Rescue::off;
  make(options);
  start();
  while (engine->run_state() == RunState::running) {
    const auto wait = engine->step();
    clock.turn(wait);
  }
  const ScanState s = state();
  EXPECT_EQ(s.passes, 1U);
  EXPECT_EQ(s.pass.retried_blocks, 30'000U);
  EXPECT_EQ(s.watches.size(), ScanState::kMaxWatches);
  EXPECT_LE(pack_scan_state(s).size(), max_state_bytes(StateKind::scan));
}

TEST(ScanPlan, words_are_read_and_said_again) {
  const std::uint64_t size = std::uint64_t{8} << 30;
  for (const char* word :
       {"full", "pending", "older-than:604800s", "range:1073741824+67108864"}) {
    const auto plan = parse_scan_plan(word, size);
    ASSERT_TRUE(plan) << word;
    EXPECT_EQ(scan_plan_text(*plan), word);
  }
  EXPECT_EQ(parse_scan_plan("older-than:7d", size)->older, 168h);
  EXPECT_EQ(parse_scan_plan("range:1G+64M", size)->range.to,
            (1024 + 64) * kMiB);
  for (const char* word :
       {"", "ful", "full ", "older-than", "older-than:", "older-than:7",
        "older-than:0d", "older-than:-1d", "older-than:99999999999w",
        "range:", "range:1G", "range:8G+1", "range:0+0", "range:7G+2G",
        "range:+1", "range:18446744073709551615+2", "seeds"}) {
    const auto plan = parse_scan_plan(word, size);
    ASSERT_FALSE(plan) << word;
    EXPECT_NE(plan.error().place.find("expected"), std::string::npos);
    EXPECT_EQ(plan.error().place.find('\n'), std::string::npos);
  }
  for (const char* word : {"max", "30%", "52428800"}) {
    const auto rate = parse_scan_rate(word);
    ASSERT_TRUE(rate) << word;
    EXPECT_EQ(scan_rate_text(*rate), word);
  }
  for (const char* word : {"", "0", "0%", "101%", "-5", "5MB/s", "fast", "1"})
    EXPECT_FALSE(parse_scan_rate(word)) << word;
}

}  // namespace
}  // namespace nbd_remap
