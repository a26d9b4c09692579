#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// BadDisk: a Backend that misbehaves as its faults say, for any range down to
// a byte.
//
// Order    A request first waits while the device hangs, then as long as its
//          slow sectors take, then fails if the device is dead, then if it
//          touches a bad sector; then it meets the write cache, if there is
//          one, and the disk. What was read rots last.
// Faults   A request that touches a bad sector fails whole, like a drive's: it
//          returns nothing and writes nothing. TRIM is a hint: it does not
//          fail for a bad sector, and leaves the sectors as they are if one of
//          them is bad for writing.
// Errors   Those of faults that were asked for are told by is_fault().
// Threads  all methods: any, at once.
// Locks    rmw_mu_ is held during I/O: shared by writes of whole blocks, alone
//          by a write of part of a block, which reads the rest first. None is
//          held while a request waits.

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>

#include "plugins/backend/backend.hpp"
#include "plugins/baddisk/bad_sectors.hpp"
#include "plugins/baddisk/bit_rot.hpp"
#include "plugins/baddisk/device_faults.hpp"
#include "plugins/baddisk/slow_sectors.hpp"
#include "plugins/baddisk/write_cache.hpp"

namespace nbd_remap {

struct DiskCounters {
  std::atomic<std::uint64_t> reads = 0;
  std::atomic<std::uint64_t> writes = 0;
  std::atomic<std::uint64_t> zeroes = 0;
  std::atomic<std::uint64_t> trims = 0;
  std::atomic<std::uint64_t> flushes = 0;
  std::atomic<std::uint64_t> rotted_sectors = 0;  // turned in the file
};

struct BadDiskOptions {
  bool heal_on_write = false;
  int errnum = EIO;                     // of a bad sector
  std::uint64_t write_cache_bytes = 0;  // 0: none
  Sleeper sleep;                        // empty: nothing ends a wait early
};

class BadDisk {
 public:
  BadDisk(std::unique_ptr<Backend> file, const BadDiskOptions& options);

  const BackendInfo& info() const { return backend_->info(); }
  BadSectors& bad() { return bad_; }
  SlowSectors& slow() { return slow_; }
  BitRot& rot() { return rot_; }
  DeadSwitch& dead() { return dead_; }
  HangGate& hang() { return hang_; }
  WriteCache* cache() { return cache_; }  // null: none
  const DiskCounters& requests() const { return requests_; }

  Status read(std::uint64_t offset, Bytes buffer);
  Status write(std::uint64_t offset, ConstBytes data, Durability durability);
  Status zero(std::uint64_t offset, std::uint64_t length, ZeroMode mode,
              Durability durability);
  Status trim(std::uint64_t offset, std::uint64_t length);
  Status flush();

  // Turns bits of what the disk holds, in the file at once: written over, it
  // is gone. REQUIRES: the ranges lie within the disk, bits <= kMaxRotBits.
  Status rot_file(std::span<const BadRange> ranges, std::uint64_t seed,
                  std::uint64_t bits);

 private:
  Status wait(const char* op, std::chrono::milliseconds delay);
  Status admit(const char* op);
  Status admit(DiskOp op, const char* name, std::uint64_t offset,
               std::uint64_t length);
  Status write_unaligned(std::uint64_t offset, ConstBytes data,
                         Durability durability);
  bool is_aligned(std::uint64_t offset, std::uint64_t length) const;

  const BadDiskOptions options_;
  WriteCache* cache_ = nullptr;
  const std::unique_ptr<Backend> backend_;  // the cache, or the file itself
  BadSectors bad_;
  SlowSectors slow_;
  BitRot rot_;
  DeadSwitch dead_;
  HangGate hang_;
  DiskCounters requests_;
  std::shared_mutex rmw_mu_;
};

// The error is a fault that somebody asked for, not trouble with the file.
bool is_fault(const Error& error);

}  // namespace nbd_remap
