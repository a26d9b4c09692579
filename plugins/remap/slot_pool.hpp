#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SlotPool: which slots of SPARE are free.
//
// Invariants  (1) A slot is free, taken, or retired; take() gives only free
//                 ones, so no two blocks ever share a slot.
//             (2) free + taken + retired = slots.
//             (3) A retired slot stays retired, until revive().
// A slot is taken from the moment take() gives it until free() is called, which
// is only after the removal of its mapping is durable (contract C3).
//
// Threads  any, at once.

#include <cstdint>
#include <optional>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/base/units.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

class SlotPool {
 public:
  explicit SlotPool(const Layout& layout);
  // REQUIRES: what grow_layout() made of the layout before.
  void grow(const Layout& layout);

  bool has(SlotNo slot) const;

  // The next free slot after the last one taken: neighbours in time become
  // neighbours on SPARE. Empty when SPARE is full.
  std::optional<SlotNo> take();
  // REQUIRES: taken.
  void free(SlotNo slot);
  // REQUIRES: taken.
  void retire(SlotNo slot);
  // Those that were retired are free: they are on another disk now.
  void revive();
  // For loading. False if the slot is not free or does not exist.
  bool mark_taken(SlotNo slot);

  struct Counts {
    std::uint64_t slots = 0;
    std::uint64_t used = 0;  // taken
    std::uint64_t retired = 0;
  };
  Counts counts() const;
  std::vector<SlotNo> retired() const;  // sorted

 private:
  mutable Mutex mu_;
  Layout layout_ GUARDED_BY(mu_);
  // By number: taken, retired, or no slot.
  std::vector<bool> busy_ GUARDED_BY(mu_);
  std::vector<SlotNo> retired_ GUARDED_BY(mu_);
  std::uint64_t used_ GUARDED_BY(mu_) = 0;
  std::uint64_t next_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
