#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Healer: what happens when the straight way fails. May be slow, must be
// simple.
//
// Write   A run that MAIN refuses is halved down to blocks; blocks that still
//         fail go to slots. Order for a batch of blocks (contract C4): slot
//         data, flush, record, flush, table. Sectors of the block that the
//         request does not cover are copied if they can be read, and are
//         unreadable afterwards if not (C6).
// Read    A run that cannot be read is halved down to sectors; a sector is
//         tried retries + 1 times. If all can be read the request succeeds,
//         else it fails and those that cannot become pending (C5), after one
//         more try with writers kept out.
// MAIN    Before anything is mapped or marked the breaker is asked; if MAIN as
//         a whole does not answer, nothing is (C10).
// Doubt   A block whose new place failed on its way to the log (mapped, un-
//         mapped, sectors of it pending) may be found either way after a
//         restart: until then it is not written, so that no acknowledged write
//         is on the side that loses, or in sectors that then are unreadable.
// Map     What an owner asks for (map_action.hpp), in healer_map.cpp.
//
// Threads  any, at once.
// REQUIRES: the caller holds the regions of the range, for read at least
// shared (it may take a slow disk minutes), for the others exclusively.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/clock.hpp"
#include "plugins/base/log.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/volume/breaker.hpp"
#include "plugins/volume/disk.hpp"
#include "plugins/volume/map_action.hpp"
#include "plugins/volume/map_events.hpp"
#include "plugins/volume/request_split.hpp"
#include "plugins/volume/stats.hpp"
#include "plugins/volume/volume_options.hpp"

namespace nbd_remap {

class Healer {
 public:
  Healer(Disk& main, Disk& spare, RemapStore& store, Breaker& breaker,
         const VolumeOptions& options, const Clock& clock, Stats& stats,
         MapEvents& events, LogSink log);

  // unreadable: sectors of MAIN, ascending, for mark_pending().
  Status read(VolumeOffset offset, Bytes buffer,
              std::vector<std::uint64_t>& unreadable);
  // Those of these sectors that still are on MAIN and still cannot be read.
  Status mark_pending(const std::vector<std::uint64_t>& sectors);
  // Any alignment. With Durability::fua all of it is durable on success.
  Status write(VolumeOffset offset, ConstBytes data, Durability durability);

  // OK unless a block of the range is in doubt: a commit of it failed, and the
  // log could not be resumed since. Cheap while none is.
  Status check_doubt(VolumeOffset offset, std::uint64_t length);

  // Blocks as MAIN holds them, in one read; of the last only what is there.
  // Needs no lock: it changes nothing.
  Status probe(BlockNo first, std::uint64_t blocks);
  // The sectors of the block that MAIN can read, each tried like a client's;
  // those beyond the end count. Needs no lock.
  Result<std::uint64_t> probe_sectors(BlockNo block);
  // The same, with what they hold. REQUIRES: content has a block's size.
  Result<std::uint64_t> read_sectors(BlockNo block, Bytes content);
  // Of a block that is remapped: the sectors that hold data and can be read in
  // its slot, zeroes elsewhere. REQUIRES: content has a block's size.
  Result<std::uint64_t> read_slot(const RemapEntry& entry, Bytes content);
  static constexpr std::string_view kAsked = "an owner asked for it";
  // Each adds what it did to counts. why: for the history, a literal. readable:
  // of each block, as found without the lock; what was unreadable then is tried
  // only once more now.
  // even_empty: a block of which nothing can be read gets a slot too, in which
  // no sector holds data; so it depends on MAIN no more.
  Status remap(BlockNo first, std::uint64_t blocks, std::uint64_t readable,
               MapCounts& counts, std::string_view why = kAsked,
               bool even_empty = false);
  Status unmap(BlockNo block, MapCounts& counts);
  // clean_too: sectors of MAIN that were readable may be found not to be.
  Status retest(BlockNo block, bool clean_too, std::uint64_t readable,
                MapCounts& counts,
                std::string_view why = "it was tested again");
  // The sectors without data that lie whole in [from, to), in one block.
  Status clear(std::uint64_t from, std::uint64_t to, MapCounts& counts);

