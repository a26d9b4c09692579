#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Volume: one virtual disk. Serves each sector from MAIN, or from its slot on
// SPARE once its block is remapped. The promises are numbered C1 to C14 in the
// tests and mean, in short:
//
//   read    the newest acknowledged content of every sector, or an error
//   write   done means: on MAIN, or in a slot with a durable mapping
//   flush   done means: everything acknowledged before is durable
//
// Units       VolumeOffset and lengths in bytes, any alignment.
// Invariants  (1) size() changes by grow_main() alone, and only upward.
//             (2) A block is served from SPARE only once its log record is
//                 durable (RemapStore sees to it), and then never from MAIN.
//             (3) The map of a block changes only under its region's exclusive
//                 lock; read, write, zero and trim hold their regions at
//                 least shared. extent and cache only look: what a write that
//                 runs beside them does may or may not be in their answer.
// Threads     requests and status(): any thread, at once. close(): one thread,
//             after drain().
// Lock order  Gate, RegionLocks, RemapStore, RemapTable and SlotPool. No mutex
//             is held across I/O; region locks are (see region_locks.hpp).
// Errors      Medium errors on MAIN are healed here; what comes out is for the
//             client, by nbd_errno(). Bad ranges are class caller.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/clock.hpp"
#include "plugins/base/gate.hpp"
#include "plugins/base/log.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/volume/breaker.hpp"
#include "plugins/volume/disk.hpp"
#include "plugins/volume/map_action.hpp"
#include "plugins/volume/map_events.hpp"
#include "plugins/volume/region_counts.hpp"
#include "plugins/volume/region_locks.hpp"
#include "plugins/volume/scan_step.hpp"
#include "plugins/volume/stats.hpp"
#include "plugins/volume/volume_options.hpp"

namespace nbd_remap {

// Of a remote: see RemoteCounters.
struct LinkStatus {
  bool connected = true;
  std::uint64_t reconnects = 0;
  std::uint64_t replayed_bytes = 0;
};

struct DiskStatus {
  BackendInfo info;
  std::optional<LinkStatus> link;
  std::array<std::uint64_t, kErrorClassCount> errors{};
  bool in_doubt = false;
};

struct VolumeStatus {
  std::uint64_t size = 0;
  bool read_only = false;
  bool stopping = false;
  bool quiesced = false;
  bool breaker_open = false;
  std::string missing_spare;  // why there is no map; empty: there is one
  DiskStatus main;
  DiskStatus spare;
  StoreStatus store;
  std::uint64_t in_flight = 0;
  // What is being done to its disks, in words, as whoever does it fills in;
  // empty: nothing.
  std::string activity;
};

class Healer;

class Volume {
 public:
  // store refers to *spare. spare and store are null together: then nothing
  // is known of any block, the volume is read-only and every read fails;
  // missing_spare says why.
  Volume(std::unique_ptr<Disk> main, std::unique_ptr<Disk> spare,
         std::unique_ptr<RemapStore> store, bool read_only,
         std::string missing_spare, const VolumeOptions& options,
         const Clock& clock, LogSink log);
  ~Volume();

  std::uint64_t size() const { return size_; }
  std::uint32_t block_bytes() const;
  bool read_only() const { return read_only_; }
  bool can_fast_zero() const { return main_->info().fast_zero; }

  Status read(VolumeOffset offset, Bytes buffer);
  Status write(VolumeOffset offset, ConstBytes data, Durability durability);
  Status zero(VolumeOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability);
  Status trim(VolumeOffset offset, std::uint64_t length, Durability durability);
  // What begins at offset, not beyond offset + length.
  Result<Extent> extent(VolumeOffset offset, std::uint64_t length);
  Status cache(VolumeOffset offset, std::uint64_t length);
  Status flush();

