// SPDX-License-Identifier: BSD-3-Clause
// The scanner's policy over a volume that is made up, with hands of the clock
// that are turned: what it reads, whom it suspects, what it rescues and when.
#include "plugins/scanner/scanner.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "plugins/scanner/scan_cells.hpp"

namespace nbd_remap {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kBlock = 4096;

class ManualClock final : public Clock {
 public:
  std::chrono::steady_clock::time_point now() const override {
    return std::chrono::steady_clock::time_point(1h + since_);
  }
  std::uint64_t unix_seconds() const override {
    return 1'700'000'000 +
           static_cast<std::uint64_t>(
               std::chrono::duration_cast<std::chrono::seconds>(since_)
                   .count());
  }
  void turn(std::chrono::nanoseconds by) { since_ += by; }

 private:
  std::chrono::nanoseconds since_{};
};

// Blocks are good unless they are in one of the sets; a read takes 1 ms for
// each 128 KiB.
class MadeUpVolume final : public ScanVolume {
 public:
  MadeUpVolume(ManualClock& clock, std::uint64_t size)
      : clock_(clock), size_(size), counts_(size) {}

  std::uint64_t size() const override { return size_; }
  std::uint32_t block_bytes() const override { return kBlock; }
  ClientLoad load() const override { return clients; }
  ScanStep scan_main(VolumeOffset at, Bytes buffer) override {
    ++reads;
    ScanStep step;
    step.status = trouble;
    step.next = at;
    if (!trouble) return step;
    const std::uint64_t end = std::min(size_, at.value + buffer.size());
    longest = std::max(longest, end - at.value);
    step.next = VolumeOffset{end};
    std::chrono::nanoseconds took(8 * (end - at.value));
    bool whole = true;
    const auto in = [&](const std::set<std::uint64_t>& set) {
      return set.lower_bound(at.value / kBlock) !=
             set.lower_bound((end + kBlock - 1) / kBlock);
    };
    if (in(bad) || in(flaky) || in(remapped) || in(pending)) {
      whole = false;
      for (std::uint64_t b = at.value / kBlock; b * kBlock < end; ++b) {
        if (remapped.contains(b) || pending.contains(b)) continue;
        if (bad.contains(b)) {
          pending.insert(b);
          step.pending.push_back(BlockNo{b});
          ++step.unreadable_sectors;
        } else if (flaky.contains(b)) {
          step.retried.push_back(BlockNo{b});
        }
        step.bytes += kBlock;
      }
    } else {
      step.bytes = end - at.value;
    }
    for (auto it = slow.lower_bound(at.value / kBlock);
         it != slow.end() && *it * kBlock < end; ++it)
      took += 400ms;
    clock_.turn(took);
    if (whole) step.took = took;
    if (beside) ++clients.requests;
    return step;
  }
  SlotStep scan_slot(BlockNo from) override {
    SlotStep step;
    const auto it = remapped.lower_bound(from.value);
    if (it == remapped.end()) return step;
    step.block = BlockNo{*it};
    step.bytes = kBlock;
    step.failed = bad_slots.contains(*it);
    return step;
  }
  Status rescue(BlockNo block, std::string_view why) override {
    if (full) return make_error(ErrorClass::full, EIO, "spare: full");
    if (bad.contains(block.value))
      return make_error(ErrorClass::medium, EIO, "gone");
    EXPECT_FALSE(why.empty());
    remapped.insert(block.value);
    rescued.push_back(block.value);
    return {};
  }
  Result<bool> retest(BlockNo block, std::string_view) override {
    ++retests;
    if (bad.contains(block.value)) return false;
    pending.erase(block.value);
    return true;
  }
  std::optional<BlockNo> next_pending(BlockNo from) const override {
    const auto it = pending.lower_bound(from.value);
    if (it == pending.end()) return std::nullopt;
    return BlockNo{*it};
  }
  void note(const MapEvent& event) override { events.push_back(event); }
  const RegionCounts& region_counts() const override { return counts_; }
  RegionCounts& counts() { return counts_; }

  std::set<std::uint64_t> bad, flaky, slow, remapped, pending, bad_slots;
  std::vector<std::uint64_t> rescued;
  std::vector<MapEvent> events;
  ClientLoad clients;
  bool beside = false;  // a client asks while a read is under way
  bool full = false;
  Status trouble;
  std::uint64_t reads = 0, retests = 0, longest = 0;

 private:
  ManualClock& clock_;
  const std::uint64_t size_;
  RegionCounts counts_;
};

struct ScanRig : ::testing::Test {
  explicit ScanRig(std::uint64_t size = 256 * kMiB) : volume(clock, size) {
    clock.turn(1min);
  }
  void make(const ScanOptions& options = {},
            std::optional<ScanState> before = {}) {
    engine = std::make_unique<ScanEngine>(
        volume, clock, options, [](LogLevel, std::string_view) {}, before);
  }
  // Until there is nothing to do for a while, or for so many steps.
  void run(std::uint64_t most = 1'000'000) {
    while (most-- != 0) {
      const auto wait = engine->step();
      if (wait > 500ms) return;
      clock.turn(wait);
    }
  }
  // Steps and waits for so long by the clock.
  void pass_time(std::chrono::nanoseconds time) {
    const auto until = clock.now() + time;
    while (clock.now() < until)
      clock.turn(std::max<std::chrono::nanoseconds>(engine->step(), 1us));
  }
  void start(const std::string& plan = "full", bool dry = false) {
    const auto parsed = parse_scan_plan(plan, volume.size());
    ASSERT_TRUE(parsed) << parsed.error().text();
    const Status status = engine->start(*parsed, {}, dry);
    ASSERT_TRUE(status) << status.error().text();
  }
  ScanState state() const { return engine->state(); }

