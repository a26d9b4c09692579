#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// MapEvents: what happened to which block since the start of the server, for
// people who ask about one. The last kKept events; older ones are counted.
//
// Threads  any, at once.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {

struct MapEvent {
  enum class What {
    remapped,         // to slot
    pending,          // sectors of it cannot be read
    readable,         // all of it can be read again, on MAIN
    unmapped,         // copied back to MAIN from slot
    slot_retired,     // slot failed while it was the block's
    suspect,          // MAIN reads it with trouble, but reads it
    slot_unreadable,  // what SPARE holds of it cannot be read there
    cleared,          // its unreadable sectors were given up for zeroes
  };
  What what = What::remapped;
  BlockNo block;
  std::uint64_t slot_or_none = RemapEntry::kNoSlot;
  std::uint64_t unix_seconds = 0;
  int errnum = 0;        // that led to it; 0: no error did
  std::string_view why;  // a literal
};

inline std::string_view map_event_name(MapEvent::What what) {
  switch (what) {
    case MapEvent::What::remapped:
      return "remapped";
    case MapEvent::What::pending:
      return "pending";
    case MapEvent::What::readable:
      return "readable";
    case MapEvent::What::unmapped:
      return "unmapped";
    case MapEvent::What::slot_retired:
      return "slot-retired";
    case MapEvent::What::suspect:
      return "suspect";
    case MapEvent::What::slot_unreadable:
      return "slot-unreadable";
    case MapEvent::What::cleared:
      return "cleared";
  }
  return "unknown";
}

class MapEvents {
 public:
  static constexpr std::size_t kKept = 4096;

  void record(const MapEvent& event) {
    MutexLock lock(mu_);
    if (ring_.empty()) ring_.resize(kKept);
    ring_[recorded_++ % kKept] = event;
  }

  struct History {
    std::vector<MapEvent> events;   // of the block, oldest first
    std::uint64_t forgotten = 0;    // events of any block, before the oldest
    std::uint64_t complete_at = 0;  // unix seconds of the oldest kept; 0: all
  };
  History of(BlockNo block) const {
    MutexLock lock(mu_);
    History out;
    std::uint64_t i = recorded_ > kKept ? recorded_ - kKept : 0;
    out.forgotten = i;
    if (i != 0) out.complete_at = ring_[i % kKept].unix_seconds;
    for (; i < recorded_; ++i)
      if (ring_[i % kKept].block == block)
        out.events.push_back(ring_[i % kKept]);
    return out;
  }

 private:
  mutable Mutex mu_;
  std::vector<MapEvent> ring_ GUARDED_BY(mu_);
  std::uint64_t recorded_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
