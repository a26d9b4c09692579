#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SimPlan: all that will be done to one volume, made from a seed before the
// first step, so that a run can be told as a list and parts of it left out.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plugins/volume/volume_options.hpp"

namespace nbd_remap {

// 64 blocks of a larger volume, told as if they were all: at its begin, over
// two borders of lock regions, and at its end, which is no whole block.
inline constexpr std::uint64_t kSimBlocks = 64;
inline constexpr std::uint64_t kSimBlockBytes = 4096;
inline constexpr std::uint64_t kSimBytes = kSimBlocks * kSimBlockBytes - 1024;
inline constexpr std::uint64_t kSimWindow = 16 * kSimBlockBytes;
// Bytes of a window lie side by side, windows do not.
constexpr std::uint64_t sim_place(std::uint64_t offset) {
  constexpr std::array<std::uint64_t, 4> kFirstBlocks{0, 248, 504, 752};
  return kFirstBlocks[offset / kSimWindow] * kSimBlockBytes +
         offset % kSimWindow;
}
inline constexpr std::uint64_t kSimMainBytes = sim_place(kSimBytes - 1) + 1;

struct SimOp {
  enum class Kind {
    // requests
    read,
    write,
    zero,
    trim,
    flush,
    extents,
    cache,
    // what an owner asks of the map
    remap,
    unmap,
    retest,
    check,
    clear,
    // what runs beside them, some steps of it
    scan,     // begins one if none is under way; flag: of the whole volume
    replace,  // of MAIN by the other disk; begins or goes on. flag: a fresh one
    abort_replace,
    grow_spare,
    // the medium changes, at once
    bad_read,        // until it is written
    bad_read_later,  // also after it was written
    bad_write,
    mend,
    bad_other,  // the disk that is not MAIN refuses to be written there
    // as above, but nothing else runs meanwhile
    trouble,         // the next two reads of a sector fail; flag: so many
    bad_slot_write,  // offset: the slot; length: its sector
    bad_slot_read,
    bad_copy,  // of the metadata: offset, length: from its start
    fail_flush,
    look,  // every sector is compared
  };
  Kind kind = Kind::read;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool flag = false;  // FUA; of SPARE; or as said above

  bool alone() const { return kind >= Kind::trouble; }
  bool request() const { return kind <= Kind::grow_spare; }
};

// What is asked at once, then an end, then a start.
struct SimRound {
  std::vector<SimOp> ops;
  // Calls of the disks until the end; it comes at the latest after the ops.
  std::uint64_t cut_at = 0;
  bool cut_in_spare = false;  // of the calls that change SPARE
  bool ordered_stop = false;  // before it, if all the ops are done
  bool kill = false;          // the disks keep what they have
  unsigned survivors = 0;     // how a crash chooses, see sim_world.cpp
  std::uint64_t crash_seed = 0;
  // Calls that change SPARE in each start that is cut, before the one that is
  // not.
  std::vector<std::uint64_t> recovery_cuts;
};

struct SimPlan {
  std::uint64_t seed = 0;
  unsigned clients = 1;
  unsigned stay_percent = 0;
  std::uint64_t slots = 16;
  PendingWrite on_pending_write = PendingWrite::main_first;
  bool tail_copy = false;  // which copy of the metadata has bad sectors
  // SPARE is so large that it keeps the state of a scan and a replacement; then
  // slots are plenty.
  bool state_area = false;
  std::vector<SimRound> rounds;
};

SimPlan make_sim_plan(std::uint64_t seed);
std::string describe(const SimPlan& plan);
std::string describe(const SimOp& op);

}  // namespace nbd_remap
