#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SpareReplacer: puts another disk in SPARE's place while the volume is served.
//
// Way       The new disk is opened and emptied, SPARE notes it, and from then
//           on every write to a slot goes to both (SpareMirror). The copier
//           brings over the slots of mapped blocks, each while nobody reads or
//           writes its block, read patiently; sectors that cannot be read will
//           hold no data on the new disk: reading them fails, as it did. When
//           all are there, with no request under way, both disks are flushed,
//           the whole map is written to the new one, and one superblock write
//           on the old one says that it was replaced (remap_move.hpp). Then
//           the new one is SPARE. If it is larger it grows.
// Retired   slots are slots again: the new disk has not failed there.
// Crash     Before that write the old disk is SPARE, and the next server begins
//           anew with the new one, as SPARE has noted. After it the new one
//           is, and the old one is refused by every server.
// New disk  Any error of it ends the replacement. Clients do not hear of it,
//           and wait for it at most kBound.
// Busy      While clients have requests under way the copier rests as long as
//           it worked.
//
// Threads   start, abort and status: any. step: one. Its own, after run().
// Lifetime  outlives the Volume; stop() before the volume is closed.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "plugins/base/clock.hpp"
#include "plugins/base/log.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/replace/replace_state.hpp"
#include "plugins/replace/replacer.hpp"
#include "plugins/replace/spare_mirror.hpp"
#include "plugins/volume/volume.hpp"

namespace nbd_remap {

class SpareReplacer {
 public:
  static constexpr std::chrono::milliseconds kBound{30'000};
  // For requests to end before the switch; clients wait meanwhile.
  static constexpr std::chrono::milliseconds kDrain{2'000};
  // Between two tries of what did not go.
  static constexpr std::chrono::milliseconds kPeriod{5'000};

  struct Options {
    // The present SPARE, as its owner called it.
    std::string spec;
    // Around the exchange: before it nobody else may look at SPARE any more.
    std::function<void()> before_exchange = [] {};
    std::function<void(const Superblock& now)> after_exchange =
        [](const Superblock&) {};
    std::chrono::milliseconds bound = kBound;  // of each call to the new disk
  };

  SpareReplacer(Volume& volume, ReplaceNotes notes, OpenNewDisk open,
                const Clock& clock, LogSink log, Options options);
  ~SpareReplacer();
  SpareReplacer(const SpareReplacer&) = delete;
  SpareReplacer& operator=(const SpareReplacer&) = delete;

  // Takes up what SPARE has noted. Before the first request.
  void resume();
  void run();
  // REQUIRES: no request is under way, and none will be.
  void stop();

  // What an owner asks for; each waits for the step that runs. force: what the
  // disk holds may be lost, but for a SPARE that is one. Errors: caller, one
  // line, nothing has changed.
  Status start(const std::string& spec, bool force);
  Status abort();
  // Of slots with data: bytes, copied_bytes; lost_sectors, read_errors.
  ReplaceStatus status() const;
  bool busy() const;

  // Some slots, or the switch. How long there is nothing to do afterwards;
  // zero: there is more.
  std::chrono::milliseconds step();

 private:
  using Milliseconds = std::chrono::milliseconds;
  static constexpr Milliseconds kIdle{3'600'000};

  // spare_replacer_start.cpp
  Status may_start(const std::string& spec) const REQUIRES(work_mu_);
  Status check_disk(const Backend& disk) const;
  static Status check_empty(Backend& disk, bool force);
  Status begin(NewDisk opened, const ReplaceState& state, bool checked,
               bool force) REQUIRES(work_mu_);
  Status note(const ReplaceState& state);
  // spare_replacer.cpp
  Milliseconds copy_step() REQUIRES(work_mu_);
  Status copy_slot(const Volume::SlotContent& slot) REQUIRES(work_mu_);
  Milliseconds switch_step() REQUIRES(work_mu_);
  Milliseconds undecided_step() REQUIRES(work_mu_);
  Milliseconds switched() REQUIRES(work_mu_);
  Status end(ReplacePhase phase, const std::string& reason) REQUIRES(work_mu_);
  bool detach() REQUIRES(work_mu_);
  void drop_next() REQUIRES(work_mu_);

  Milliseconds wait_for(const std::string& what, Milliseconds time);
  void tell(LogLevel level, const std::string& text);
  ReplaceState state() const;
  ReplaceState ended(ReplacePhase phase, const std::string& reason) const;
  void set_state(ReplaceState state);
  void wake();
  void work();

  Volume& volume_;
  const ReplaceNotes notes_;
  const OpenNewDisk open_;
  const Clock& clock_;
  const LogSink log_;
  const Options options_;

  Mutex work_mu_;                          // held for a step or an owner's wish
  std::string spec_ GUARDED_BY(work_mu_);  // of the present SPARE
  std::shared_ptr<BoundedBackend> next_ GUARDED_BY(work_mu_);
  std::shared_ptr<const RemoteCounters> counters_ GUARDED_BY(work_mu_);
  std::function<void()> adopted_ GUARDED_BY(work_mu_);
  SpareMirror* mirror_ GUARDED_BY(work_mu_) = nullptr;  // SPARE's Disk has it
  bool undecided_ GUARDED_BY(work_mu_) = false;
  BlockNo cursor_ GUARDED_BY(work_mu_);
  Layout layout_ GUARDED_BY(work_mu_);  // while it copies
  // Disks that hang: kept until they may be waited for.
  std::vector<std::shared_ptr<BoundedBackend>> hanging_ GUARDED_BY(work_mu_);

  mutable Mutex mu_;  // after work_mu_
  CondVar changed_;
  ReplaceState state_ GUARDED_BY(mu_);
  std::string waits_for_ GUARDED_BY(mu_);
  std::uint64_t copied_bytes_ GUARDED_BY(mu_) = 0;
  std::uint64_t lost_sectors_ GUARDED_BY(mu_) = 0;
  std::uint64_t read_errors_ GUARDED_BY(mu_) = 0;
  std::chrono::steady_clock::time_point began_ GUARDED_BY(mu_);
  std::deque<ReplaceEvent> events_ GUARDED_BY(mu_);
  bool woken_ GUARDED_BY(mu_) = false;
  bool ending_ GUARDED_BY(mu_) = false;
  std::atomic<int> wishes_{0};  // of owners who wait for work_mu_
  std::thread thread_;
};

}  // namespace nbd_remap
