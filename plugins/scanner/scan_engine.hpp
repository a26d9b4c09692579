#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ScanEngine: what to read next, what to make of it, and how long to wait: all
// of the scanner but its thread. One step() is one request to a disk.
//
// Pass      The parts of MAIN that the plan names, in chunks of 1 MiB; a full
//           one then reads the used slots of SPARE and tries pending blocks.
// Clients   A step is taken when no client asked for anything for kQuiet. While
//           they do, a small chunk is read now and then: the pause is a hundred
//           times what it took, so that not one request in a hundred meets it.
// Suspects  A block that was read, but not at the first try, is suspect at
//           once. A chunk that is slow (slow_judge.hpp), with no client beside
//           it, is read again block by block; a slow block is watched: read
//           again each `recheck`, suspect after slow_reads slow ones, forgotten
//           after fast_reads quick ones on end.
// Rescue    A suspect block goes to SPARE while it can be read, if the policy
//           says so, at most rescues_per_hour. The pending blocks of a region
//           are tried again first_retest after the first of them was met, then
//           after twice as long each time, up to longest_retest; from the
//           beginning if one comes back, or a new one is met. One that comes
//           back is rescued too.
// By itself Nothing begins after stop() until the next start().
//
// Threads   step(): one. All else: any, at once; never waits for a disk.
// Locks     mu_, not held during I/O.

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/clock.hpp"
#include "plugins/base/log.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/scanner/scan_state.hpp"
#include "plugins/scanner/scan_volume.hpp"
#include "plugins/scanner/slow_judge.hpp"

namespace nbd_remap {

enum class Rescue { off, pending, suspect };

struct ScanOptions {
  Rescue rescue = Rescue::suspect;
  std::chrono::seconds every{0};  // a full pass begins by itself; 0: never
  ScanRate rate;
  unsigned slow_reads = 3;
  unsigned fast_reads = 5;
  std::chrono::seconds recheck{5};
  std::uint64_t rescues_per_hour = 240;
  std::chrono::seconds first_retest{300};
  std::chrono::seconds longest_retest{7 * 86400};
};

class ScanEngine {
 public:
  static constexpr std::uint64_t kChunk = 1 << 20;
  static constexpr std::uint64_t kBusyChunk = 64 << 10;
  static constexpr std::chrono::milliseconds kQuiet{20};

  using Wait = std::chrono::nanoseconds;

  ScanEngine(ScanVolume& volume, const Clock& clock, const ScanOptions& options,
             LogSink log, std::optional<ScanState> before);

  // Each error is class caller: what is under way does not allow it.
  Status start(const ScanPlan& plan, const std::optional<ScanRate>& rate,
               bool dry_run);
  Status pause();
  Status resume();
  Status stop();
  // Parts to be read before all else; begins a pass if none is under way.
  Status seed(const std::vector<ScanRange>& ranges);

  // Does one thing, and says how long there is nothing more to do.
  Wait step();

  ScanState state() const;
  RunState run_state() const {
    MutexLock lock(mu_);
    return state_.run;
  }
  // Why it does not get on; empty: it does.
  std::string trouble() const;

 private:
  struct Work {
    enum class Kind { wait, chunk, block, watch, slot, pending, retest };
    Kind kind = Kind::wait;
    Wait wait{};
    std::uint64_t at = 0;     // byte
    std::uint64_t bytes = 0;  // to read
    BlockNo block;            // watch, slot; pending, retest: or after it
    std::size_t region = 0;   // retest
    std::uint64_t run = 0;    // run_ when it was chosen
    std::chrono::steady_clock::time_point began{};
    std::uint64_t requests = 0;  // of clients, by then
    bool quiet = false;
  };

  // scan_engine.cpp
  Work choose() REQUIRES(mu_);
  void begin_by_itself(std::uint64_t unix_now) REQUIRES(mu_);
  void begin(const ScanPlan& plan, std::vector<ScanRange> todo) REQUIRES(mu_);
  void finish_pass() REQUIRES(mu_);
  Wait read_chunk(const Work& work);
  Wait read_slot(const Work& work);
  void advance(std::uint64_t to) REQUIRES(mu_);
  void count_clients() const REQUIRES(mu_);
  std::size_t region_of(std::uint64_t at) const;
  void note_time(const Work& work, const ScanStep& step) REQUIRES(mu_);
  Wait after(const Work& work, std::uint64_t bytes, Status status);

  // scan_retest.cpp
  std::optional<std::size_t> due_retest(std::uint64_t unix_now) REQUIRES(mu_);
  void plan_retests(std::uint64_t unix_now) REQUIRES(mu_);
  std::uint64_t first_block_of(std::size_t region) const;
  std::uint64_t retest_wait(unsigned retests) const;
  Wait try_pending(const Work& work);
  Wait try_region(const Work& work);
  Result<bool> try_again(BlockNo block);

  // scan_rescue.cpp
  Wait read_block(const Work& work);
  Wait check_watch(const Work& work);
  void found(const ScanStep& step) REQUIRES(mu_);
  void watch_slow(BlockNo block) REQUIRES(mu_);
  void make_suspect(BlockNo block, Watch& watch, std::string_view why)
      REQUIRES(mu_);
  bool take_budget() REQUIRES(mu_);
  Status rescue(BlockNo block, std::string_view why);
  bool undisturbed(const Work& work) const;

  ScanVolume& volume_;
  const Clock& clock_;
  const ScanOptions options_;
  LogSink log_;
  const std::uint64_t region_bytes_;
  const AlignedBuffer buffer_{kChunk};  // step()'s

  mutable Mutex mu_;
  mutable ScanState state_ GUARDED_BY(mu_);
  // How much of the volume's counts is in state_.
  mutable std::vector<std::uint32_t> counted_ GUARDED_BY(mu_);
  std::string trouble_ GUARDED_BY(mu_);
  std::uint64_t run_ GUARDED_BY(mu_) = 0;  // changes with each command
  SlowJudge judge_ GUARDED_BY(mu_);
  // No watch is due before; 0: nobody knows.
  std::uint64_t watch_due_ GUARDED_BY(mu_) = 0;
  std::optional<ScanRange> inspect_ GUARDED_BY(mu_);  // slow: block by block
  std::uint64_t covered_from_ GUARDED_BY(mu_) = 0;    // read without a gap
  std::uint64_t covered_to_ GUARDED_BY(mu_) = 0;
  std::size_t timed_region_ GUARDED_BY(mu_) = kRegions;
  std::uint64_t timed_sum_us_ GUARDED_BY(mu_) = 0;
  std::uint64_t timed_count_ GUARDED_BY(mu_) = 0;
  std::uint64_t seen_requests_ GUARDED_BY(mu_) = 0;
  std::uint64_t retest_due_ GUARDED_BY(mu_) = 0;          // 0: nobody knows
  std::uint64_t retests_planned_ GUARDED_BY(mu_) = 0;     // when; 0: not yet
  std::size_t retest_region_ GUARDED_BY(mu_) = kRegions;  // under way
  std::uint64_t retest_from_ GUARDED_BY(mu_) = 0;         // block
  bool retest_back_ GUARDED_BY(mu_) = false;              // one came back
  using Time = std::chrono::steady_clock::time_point;
  Time last_client_ GUARDED_BY(mu_){};
  Time not_before_ GUARDED_BY(mu_){};       // the rate limit, or trouble
  Time busy_not_before_ GUARDED_BY(mu_){};  // while clients are busy
};

}  // namespace nbd_remap
