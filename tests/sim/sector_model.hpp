#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SectorModel: of every sector of a volume, what a read may answer now and
// after a power cut, and whether it may fail. Contract C1 to C3, C5, C6.
//
// Contents  Each write has a tag, and each 8 bytes that it writes hold the tag,
//           the sector and their place in it: stale, foreign, shifted and
//           invented bytes are told apart, and named in the message.
// Live      A read may answer what was written by a request that began before
//           the read ended, unless another one that began after that request
//           had ended was acknowledged, or read, before the read began.
// Cut       A sector then holds what was written by any request, acknowledged
//           or not, that no durable one followed.
// Parts     A request that writes part of a sector counts for those bytes.
// Errors    A sector may fail to be read once it was spoiled, until a write of
//           the whole of it that began later is acknowledged.
// Time      A number that every event moves on.
// Threads   one: fibers.

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "plugins/base/units.hpp"

namespace nbd_remap {

class SectorModel {
 public:
  using Time = std::uint64_t;
  using Tag = std::uint32_t;
  static constexpr Tag kZeroes = 0;

  explicit SectorModel(std::uint64_t size_bytes);
  std::uint64_t size() const { return sectors_.size() * kSectorBytes; }

  // What a write with this tag puts there.
  static void fill(Tag tag, std::uint64_t offset, Bytes out);

  Time now() { return ++time_; }
  Time time() const { return time_; }
  // Every begun write is ended.
  Time begin_write(std::uint64_t offset, std::uint64_t length, Tag tag);
  void end_write(Time begun, bool acked, bool durable);
  // A flush that began at that time is acknowledged.
  void flushed(Time begun);

  // Empty: a read that began then may answer so. Else what is wrong.
  std::string check_read(std::uint64_t offset, ConstBytes data, Time begun);
  // Whether such a read may fail.
  bool may_fail(std::uint64_t offset, std::uint64_t length, Time begun) const;
  bool may_be_zero(std::uint64_t sector, Time begun) const;

  // MAIN (on_main) or a slot can no longer give it. for_good: writing it does
  // not help.
  void spoil(std::uint64_t sector, bool on_main, bool for_good);
  bool spoiled_in_slot(std::uint64_t sector) const {
    return sectors_[sector].slot_bad;
  }

  // No request is under way. Afterwards each sector is what settle() is told.
  void crash();
  // After crash(): this was read. Empty, or what is wrong with it.
  std::string settle(std::uint64_t sector, ConstBytes content);
  // Forgets what can never be read again. REQUIRES: no request is under way.
  void tidy();

 private:
  static constexpr Time kRunning = ~Time{0};
  struct Version {
    Tag tag = kZeroes;
    std::uint16_t from = 0;
    std::uint16_t to = kSectorBytes;
    Time start = 0;
    Time end = 0;
    Time read_at = kRunning;  // when a read that answered so had ended
    bool acked = true;
    bool durable = true;
  };
  struct Sector {
    std::vector<Version> versions{Version{}};
    Time bad_since = 0;  // 0: it is not
    Time good_since = 0;
    bool for_good = false;
    bool slot_bad = false;
  };
  struct Range {
    std::uint64_t offset, length;
  };

  template <class F>
  void each_version(const Range& range, Time begun, F&& f);
  template <class F>
  static void each_segment(const Sector& sector, F&& f);
  static bool covers(const Version& v, unsigned from, unsigned to) {
    return v.from <= from && v.to >= to;
  }
  static bool superseded(const Sector& sector, const Version& v, unsigned from,
                         unsigned to, Time begun);
  static bool superseded_durably(const Sector& sector, const Version& v,
                                 unsigned from, unsigned to);
  static bool holds(Tag tag, std::uint64_t sector, unsigned from, unsigned to,
                    const std::byte* data);
  static std::string misfit(const Sector& state, std::uint64_t sector,
                            unsigned from, unsigned to, const std::byte* data);

  std::vector<Sector> sectors_;
  std::map<Time, Range> running_;
  Time time_ = 0;
};

}  // namespace nbd_remap