  // After the disk was enlarged: answers with its size, which is durable before
  // anything of it is used. Clients that are connected keep the size that they
  // were told. Errors: caller (not larger, too little; nothing has changed), or
  // the disk's.
  Result<std::uint64_t> grow_main();
  Result<std::uint64_t> grow_spare();

  // Lets the requests under way end, keeps new ones waiting, and makes all that
  // was acked durable: what is on the disks then is whole, for a snapshot. Ends
  // by resume(), or by itself after `longest`, so that a forgotten one does not
  // hang clients. drain: how long requests may take to end.
  Status quiesce(std::chrono::milliseconds drain,
                 std::chrono::milliseconds longest);
  void resume() { gate_.resume(); }

  // The rest, to status(), is for another disk that is to take MAIN's place
  // (plugins/replace), which alone calls them, one at a time.
  //
  // Of whole blocks what MAIN itself holds; zeroes where a block lives on SPARE
  // or sectors are known to be unreadable (then holes). patient: what cannot
  // be read in one go is halved and tried again, and what then is unreadable
  // is listed, for mark_unreadable(); else a medium error ends it. Takes no
  // regions: a write that runs beside it may be in the answer in part.
  struct MainContent {
    bool holes = false;
    // Blocks that SPARE held when it was looked; MAIN may get them back while
    // it is read, see on_spare().
    std::vector<BlockNo> on_spare;
    std::vector<std::uint64_t> unreadable;  // sectors of the volume, ascending
  };
  Status read_main(VolumeOffset offset, Bytes buffer, bool patient,
                   MainContent& found);
  // All of them are on SPARE.
  bool on_spare(const std::vector<BlockNo>& blocks) const;
  // Pending are those that cannot be read now either, writers kept out.
  Status mark_unreadable(const std::vector<std::uint64_t>& sectors);
  // Gives a pending block a slot, with what MAIN can still read of it: so it
  // depends on MAIN no more. A block that is not pending stays as it is.
  Status detach_pending(BlockNo block);
  Status flush_main() { return main_->flush(); }
  // While nobody reads or writes there.
  Status alone_in(VolumeOffset offset, std::uint64_t length,
                  const std::function<Status()>& body);
  // While no request at all is under way; new ones wait. ETIMEDOUT: those that
  // were have not ended in time, and nothing was done.
  Status alone(std::chrono::milliseconds drain,
               const std::function<Status(Disk& main)>& change);
  // Inside alone(), before MAIN's backend is exchanged: as
  // RemapStore::set_main.
  Status set_main(const std::string& identity, std::uint64_t disk_bytes);

  // For one that is to take SPARE's place (volume_spare.cpp), as above.
  //
  // The next block from this one on whose slot is wanted, while nobody reads or
  // writes there: body gets its entry, what its slot holds, and the sectors
  // that could be read. Answers where to go on; empty: there is none.
  struct SlotContent {
    RemapEntry entry;
    ConstBytes bytes;
    std::uint64_t known = 0;
  };
  using WantedSlot = std::function<bool(SlotNo)>;
  Result<std::optional<BlockNo>> with_slot(
      BlockNo from, const WantedSlot& wanted,
      const std::function<Status(const SlotContent&)>& body);
  // As alone(); nobody reads or writes notes on SPARE either.
  Status alone_with_spare(
      std::chrono::milliseconds drain,
      const std::function<Status(Disk& spare, RemapStore& store)>& change);
  VolumeStatus status() const;
  const Stats& stats() const { return stats_; }
  // Entries from this block on, in order, at most limit.
  std::vector<RemapEntry> entries(BlockNo from, std::size_t limit) const;
  MapEvents::History history(BlockNo block) const { return events_.of(block); }

  // Some of an action over the range, in order: at least a few blocks, then as
  // many as the slice allows. A range holds whole blocks, for clear whole
  // sectors; unmap, retest and clear skip what the map does not know.
  // Excludes clients block by block, at most 16 at a time, for as long as the
  // disks take; waits like a request, and ends early when the gate is closed.
  MapStep map_step(MapAction action, VolumeOffset offset, std::uint64_t length,
                   std::chrono::milliseconds slice, std::string_view why = {});

