#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Backend: one disk, whatever it is made of: MAIN or SPARE, a file, a block
// device or a remote NBD export. Knows nothing of remapping.
//
// Units       DeviceOffset and lengths are bytes.
// Alignment   read and extent take any range. write, zero and trim REQUIRE
//             offset and length to be multiples of info().logical_block_bytes
//             (read-modify-write needs a lock, and the lock is the caller's).
// Bounds      REQUIRES offset + length <= info().size_bytes, or what grow()
//             answered last. Checked: a range beyond it is an error of class
//             bug. A length of 0 does nothing.
// Durability  A write that succeeded is visible to every later read. It is
//             durable after a later flush() that succeeded, or at once with
//             Durability::fua. After an error the range holds, sector by
//             sector, the old or the new content, or cannot be read; nothing
//             outside the range has changed.
// Partial     A request succeeds whole or fails. A failed read leaves the
//             buffer undefined.
// Errors      Class and errno as error_class.hpp says. The place names the
//             disk, the operation and the range.
// Threads     all methods: any thread, at once.
// Waits       A remote backend bounds every call by a deadline (class
//             transport, ETIMEDOUT); a local one waits as long as the kernel.
// Lifetime    Destruction closes. REQUIRES: no call is under way.

#include <cstdint>
#include <string>

#include "plugins/base/result.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

enum class Durability { cached, fua };

enum class ZeroMode {
  keep_allocated,  // write zeroes; later writes cannot fail for lack of space
  may_punch,       // a hole is as good
  fast_only,       // may_punch, but ENOTSUP at once, with nothing changed,
                   // unless that is faster than writing zeroes
};

// What a range is known to be. {false, false} is the safe answer: data.
struct Extent {
  std::uint64_t length = 0;
  bool hole = false;    // not allocated
  bool zeroes = false;  // reads as zeroes
};

struct BackendInfo {
  std::string name;              // for people: "/dev/sdb", "nbd://host/export"
  std::uint64_t size_bytes = 0;  // a multiple of logical_block_bytes
  std::uint32_t logical_block_bytes = 512;    // power of two, >= 512
  std::uint32_t physical_block_bytes = 4096;  // power of two, >= logical
  bool read_only = false;
  // An error is met by the request that causes it (contract C11). False for
  // a file or device that is used through the page cache of this machine.
  bool direct = false;
  // Behind a server, which is taken at its word: direct says nothing here.
  bool remote = false;
  bool can_flush = true;  // false: nothing is ever known to be durable
  // A flush that succeeds covers also what was written before one that failed,
  // and fails while that is not known.
  bool flush_covers_failed = false;
  bool fast_zero = false;  // ZeroMode::fast_only may succeed
  // What stays the same while it is the same disk: WWN or serial of a device,
  // file system and inode of a file, the export of a remote. Never empty.
  std::string identity;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Constant after opening.
  virtual const BackendInfo& info() const = 0;
  virtual Status read(DeviceOffset offset, Bytes buffer) = 0;
  virtual Status write(DeviceOffset offset, ConstBytes data,
                       Durability durability) = 0;
  // Afterwards the range reads as zeroes.
  virtual Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
                      Durability durability) = 0;
  // A hint: afterwards the content of the range is unspecified, also between
  // two reads, until it is written. A disk that cannot trim succeeds.
  virtual Status trim(DeviceOffset offset, std::uint64_t length) = 0;
  // What begins at offset: at least one byte and at most length bytes (none of
  // none). What follows may be of the same kind.
  virtual Result<Extent> extent(DeviceOffset offset, std::uint64_t length) = 0;
  // A hint that the range will be read soon.
  virtual Status cache(DeviceOffset offset, std::uint64_t length) = 0;
  // Every write, zero and trim that succeeded before this call is durable when
  // it succeeds. After a failure nothing is known of any of them, and a later
  // success says nothing about them either: the caller must remember.
  virtual Status flush() = 0;
  // Asks how large the disk is now, and answers with what can be used from
  // then on: never less than before. info() stays as it was at opening. A disk
  // that cannot be asked while it is open stays as large as it was.
  virtual Result<std::uint64_t> grow() { return info().size_bytes; }
};

}  // namespace nbd_remap
