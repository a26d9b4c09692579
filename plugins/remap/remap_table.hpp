#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// RemapTable: which blocks do not live whole on MAIN. The answer in memory to
// what RemapLog keeps durable.
//
// Shape       Immutable sorted leaves of up to kLeafEntries entries under one
//             sorted array of where each begins, with hints where to look in
//             it; a change replaces one leaf (copy on write). Beside it a
//             bitmap of regions that ever had an entry, so that most lookups
//             touch one word.
// Cost        24 bytes an entry and a little: at 1,000,000 scattered entries
//             at most 32 bytes each, a lookup at most 250 ns, in a region
//             without entries at most 50 ns. The memory holds for a process
//             that keeps malloc to one arena (mallopt M_ARENA_MAX 1): with
//             one for each thread that makes changes, what one has freed is
//             of no use to the next (43 bytes were seen with 4 threads).
// Invariants  (1) At most one entry per block.
//             (2) A lookup sees each entry whole: before or after a change.
//             (3) An entry whose block is clean (no slot, all valid) is not
//                 stored.
//             (4) A lookup over a range sees the table as at one moment.
// Threads     find_first and the counts: any thread, at once, without a lock;
//             a change never makes them wait. Changes, snapshot, memory_bytes:
//             any thread, serialised inside by mu_; a change waits until
//             lookups that may still see what it replaced have ended (they
//             last well under a microsecond and never span I/O).
// Errors      Changes may throw std::bad_alloc; the table is then unchanged.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

// A block that is remapped (has a slot) or pending (has none).
struct RemapEntry {
  static constexpr std::uint64_t kNoSlot = ~std::uint64_t{0};

  BlockNo block;
  std::uint64_t slot_or_none = kNoSlot;
  // Bit s: sector s of the block holds data, in the slot if there is one, on
  // MAIN if there is none. Sectors without the bit are unreadable (EIO).
  std::uint64_t valid = 0;

  bool remapped() const { return slot_or_none != kNoSlot; }
  SlotNo slot() const { return SlotNo{slot_or_none}; }
  friend bool operator==(const RemapEntry&, const RemapEntry&) = default;
};
static_assert(sizeof(RemapEntry) == 24);

class RemapTable {
 public:
  static constexpr std::size_t kLeafEntries = 128;

  // blocks: of the volume.
  explicit RemapTable(std::uint64_t blocks);
  ~RemapTable();
  RemapTable(const RemapTable&) = delete;
  RemapTable& operator=(const RemapTable&) = delete;

  // The entry with the lowest block in [first, end), if any.
  std::optional<RemapEntry> find_first(BlockNo first, BlockNo end) const;

  // Adds the entry, or replaces the one of its block.
  void put(const RemapEntry& entry);
  // No entry afterwards; it is no error if there was none.
  void erase(BlockNo block);
  // Replaces everything. REQUIRES: sorted by block, no two of one block. For
  // the start: a lookup over a range at the same time may miss both old and new
  // entries.
  void load(const std::vector<RemapEntry>& entries);
  // A consistent copy, sorted by block.
  std::vector<RemapEntry> snapshot() const;

  std::uint64_t remapped_count() const;  // entries with a slot
  std::uint64_t pending_count() const;   // entries without

  // What malloc gave for all of it. Visits every leaf.
  std::uint64_t memory_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nbd_remap
