#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A history of what concurrent clients did to a volume, and whether it could
// have happened on a disk that does one thing at a time.
//
// Words      8 bytes, the unit in which a history is judged: NBD promises no
//            more of requests that overlap in flight. Each word that is written
//            holds who wrote it, as which of his requests, and where it belongs
//            (stamp), so that a stale, foreign, shifted or invented word shows
//            itself.
// Time       Nanoseconds of one clock, taken before a request is sent and after
//            its reply is there. Requests that do not overlap in time have an
//            order; two that begin or end at the same moment have none.
// Order      Each word is a register. For each there must be one sequence of
//            all writes and reads of it, no request before one that had ended
//            when it began, in which each read answers the last write. That is
//            exact where the values differ (Gibbons and Korach, "Testing Shared
//            Memories", 1997): the time in which a value must have been there,
//            from the first end to the last begin of the requests that wrote or
//            read it, must not overlap another value's, nor hold a whole other
//            write. Zeroes are written many times: a read of them counts for
//            the one request that can have supplied them, if it is one only.
// Trim       leaves what was there, or zeroes.
// Failed     writes may have an effect at any time after they began, or never.
//            Failed reads say nothing here; see unexcused_errors().
// Threads    none of its own.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plugins/base/units.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kWordBytes = 8;
inline constexpr std::uint64_t kWordsPerSector = kSectorBytes / kWordBytes;

using Tag = std::uint64_t;  // of a request that writes; below 2^40
inline constexpr Tag kZeroes = 0;
inline constexpr Tag kNobody = ~Tag{0};  // bytes that are nobody's stamp

inline constexpr Tag tag_of(std::uint64_t client, std::uint64_t number) {
  return client << 32 | number;
}

// What the word at this place (below 2^24) holds.
inline constexpr std::uint64_t stamp(Tag tag, std::uint64_t place) {
  return tag << 24 | place;
}

// Words with the same content.
struct Run {
  std::uint64_t first = 0;
  std::uint64_t words = 0;
  Tag tag = kZeroes;
};

// data: of the words from first on.
std::vector<Run> runs_of(ConstBytes data, std::uint64_t first);

struct Operation {
  enum class Kind { read, write, zero, trim };
  using Time = std::uint64_t;
  Kind kind = Kind::read;
  bool acked = true;
  std::uint64_t first = 0;  // words
  std::uint64_t words = 0;
  Time start = 0;
  Time end = 0;
  Tag tag = kZeroes;      // of a write
  std::vector<Run> seen;  // by a read
};

// Empty: there is such a sequence for every word. Else at most `most` findings,
// each with its place and the requests that contradict one another.
// initial: the tag of each word before time 0.
std::vector<std::string> anomalies(std::span<const Operation> history,
                                   const std::vector<Tag>& initial,
                                   std::size_t most = 10);

// A time in which sectors could have become unreadable.
struct BadSectors {
  std::uint64_t first = 0;
  std::uint64_t sectors = 0;
  Operation::Time start = 0;
  Operation::Time end = 0;
};

// Requests that failed although each sector that they read, or wrote in part,
// was written as a whole since it was last made unreadable (contract C5, C6).
std::vector<std::string> unexcused_errors(std::span<const Operation> history,
                                          std::span<const BadSectors> bad,
                                          std::size_t most = 10);

std::string describe(const Operation& operation);

}  // namespace nbd_remap
