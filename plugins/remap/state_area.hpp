#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// StateArea: what a server notes on SPARE for the next one and may be lost
// without a byte of the volume: how far a scan came, how a replacement of a
// disk stands, how health was over the days. nbd-remap-format(5) has it byte by
// byte.
//
// Each kind has two places that are written in turn, each with a sequence, a
// checksum and SPARE's UUID: a write that is torn leaves the one before. What
// cannot be read, or does not fit, counts as not there.
//
// A place that fails to be written is left alone from then on, until the other
// one fails too: each try may take a dying disk seconds.
//
// Threads  one for each kind at a time; all kinds at once.
// Waits    as long as SPARE takes; and while another disk takes SPARE's place.

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/gate.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

enum class StateKind : std::uint32_t { scan = 1, replace = 2, health = 3 };

// From the beginning of the area. All are multiples of 32 KiB, the largest
// physical block: a write never touches the bytes of another place.
struct StatePlace {
  StateKind kind;
  std::uint64_t at;
  std::uint64_t bytes;
};
inline constexpr std::array<StatePlace, 6> kStatePlaces{{
    {StateKind::scan, 0, 160 << 10},
    {StateKind::scan, 160 << 10, 160 << 10},
    {StateKind::replace, 320 << 10, 96 << 10},
    {StateKind::replace, 416 << 10, 96 << 10},
    {StateKind::health, 512 << 10, 32 << 10},
    {StateKind::health, 544 << 10, 32 << 10},
}};

constexpr std::uint64_t max_state_bytes(StateKind kind) {
  switch (kind) {
    case StateKind::scan:
      return 128 << 10;
    case StateKind::replace:
      return 64 << 10;
    case StateKind::health:
      return 16 << 10;
  }
  return 0;
}

class StateArea {
 public:
  // at: of the area. may_write: asked before each write.
  StateArea(Backend& spare, DeviceOffset at, const Uuid& uuid,
            std::function<Status()> may_write);

  // What was written last; empty: nothing, or nothing that can be believed.
  // Errors: never of class medium.
  Result<std::vector<std::byte>> read(StateKind kind);
  // Durable when it succeeds. After an error it is as before, or written.
  // Errors: bug (larger than max_state_bytes), may_write's, the disk's.
  Status write(StateKind kind, ConstBytes content);

  // For another disk that takes SPARE's place. From hold() to release() nobody
  // else reads or writes; false: who did has not ended in time.
  bool hold(std::chrono::milliseconds bound) { return gate_.hold(bound); }
  void release() { gate_.release(); }
  // While it is held: all that is noted, to the same places of next, `instead`
  // in the place of what there is of that kind. Not durable before a flush.
  // What cannot be read here is not there on next either.
  Status copy_to(Backend& next, StateKind kind, ConstBytes instead);

 private:
  struct Newest {
    bool known = false;
    std::uint64_t sequence = 0;  // 0: none is there
    unsigned place = 1;          // of the two, where it is
    bool bad = false;            // the other one could not be written
    std::vector<std::byte> content;
  };
  Status look(StateKind kind, Newest& newest);
  Status put(Backend& disk, StateKind kind, unsigned which,
             std::uint64_t sequence, ConstBytes content) const;
  Newest& newest_of(StateKind kind) {
    return newest_[static_cast<std::uint32_t>(kind) - 1];
  }

  Backend& spare_;
  const DeviceOffset at_;
  const Uuid uuid_;
  const std::function<Status()> may_write_;
  std::array<Newest, 3> newest_;
  Gate gate_;
};

}  // namespace nbd_remap
