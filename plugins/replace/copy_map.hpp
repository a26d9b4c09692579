#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// CopyMap: what of MAIN the new disk holds, as a copier and the clients'
// writes change it, and what of that may be believed after a crash.
//
// Shape       Chunks of 1 MiB, each with a state, for the copier. Up to 2,048
//             regions of whole chunks, each with one durable bit: "in sync".
// Invariants  (1) A region whose bit may be durable holds the same durable
//                 bytes on both disks: the bit is cleared, durably, before the
//                 first write to it begins on either, and set only when both
//                 disks were flushed since the last write to it ended.
//             (2) A chunk counts as copied only if no write to it overlapped
//                 the time from before it was read until nobody could write.
//             (3) A write that reached the old disk alone makes its chunks
//                 undone.
// Threads     begin, end: any. The rest: one, the copier's; and the counts:
// any. Waits       begin() as long as `save` takes, if it has to clear a bit.
// For
//             one that is under way already all wait at most `patience`, then
//             ETIMEDOUT; those who wait for the same share one.

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/base/result.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kChunkBytes = 1 << 20;
inline constexpr std::uint64_t kMaxRegions = 2048;

// In the order in which the copier goes about them.
enum class Chunk : std::uint8_t {
  todo,     // not tried
  skipped,  // behind one that could not be read
  failed,   // could not be read in one go
  holes,    // copied but for what cannot be read
  written,  // copied whole, but for blocks that live on SPARE
  checked,  // and read back since
};
inline constexpr std::size_t kChunkStates = 6;

class CopyMap {
 public:
  static constexpr std::chrono::milliseconds kPatience{60'000};
  // Makes the bits durable. clears: one that was set is not any more, so that
  // no older state may be found afterwards.
  using Save =
      std::function<Status(const std::vector<bool>& in_sync, bool clears)>;

  // in_sync: as saved last; empty: nothing is.
  CopyMap(std::uint64_t volume_bytes, const std::vector<bool>& in_sync,
          Save save, std::chrono::milliseconds patience = kPatience);

  // Around each change of MAIN. REQUIRES: end() also after begin() failed.
  Status begin(std::uint64_t offset, std::uint64_t length);
  void end(std::uint64_t offset, std::uint64_t length, bool both);

  // The copier. The next chunk of the first state that has any, checked ones
  // aside.
  std::optional<std::uint64_t> next();
  Chunk state(std::uint64_t chunk) const;
  void set_state(std::uint64_t chunk, Chunk state);
  // From here on writes to the chunk are noticed.
  void watch(std::uint64_t chunk);
  // Whether there was none. Asked while nobody writes there.
  bool untouched() const;
  // Copied whole with this content, as nobody has written since.
  void written(std::uint64_t chunk, std::uint32_t crc);
  // Of that content, if nobody has written since and it was this server that
  // copied it.
  std::optional<std::uint32_t> crc(std::uint64_t chunk) const;
  // Takes chunks of regions that are not in sync back to todo, as after a
  // crash: for a new disk of which it is unknown what it holds.
  void distrust();

  // Regions that may be called in sync after a flush of both disks that begins
  // after settle_point() and succeeds: those that saw no write since the point
  // before, so that a busy one is not cleared over and over.
  std::uint64_t settle_point();
  Status settle(std::uint64_t point);
  // Makes what else the owner of `save` has to say durable, bits as they are.
  Status save_all();

  std::uint64_t chunks() const { return chunks_; }
  std::array<std::uint64_t, kChunkStates> counts() const;
  std::uint64_t regions() const { return regions_; }
  std::uint64_t regions_in_sync() const;

 private:
  std::uint64_t region_of_chunk(std::uint64_t chunk) const {
    return chunk / region_chunks_;
  }
  static bool done(Chunk state) { return state >= Chunk::written; }
  void note(std::uint64_t first, std::uint64_t last) REQUIRES(mu_);
  void put(std::uint64_t chunk, Chunk state) REQUIRES(mu_);
  Status save(const std::vector<bool>& bits, bool clears) REQUIRES(mu_);
  Status wait_saved(std::chrono::steady_clock::time_point until) REQUIRES(mu_);

  const std::uint64_t chunks_;
  const std::uint64_t region_chunks_;
  const std::uint64_t regions_;
  const Save save_;
  const std::chrono::milliseconds patience_;

  mutable Mutex mu_;
  CondVar saved_;
  bool saving_ GUARDED_BY(mu_) = false;
  std::vector<Chunk> state_ GUARDED_BY(mu_);
  std::vector<std::uint32_t> crc_ GUARDED_BY(mu_);
  std::vector<bool> has_crc_ GUARDED_BY(mu_);
  std::array<std::uint64_t, kChunkStates> counts_ GUARDED_BY(mu_){};
  std::uint64_t cursor_ GUARDED_BY(mu_) = 0;
  struct Region {
    bool may_be_set = false;    // on SPARE
    std::uint64_t undone = 0;   // chunks that are not copied whole
    std::uint64_t writing = 0;  // changes under way
    std::uint64_t touched = 0;  // settle point of the last change
  };
  std::vector<Region> region_ GUARDED_BY(mu_);
  std::uint64_t point_ GUARDED_BY(mu_) = 1;
  std::optional<std::uint64_t> watched_ GUARDED_BY(mu_);
  bool touched_ GUARDED_BY(mu_) = false;
};

}  // namespace nbd_remap
