#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Replacer: puts another disk in MAIN's place while the volume is served.
//
// Way       The new disk is opened, noted on SPARE, and gets every write from
//           then on (MirrorBackend). The copier brings over what MAIN holds,
//           readable places first: in chunks of 1 MiB, skipping ahead after one
//           that fails; then the skipped ones; then those that failed, block by
//           block, sector by sector, tried as a client's read is; what cannot
//           be read becomes pending. Blocks that live on SPARE stay there. When
//           all is copied the new disk is read once, whole, and compared with
//           what was written. Then, with no request under way, both disks are
//           flushed and one superblock write binds SPARE to the new disk: from
//           there on it is MAIN. Last, blocks on SPARE are copied back to it.
// Unread    A block with sectors that were never copied gets a slot before the
//           switch, in which they have no data: the new disk could read
//           something there, and testing it again would take that for data.
//           One that became unreadable after it was copied is whole on the new
//           disk, and readable again after the switch.
// Crash     See CopyMap: regions that are not known to be the same on both
//           disks are copied again. The switch is one sector: the next server
//           finds the old MAIN or the new one, and either is whole.
// New disk  A medium error on it ends the replacement; any other pauses it
//           (start() with the same disk goes on). Clients do not hear of it,
//           and wait for it at most kBound.
// SPARE     must take a note before the first write to a region that is in
//           sync; if it cannot, that write fails, as any that needs SPARE.
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

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/clock.hpp"
#include "plugins/base/log.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/replace/copy_map.hpp"
#include "plugins/replace/mirror_backend.hpp"
#include "plugins/replace/replace_state.hpp"
#include "plugins/volume/volume.hpp"

