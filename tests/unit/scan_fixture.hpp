#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A ScanEngine over a volume that is made up, with a clock whose hands are
// turned.

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "plugins/scanner/scan_engine.hpp"

namespace nbd_remap::scan_fixture {

using namespace std::chrono_literals;  // NOLINT: a fixture of tests

inline constexpr std::uint64_t kMiB = 1 << 20;
inline constexpr std::uint64_t kBlock = 4096;

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
    retested.push_back(block.value);
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
  std::vector<std::uint64_t> rescued, retested;
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

}  // namespace nbd_remap::scan_fixture
