#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// BitRot: sectors whose content comes back with some bits turned, without an
// error. No I/O.
//
// A sector's rotten bits depend on seed and sector alone: every read of it
// turns the same ones, on any machine.
//
// Units    sectors of 512 bytes.
// Errors   class caller, with nothing changed.
// Threads  all methods: any, at once.

#include <cstdint>
#include <span>
#include <vector>

#include "plugins/baddisk/bad_list.hpp"
#include "plugins/baddisk/sector_map.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/base/result.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kMaxRotBits = 64;  // of a sector's 4096

// Which bits of the sector, `bits` different ones, each below 4096.
std::vector<std::uint32_t> rotten_bits(std::uint64_t seed, std::uint64_t sector,
                                       std::uint64_t bits);

class BitRot {
 public:
  struct Run {
    std::uint64_t start = 0;
    std::uint64_t count = 0;
    std::uint64_t seed = 0;
    std::uint64_t bits = 0;

    friend bool operator==(const Run&, const Run&) = default;
  };
  struct Status {
    std::vector<Run> runs;    // the first `limit` of them
    std::uint64_t fired = 0;  // reads that had a bit turned
  };

  explicit BitRot(std::uint64_t size_sectors) : size_(size_sectors) {}

  // Replaces what was said of these sectors before; 0 bits: they read right.
  nbd_remap::Status set(std::span<const BadRange> ranges, std::uint64_t seed,
                        std::uint64_t bits);
  // Turns the bits of what was read at this byte of the disk.
  void spoil(std::uint64_t offset, Bytes data);
  Status status(std::size_t limit) const;

 private:
  struct Rot {
    std::uint64_t seed = 0;
    std::uint64_t bits = 0;
  };

  const std::uint64_t size_;
  mutable Mutex mu_;
  SectorMap<Rot> map_ GUARDED_BY(mu_);
  std::uint64_t fired_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
