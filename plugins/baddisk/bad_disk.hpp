#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// BadDisk: a Backend that fails where BadSectors says so, for any range down
// to a byte.
//
// Faults   A request that touches a bad sector fails whole, like a drive's: it
//          returns nothing and writes nothing. TRIM is a hint: it never fails,
//          and leaves the sectors as they are if one of them is bad for
//          writing.
// Threads  all methods: any, at once.
// Locks    rmw_mu_ is held during I/O: shared by writes of whole blocks, alone
//          by a write of part of a block, which reads the rest first.

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>

#include "plugins/backend/backend.hpp"
#include "plugins/baddisk/bad_sectors.hpp"

namespace nbd_remap {

struct DiskCounters {
  std::atomic<std::uint64_t> reads = 0;
  std::atomic<std::uint64_t> writes = 0;
  std::atomic<std::uint64_t> zeroes = 0;
  std::atomic<std::uint64_t> trims = 0;
  std::atomic<std::uint64_t> flushes = 0;
};

class BadDisk {
 public:
  BadDisk(std::unique_ptr<Backend> backend, bool heal_on_write, int errnum);

  const BackendInfo& info() const { return backend_->info(); }
  BadSectors& bad() { return bad_; }
  const DiskCounters& requests() const { return requests_; }

  Status read(std::uint64_t offset, Bytes buffer);
  Status write(std::uint64_t offset, ConstBytes data, Durability durability);
  Status zero(std::uint64_t offset, std::uint64_t length, ZeroMode mode,
              Durability durability);
  Status trim(std::uint64_t offset, std::uint64_t length);
  Status flush();

 private:
  Error fault(const char* op, std::uint64_t offset, std::uint64_t length) const;
  Status write_unaligned(std::uint64_t offset, ConstBytes data,
                         Durability durability);
  bool is_aligned(std::uint64_t offset, std::uint64_t length) const;

  const std::unique_ptr<Backend> backend_;
  const bool heal_on_write_;
  const int errnum_;
  BadSectors bad_;
  DiskCounters requests_;
  std::shared_mutex rmw_mu_;
};

}  // namespace nbd_remap