 private:
  // A block on its way to a slot; its content is whole where entry.valid says.
  struct Item {
    RemapEntry entry;                // the slot is found by place()
    std::optional<SlotNo> bad_slot;  // that the block leaves, to be retired
    AlignedBuffer content;
    std::string_view why;  // for the history, with errnum
    int errnum = 0;
  };
  class Taken;
  // What a request has to do yet, and what it did.
  struct Batch {
    std::vector<Item> items;
    std::uint64_t placed = 0;  // blocks that got a slot
    bool on_main = false;      // written there, perhaps not yet durable
    bool on_spare = false;
    bool verified = false;  // slots are read back before they are mapped
  };
  // The part of a write that falls into one block.
  struct Part {
    RemapEntry entry;  // of the block now; all valid without a slot: clean
    std::uint64_t start = 0;  // of the block, volume bytes
    std::uint64_t from = 0;   // of the part, volume bytes
    std::uint64_t to = 0;
    ConstBytes data;
    SectorMasks sectors;
    // The block as it will be. What was read before a write to MAIN failed is
    // kept: afterwards it may be unreadable there.
    AlignedBuffer content;
    std::uint64_t known = 0;                          // sectors of content
    std::string_view why = "a write to MAIN failed";  // if it goes to a slot
    int errnum = 0;
  };
  // Reads a run, halving it where it fails, and notes what cannot be read.
  struct Search {
    Healer& healer;
    std::uint64_t at;  // volume byte where the run begins
    // For a client's read: the breaker is asked, and the search ends some time
    // after the first bad sector, as the request fails anyway.
    bool for_client = false;
    std::vector<std::uint64_t> bad_sectors;  // of the volume, ascending
    std::chrono::steady_clock::time_point until{};

    Status run(Disk& disk, DeviceOffset device, Bytes into);
    bool is_bad(std::uint64_t sector) const;

   private:
    Status halve(Disk& disk, DeviceOffset device, std::uint64_t from,
                 Bytes into);
    Status one_sector(Disk& disk, DeviceOffset device, std::uint64_t from,
                      Bytes into, Status status);
  };

  // write
  Part make_part(const RemapEntry& entry, std::uint64_t from, std::uint64_t to,
                 ConstBytes data) const;
  Status write_clean(std::uint64_t from, std::uint64_t to, ConstBytes data,
                     Batch& batch);
  Status halve_write(std::uint64_t from, ConstBytes data, Batch& batch);
  Status write_block(Part part, Batch& batch);
  Status write_on_main(Part& part, bool& bad);
  Status write_in_slot(Part& part, bool& bad);
  Status to_slot(Part& part, bool slot_failed, Batch& batch);
  // The old sectors of [from, to) that the part does not cover, then the part.
  Status compose(Part& part, std::uint64_t from, std::uint64_t to);
  Status read_sectors(Part& part, std::uint64_t wanted);
  Status place(Batch& batch);
  Status fill_slots(Batch& batch, std::vector<SlotNo>& failed);
  Status fill_slot(SlotNo slot, ConstBytes content, bool verified);

  // map
  Status read_again(Part& part, std::uint64_t wanted, std::uint64_t likely);
  Status same_on(Disk& disk, DeviceOffset at, ConstBytes expected);
  // Whole sectors of the block that lie in the volume.
  std::uint64_t in_volume(BlockNo block) const;
  void tell(MapEvent::What what, const RemapEntry& entry, std::string_view why,
            int errnum);

  RemapEntry entry_of(BlockNo block) const;
  // A commit that changes where a block lives, or that it lives nowhere.
  Status commit_place(const std::vector<RemapEntry>& entries,
                      const std::vector<SlotNo>& retire);
  // OK while the breaker is closed.
  Status main_answers() const;
  // MAIN failed there. OK: it answers elsewhere, so that place is what is bad.
  Status main_failed(BlockNo block);

  Disk& main_;
  Disk& spare_;
  RemapStore& store_;
  Breaker& breaker_;
  const VolumeOptions options_;
  const Clock& clock_;
  Stats& stats_;
  MapEvents& events_;
  LogSink log_;
  const Layout layout_;
  const std::uint64_t block_bytes_;

  std::atomic<bool> doubts_{false};
  mutable Mutex doubt_mu_;
  std::set<BlockNo> doubtful_ GUARDED_BY(doubt_mu_);
  // They are in doubt while RemapStore::resumes() says this.
  std::uint64_t doubted_after_ GUARDED_BY(doubt_mu_) = 0;
};

}  // namespace nbd_remap