  ManualClock clock;
  MadeUpVolume volume;
  std::unique_ptr<ScanEngine> engine;
};

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

TEST_F(ScannerTest, a_block_read_at_the_second_try_is_rescued) {
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

TEST_F(ScannerTest, a_slow_block_is_rescued_after_three_slow_reads_only) {
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

TEST_F(ScannerTest, one_that_was_slow_once_is_forgotten) {
  volume.slow = {30'000};
  make();
  start();
  run();
  volume.slow.clear();
  pass_time(60s);
  EXPECT_TRUE(state().watches.empty());
  EXPECT_TRUE(volume.rescued.empty());
}

TEST_F(ScannerTest, what_clients_slow_down_is_not_doubted) {
  volume.slow = {20'000, 30'000, 40'000};
  make();
  volume.beside = true;
  start();
  run();
  EXPECT_EQ(state().passes, 1U);
  EXPECT_EQ(state().pass.slow_chunks, 0U);
  EXPECT_TRUE(state().watches.empty());
}

TEST_F(ScannerTest, an_even_slow_disk_is_not_doubted) {
  for (std::uint64_t b = 0; b < 65536; b += 64) volume.slow.insert(b);
  make();
  start();
  run();
  EXPECT_EQ(state().pass.slow_chunks, 0U);
}

TEST_F(ScannerTest, the_policy_says_what_is_rescued) {
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

TEST_F(ScannerTest, a_dry_run_rescues_nothing) {
  volume.flaky = {1000};
  volume.pending = {9};
  make();
  start("full", true);
  run();
  EXPECT_EQ(state().passes, 1U);
  EXPECT_TRUE(volume.rescued.empty());
  EXPECT_EQ(state().watches.size(), 1U);
}

TEST_F(ScannerTest, rescues_keep_within_the_budget_of_an_hour) {
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

TEST_F(ScannerTest, a_spare_without_room_is_asked_again_later) {
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

TEST_F(ScannerTest, pending_blocks_are_tried_after_ever_longer_waits) {
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

TEST_F(ScannerTest, nothing_begins_after_stop_by_hand) {
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
  run(2);
  EXPECT_EQ(volume.pending.count(40'000), 1U);
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
TEST_F(ScannerTest, a_disk_that_degrades_over_weeks_is_rescued_block_by_block) {
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

TEST_F(ScannerTest, cells_show_the_worst_of_their_regions) {
  make();
  volume.bad = {10};
  volume.remapped = {20'000};
  ScanOptions options;
  options.rescue = Rescue::off;
  make(options);
  volume.flaky = {40'000};
  start("range:0+200M");
  run();
  const auto next = [&](BlockNo from) -> std::optional<RemapEntry> {
    const auto p = volume.pending.lower_bound(from.value);
    const auto r = volume.remapped.lower_bound(from.value);
    if (p != volume.pending.end() && (r == volume.remapped.end() || *p < *r))
      return RemapEntry{BlockNo{*p}, RemapEntry::kNoSlot, 0};
    if (r == volume.remapped.end()) return std::nullopt;
    return RemapEntry{BlockNo{*r}, 1, 0xff};
  };
  for (const std::size_t n : {1U, 4U, 7U, 2048U, 100'000U}) {
    const auto cells = fold_regions(state(), volume.size(), kBlock, n, next);
    ASSERT_EQ(cells.size(), std::min<std::size_t>(n, kRegions));
    std::uint64_t at = 0, pending = 0, remapped = 0, suspects = 0;
    for (const Cell& cell : cells) {
      EXPECT_EQ(cell.offset, at);
      at += cell.length;
      pending += cell.pending;
      remapped += cell.remapped;
      suspects += cell.suspects;
    }
    EXPECT_EQ(at, volume.size());
    EXPECT_EQ(pending, 1U);
    EXPECT_EQ(remapped, 1U);
    EXPECT_EQ(suspects, 1U);
    EXPECT_EQ(cells.front().state, CellState::pending);
    if (n == 4) {
      EXPECT_EQ(cells[1].state, CellState::remapped);
      EXPECT_EQ(cells[2].state, CellState::suspect);
      EXPECT_EQ(cells[3].scanned_at, 0U) << "a part was not scanned";
    }
    if (n == 2048) {
      EXPECT_EQ(cells[1].state, CellState::good);
      EXPECT_EQ(cells.back().state, CellState::unknown);
    }
  }
}

TEST(ScanPlan, words_are_read_and_said_again) {
  constexpr std::uint64_t size = std::uint64_t{8} << 30;
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