  // Of looking for what is bad in a chunk that failed, in one step.
  static constexpr std::chrono::milliseconds kScanSlice{200};
  // For the scanner (plugins/scanner): volume_scan.cpp.
  //
  // Reads clean blocks of MAIN into the buffer, from at on, in one request; no
  // lock is held meanwhile, and clients never wait for it. Where that fails it
  // is halved down to blocks for a little while; a block that MAIN cannot read
  // becomes pending as it does by a client's read.
  // REQUIRES: at is where a block begins, the buffer holds whole blocks.
  ScanStep scan_main(VolumeOffset at, Bytes buffer,
                     std::chrono::milliseconds slice = kScanSlice);
  // Reads the slot of the next remapped block from this one on.
  SlotStep scan_slot(BlockNo from);
  // A block that the scanner doubts goes to SPARE, while MAIN can be read.
  MapStep rescue(BlockNo block, std::string_view why);
  MapStep retest(BlockNo block, std::string_view why);
  std::optional<BlockNo> next_pending(BlockNo from) const;
  void note(const MapEvent& event) { events_.record(event); }
  std::uint64_t in_flight() const { return gate_.inside(); }
  // Where clients met errors.
  const RegionCounts& region_counts() const { return region_counts_; }
  StateArea* state_area() { return store_ ? store_->state_area() : nullptr; }

  // The ordered stop: no new requests, wait for those in flight, and then,
  // if all have ended, checkpoint and mark clean.
  void close_gate() { gate_.close(); }
  bool drain(std::chrono::milliseconds bound) { return gate_.drain(bound); }
  Status close();

 private:
  using Mode = RegionLocks::Mode;
  // Gate, range check, region lock; counts the request and its error.
  template <class Body>
  Status request(Op op, VolumeOffset offset, std::uint64_t length, bool writes,
                 Body&& body);
  template <class Body>
  Status locked(Mode mode, VolumeOffset offset, std::uint64_t length,
                Body&& body);
  Status check_range(VolumeOffset offset, std::uint64_t length) const;
  bool aligned(VolumeOffset offset, std::uint64_t length) const;
  bool all_clean(VolumeOffset offset, std::uint64_t length) const;
  Status main_answers() const;
  Status fast_read(VolumeOffset offset, Bytes buffer, bool& heal);
  Status fast_write(VolumeOffset offset, ConstBytes data, Durability durability,
                    std::optional<std::uint64_t>& heal_from);
  Status heal_write(VolumeOffset offset, ConstBytes data,
                    Durability durability);
  Status zero_chunk(VolumeOffset offset, std::uint64_t length, ZeroMode mode,
                    Durability durability);
  Status flush_disks();
  Status may_grow() const;
  Status hold_gate(std::chrono::milliseconds drain);
  Status map_group(MapAction action, std::uint64_t end, std::uint64_t& group,
                   MapStep& step, std::string_view why);
  Status map_block(MapAction action, BlockNo block, std::uint64_t from,
                   std::uint64_t to, MapCounts& counts, std::string_view why);
  Status scan_halves(std::uint64_t from, Bytes buffer, ScanStep& step,
                     std::chrono::steady_clock::time_point until);
  Status scan_bad_block(BlockNo block, ScanStep& step);

  const std::unique_ptr<Disk> main_;
  const std::unique_ptr<Disk> spare_;
  const std::unique_ptr<RemapStore> store_;
  std::atomic<std::uint64_t> size_;
  const bool read_only_;
  const std::string missing_spare_;
  const VolumeOptions options_;
  LogSink log_;
  Stats stats_;
  MapEvents events_;
  RegionCounts region_counts_;
  Gate gate_;
  RegionLocks regions_;
  Breaker breaker_;
  std::unique_ptr<Healer> healer_;
};

}  // namespace nbd_remap
