#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ReplaceState: what SPARE's state area holds of a replacement of MAIN, for the
// server after this one. Pure; unpack takes hostile bytes.
//
// All numbers little-endian: version 4, phase 4, volume bytes 8, owner epoch
// 8, started 8, changed 8 (unix seconds), regions 4, then five texts, each
// with its length in 4 bytes (next, next_identity, old, old_identity, reason),
// then a bit for each region, the first in the lowest of the first byte.

#include <cstdint>
#include <string>
#include <vector>

#include "plugins/base/result.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

enum class ReplacePhase : std::uint32_t {
  none = 0,      // there never was one
  copying = 1,   // the old disk is MAIN
  switched = 2,  // the new one is; blocks on SPARE are being copied back
  done = 3,
  failed = 4,  // the old disk is MAIN, the new one is no good
  aborted = 5,
};
inline constexpr std::uint32_t kReplacePhases = 6;

struct ReplaceState {
  ReplacePhase phase = ReplacePhase::none;
  std::uint64_t volume_bytes = 0;
  // Of the server that wrote this: the bits are true for the next one alone,
  // as one that does not know of them may have written to MAIN since.
  std::uint64_t owner_epoch = 0;
  std::uint64_t started = 0;  // unix seconds
  std::uint64_t changed = 0;  // the phase
  std::string next;           // the new disk, as its owner called it
  std::string next_identity;
  std::string old;
  std::string old_identity;
  std::string reason;  // why it failed
  std::vector<bool> in_sync;
};

inline constexpr std::size_t kMaxReplaceText = 4096;

std::vector<std::byte> pack_replace_state(const ReplaceState& state);
// Of class medium: what is wrong, for people.
Result<ReplaceState> unpack_replace_state(ConstBytes in);

}  // namespace nbd_remap
