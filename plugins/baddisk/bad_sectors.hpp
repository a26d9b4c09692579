#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// BadSectors: which sectors of a disk are bad, and what became of it. No I/O.
//
// Units       sectors of 512 bytes; offset and length of a request in bytes.
// Invariants  (1) Runs do not overlap, do not touch a neighbour in the same
//                 state, and lie within the disk.
//             (2) add() and heal() change all that they were given or nothing.
//             (3) A request that touches no bad sector is never failed; one
//                 that touches a bad one always is.
// Threads     all methods: any, at once.

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "plugins/baddisk/bad_list.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/base/result.hpp"

namespace nbd_remap {

enum class DiskOp { read, write };

class BadSectors {
 public:
  struct Run {
    std::uint64_t start = 0;
    std::uint64_t count = 0;
    BadMode mode = BadMode::none;
    // How many more accesses of each sector fail; 0: until it is healed.
    std::uint32_t transient = 0;

    friend bool operator==(const Run&, const Run&) = default;
  };
  struct Status {
    std::vector<Run> runs;  // the first `limit` of them
    std::uint64_t all_runs = 0;
    std::uint64_t bad_sectors = 0;
    std::uint64_t fired_reads = 0;   // requests failed, not sectors
    std::uint64_t fired_writes = 0;  // zeroing included
  };

  explicit BadSectors(std::uint64_t size_sectors) : size_(size_sectors) {}

  std::uint64_t size_sectors() const { return size_; }

  // Joins the mode with what the sectors are bad for already; the transient
  // count is the new one. A range that says no mode gets `mode`.
  nbd_remap::Status add(std::span<const BadRange> ranges, BadMode mode,
                        std::uint32_t transient);
  // A range that says a mode is healed for that alone.
  nbd_remap::Status heal(std::span<const BadRange> ranges);
  void heal_all();

  // Whether a request fails, counting it if so, and one access of each bad
  // sector that it touches. A write of part of a sector has to read the rest
  // of it, so it also fails where the sector is bad for reading.
  bool fails(DiskOp op, std::uint64_t offset, std::uint64_t length);
  // Whether it would, without a trace.
  bool would_fail(DiskOp op, std::uint64_t offset, std::uint64_t length) const;
  // These bytes were written: each sector they touch can be read again.
  void heal_written(std::uint64_t offset, std::uint64_t length);

  Status status(std::size_t limit) const;

 private:
  struct State {
    BadMode mode = BadMode::none;
    std::uint32_t transient = 0;

    friend bool operator==(const State&, const State&) = default;
  };
  struct Tail {
    std::uint64_t end = 0;  // exclusive
    State state;
  };
  using Map = std::map<std::uint64_t, Tail>;
  // Sectors [start, end) and what makes a request that touches them fail.
  struct Piece {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    BadMode fatal = BadMode::none;
  };

  static std::array<Piece, 3> pieces_of(DiskOp op, std::uint64_t offset,
                                        std::uint64_t length);
  bool any_bad(const Piece& piece) const REQUIRES(mu_);
  template <class Change>
  void update(std::uint64_t start, std::uint64_t end, Change change)
      REQUIRES(mu_);
  void split_at(std::uint64_t sector) REQUIRES(mu_);
  void join(std::uint64_t start, std::uint64_t end) REQUIRES(mu_);

  const std::uint64_t size_;
  mutable Mutex mu_;
  Map runs_ GUARDED_BY(mu_);
  std::uint64_t bad_sectors_ GUARDED_BY(mu_) = 0;
  std::uint64_t fired_reads_ GUARDED_BY(mu_) = 0;
  std::uint64_t fired_writes_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