namespace nbd_remap {

// Where the state is kept. Both null: SPARE has no room for it.
struct ReplaceNotes {
  std::function<Result<std::vector<std::byte>>()> read;
  std::function<Status(ConstBytes)> write;
  // What write() would put there, for a copy of SPARE.
  std::function<std::vector<std::byte>(ConstBytes)> packed;
};

struct NewDisk {
  std::unique_ptr<Backend> disk;
  std::shared_ptr<const RemoteCounters> counters;  // of a remote
  // Called once it is in its place, if there is one.
  std::function<void()> adopted = nullptr;
};
using OpenNewDisk = std::function<Result<NewDisk>(const std::string& spec)>;

struct ReplaceEvent {
  std::uint64_t unix_seconds = 0;
  std::string text;
};

struct ReplaceStatus {
  ReplacePhase phase = ReplacePhase::none;
  std::string next;
  std::string next_identity;
  std::string old;
  std::string old_identity;
  std::uint64_t started = 0;
  std::uint64_t changed = 0;
  std::string waits_for;  // why it does not get on; empty: it does
  std::string reason;     // why it failed
  std::uint64_t bytes = 0;
  std::uint64_t copied_bytes = 0;
  std::uint64_t checked_bytes = 0;
  std::uint64_t unread_bytes = 0;  // of chunks that wait for patience
  std::uint64_t read_errors = 0;   // of MAIN, met by the copier
  std::uint64_t lost_sectors = 0;  // found to be unreadable by it
  double bytes_per_second = 0;     // lately
  std::uint64_t regions = 0;
  std::uint64_t regions_in_sync = 0;
  std::vector<ReplaceEvent> events;  // the last ones
};

class Replacer {
 public:
  static constexpr std::chrono::milliseconds kBound{30'000};
  // For requests to end before the switch; clients wait meanwhile.
  static constexpr std::chrono::milliseconds kDrain{2'000};
  // Between two notes of what is in sync, and two tries of what did not go.
  static constexpr std::chrono::milliseconds kPeriod{5'000};

  // bound: of each call to the new disk.
  Replacer(Volume& volume, ReplaceNotes notes, OpenNewDisk open,
           const Clock& clock, LogSink log,
           std::chrono::milliseconds bound = kBound);
  ~Replacer();
  Replacer(const Replacer&) = delete;
  Replacer& operator=(const Replacer&) = delete;

  // Takes up what SPARE has noted. Before the first request.
  void resume();
  void run();
  // REQUIRES: no request is under way, and none will be.
  void stop();

  // What an owner asks for; each waits for the step that runs. start() with
  // the disk that a paused replacement waits for goes on with it. force: what
  // the disk holds may be lost. Errors: caller, one line, nothing has changed.
  Status start(const std::string& spec, bool force);
  Status abort();
  ReplaceStatus status() const;

  // One thing: a chunk, or a note, or the switch. How long there is nothing to
  // do afterwards; zero: there is more.
  std::chrono::milliseconds step();

 private:
  using Milliseconds = std::chrono::milliseconds;
  static constexpr Milliseconds kIdle{3'600'000};

  // replacer_start.cpp
  Status may_start(const std::string& spec) const REQUIRES(work_mu_);
  Status check_disk(const Backend& disk) const;
  Status attach(NewDisk opened, std::shared_ptr<CopyMap> map)
      REQUIRES(work_mu_);
  Status go_on(const std::string& spec) REQUIRES(work_mu_);
  Status save(const std::vector<bool>& bits, bool clears);
  std::shared_ptr<CopyMap> new_map(const std::vector<bool>& bits);
  // replacer_copy.cpp
  Milliseconds copy_step() REQUIRES(work_mu_);
  Milliseconds copy_chunk(std::uint64_t chunk, Chunk state) REQUIRES(work_mu_);
  Milliseconds check_chunk(std::uint64_t chunk) REQUIRES(work_mu_);
  Milliseconds could_not_read(std::uint64_t chunk, Chunk state)
      REQUIRES(work_mu_);
  Status detach_pending(std::uint64_t chunk) REQUIRES(work_mu_);
  bool all_pending(const std::vector<std::uint64_t>& sectors) const;
  void note_in_sync() REQUIRES(work_mu_);
  // replacer_switch.cpp
  Milliseconds switch_step() REQUIRES(work_mu_);
  Milliseconds fold_step() REQUIRES(work_mu_);
  Milliseconds lost_step() REQUIRES(work_mu_);
  Status end_copying(ReplacePhase phase, const std::string& reason)
      REQUIRES(work_mu_);
  bool detach() REQUIRES(work_mu_);
  void drop_next() REQUIRES(work_mu_);

  Milliseconds wait_for(const std::string& what, Milliseconds time);
  void gets_on();
  void tell(LogLevel level, const std::string& text);
  void set_phase(ReplacePhase phase, const std::string& reason);
  ReplacePhase phase() const;
  ReplaceState state_words() const;
  std::shared_ptr<CopyMap> map() const;
  VolumeOffset offset_of(std::uint64_t chunk) const {
    return VolumeOffset{chunk * kChunkBytes};
  }
  std::uint64_t length_of(std::uint64_t chunk) const;
  void measure(std::uint64_t bytes);
  void wake();
  void work();

  // An owner waits for work_mu_: the thread lets it go first.
  class Wish {
   public:
    explicit Wish(Replacer& replacer) : replacer_(replacer) {
      ++replacer_.wishes_;
    }
    ~Wish() {
      --replacer_.wishes_;
      replacer_.wake();
    }
    Wish(const Wish&) = delete;
    Wish& operator=(const Wish&) = delete;

   private:
    Replacer& replacer_;
  };

  Volume& volume_;
  const ReplaceNotes notes_;
  const OpenNewDisk open_;
  const Clock& clock_;
  const LogSink log_;
  const Milliseconds bound_;
  const std::uint64_t owner_epoch_;

  // Held for a step or an owner's wish.
  Mutex work_mu_;
  std::shared_ptr<BoundedBackend> next_ GUARDED_BY(work_mu_);
  std::shared_ptr<const RemoteCounters> next_counters_ GUARDED_BY(work_mu_);
  std::uint64_t next_bytes_ GUARDED_BY(work_mu_) = 0;
  MirrorBackend* mirror_ GUARDED_BY(work_mu_) = nullptr;  // MAIN's Disk has it
  bool paused_ GUARDED_BY(work_mu_) = false;
  bool undecided_ GUARDED_BY(work_mu_) = false;
  unsigned skip_ GUARDED_BY(work_mu_) = 1;   // chunks, after one that fails
  unsigned tries_ GUARDED_BY(work_mu_) = 0;  // of a chunk that is being written
  std::uint64_t fold_at_ GUARDED_BY(work_mu_) = 0;
  bool fold_tested_ GUARDED_BY(work_mu_) = false;
  std::chrono::steady_clock::time_point next_note_ GUARDED_BY(work_mu_);
  // Disks that hang: kept until they may be waited for.
  std::vector<std::shared_ptr<BoundedBackend>> hanging_ GUARDED_BY(work_mu_);

  mutable Mutex mu_;  // after work_mu_
  CondVar changed_;
  ReplaceState state_ GUARDED_BY(mu_);
  std::shared_ptr<CopyMap> map_ GUARDED_BY(mu_);
  std::string waits_for_ GUARDED_BY(mu_);
  std::uint64_t read_errors_ GUARDED_BY(mu_) = 0;
  std::uint64_t lost_sectors_ GUARDED_BY(mu_) = 0;
  std::deque<ReplaceEvent> events_ GUARDED_BY(mu_);
  struct Sample {
    std::chrono::steady_clock::time_point at;
    std::uint64_t bytes = 0;
  };
  std::deque<Sample> samples_ GUARDED_BY(mu_);
  bool woken_ GUARDED_BY(mu_) = false;
  bool ending_ GUARDED_BY(mu_) = false;
  std::atomic<int> wishes_{0};  // of owners who wait for work_mu_
  std::thread thread_;
};

}  // namespace nbd_remap
