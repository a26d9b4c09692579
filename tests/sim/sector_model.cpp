// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/sector_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMark = 0xa5;

// Mark, tag, sector, place: whose bytes these are.
std::uint64_t word_of(std::uint32_t tag, std::uint64_t sector,
                      std::uint64_t index) {
  return kMark << 56 | std::uint64_t{tag} << 24 | (sector & 0x3ffff) << 6 |
         index;
}

}  // namespace

SectorModel::SectorModel(std::uint64_t size_bytes)
    : sectors_(size_bytes / kSectorBytes) {}

void SectorModel::fill(Tag tag, std::uint64_t offset, Bytes out) {
  if (tag == kZeroes) {
    std::fill(out.begin(), out.end(), std::byte{});
    return;
  }
  for (std::size_t done = 0; done < out.size();) {
    const std::uint64_t at = offset + done;
    const std::uint64_t word =
        word_of(tag, at / kSectorBytes, at % kSectorBytes / 8);
    const std::size_t skip = at % 8;
    const std::size_t n = std::min(8 - skip, out.size() - done);
    std::memcpy(out.data() + done,
                reinterpret_cast<const std::byte*>(&word) + skip, n);
    done += n;
  }
}

template <class F>
void SectorModel::each_version(const Range& range, Time begun, F&& f) {
  const std::uint64_t end = range.offset + range.length;
  for (std::uint64_t s = range.offset / kSectorBytes; s * kSectorBytes < end;
       ++s)
    for (Version& v : sectors_[s].versions)
      if (v.start == begun) f(sectors_[s], v);
}

SectorModel::Time SectorModel::begin_write(std::uint64_t offset,
                                           std::uint64_t length, Tag tag) {
  const Time begun = now();
  running_[begun] = {offset, length};
  const std::uint64_t end = offset + length;
  for (std::uint64_t s = offset / kSectorBytes; s * kSectorBytes < end; ++s) {
    Version v;
    v.tag = tag;
    const std::uint64_t base = s * kSectorBytes;
    v.from = static_cast<std::uint16_t>(std::max(offset, base) - base);
    v.to =
        static_cast<std::uint16_t>(std::min(end, base + kSectorBytes) - base);
    v.start = begun;
    v.end = kRunning;
    v.acked = v.durable = false;
    sectors_[s].versions.push_back(v);
  }
  return begun;
}

void SectorModel::end_write(Time begun, bool acked, bool durable) {
  const Time end = now();
  const auto found = running_.find(begun);
  each_version(found->second, begun, [&](Sector& sector, Version& v) {
    v.end = end;
    v.acked = acked;
    v.durable = acked && durable;
    const bool whole = v.from == 0 && v.to == kSectorBytes;
    if (acked && whole && !sector.for_good && sector.bad_since != 0 &&
        begun > sector.bad_since) {
      sector.bad_since = 0;
      sector.slot_bad = false;
      sector.good_since = end;
    }
  });
  running_.erase(found);
}

void SectorModel::flushed(Time begun) {
  for (Sector& sector : sectors_)
    for (Version& v : sector.versions)
      if (v.acked && v.end < begun) v.durable = true;
}

bool SectorModel::superseded(const Sector& sector, const Version& v,
                             unsigned from, unsigned to, Time begun) {
  return std::any_of(sector.versions.begin(), sector.versions.end(),
                     [&](const Version& w) {
                       return w.start > v.end && covers(w, from, to) &&
                              ((w.acked && w.end < begun) || w.read_at < begun);
                     });
}

bool SectorModel::superseded_durably(const Sector& sector, const Version& v,
                                     unsigned from, unsigned to) {
  return std::any_of(
      sector.versions.begin(), sector.versions.end(), [&](const Version& w) {
        return w.durable && w.start > v.end && covers(w, from, to);
      });
}

bool SectorModel::holds(Tag tag, std::uint64_t sector, unsigned from,
                        unsigned to, const std::byte* data) {
  std::array<std::byte, kSectorBytes> expected;
  const Bytes part = Bytes(expected).first(to - from);
  fill(tag, sector * kSectorBytes + from, part);
  return std::memcmp(part.data(), data, part.size()) == 0;
}

// f(from, to) for runs of bytes that each request wrote whole or not at all.
template <class F>
void SectorModel::each_segment(const Sector& sector, F&& f) {
  std::vector<unsigned> cuts{0, kSectorBytes};
  for (const Version& v : sector.versions) {
    if (v.from != 0) cuts.push_back(v.from);
    if (v.to != kSectorBytes) cuts.push_back(v.to);
  }
  std::sort(cuts.begin(), cuts.end());
  for (std::size_t i = 1; i < cuts.size(); ++i)
    if (cuts[i] != cuts[i - 1]) f(cuts[i - 1], cuts[i]);
}

std::string SectorModel::misfit(const Sector& state, std::uint64_t sector,
                                unsigned from, unsigned to,
                                const std::byte* data) {
  std::string text =
      fmt::format("sector {}, bytes {} to {}: ", sector, from, to);
  std::array<std::byte, kSectorBytes> all{};
  std::memcpy(all.data() + from, data, to - from);
  const unsigned at = std::min(from + 7, to - 1) / 8 * 8;
  std::uint64_t word = 0;
  std::memcpy(&word, all.data() + at, 8);
  if (word == 0)
    text += "zeroes";
  else if (word >> 56 == kMark)
    text += fmt::format("write {} of sector {} (word {} for {})",
                        word >> 24 & 0xffffffff, word >> 6 & 0x3ffff, word & 63,
                        at / 8);
  else
    text += fmt::format("nobody's bytes {:016x}", word);
  text += "; written there (begun to ended):";
  for (const Version& v : state.versions)
    if (covers(v, from, to))
      text += fmt::format(
          " {} ({} to {}{}{})", v.tag, v.start,
          v.end == kRunning ? std::string("now") : std::to_string(v.end),
          v.acked ? ", acked" : "", v.durable ? ", durable" : "");
  return text;
}

std::string SectorModel::check_read(std::uint64_t offset, ConstBytes data,
                                    Time begun) {
  const Time end_time = now();
  const std::uint64_t end = offset + data.size();
  std::string wrong;
  for (std::uint64_t s = offset / kSectorBytes; s * kSectorBytes < end; ++s) {
    Sector& sector = sectors_[s];
    const std::uint64_t base = s * kSectorBytes;
    const auto first = static_cast<unsigned>(std::max(offset, base) - base);
    const auto last =
        static_cast<unsigned>(std::min(end, base + kSectorBytes) - base);
    each_segment(sector, [&](unsigned a, unsigned b) {
      const unsigned from = std::max(a, first);
      const unsigned to = std::min(b, last);
      if (from >= to || !wrong.empty()) return;
      const std::byte* bytes = data.data() + (base + from - offset);
      std::vector<Version*> fits;
      for (Version& v : sector.versions)
        if (covers(v, a, b) && !superseded(sector, v, a, b, begun) &&
            holds(v.tag, s, from, to, bytes))
          fits.push_back(&v);
      // A few bytes may be those of two writes.
      if (fits.size() == 1)
        fits[0]->read_at = std::min(fits[0]->read_at, end_time);
      if (fits.empty()) wrong = misfit(sector, s, from, to, bytes);
    });
    if (!wrong.empty()) break;
  }
  return wrong;
}

bool SectorModel::may_fail(std::uint64_t offset, std::uint64_t length,
                           Time begun) const {
  const std::uint64_t end = offset + length;
  for (std::uint64_t s = offset / kSectorBytes; s * kSectorBytes < end; ++s)
    if (sectors_[s].bad_since != 0 || sectors_[s].good_since > begun)
      return true;
  return false;
}

bool SectorModel::may_be_zero(std::uint64_t sector, Time begun) const {
  const Sector& state = sectors_[sector];
  // A byte of a write may be a zero too.
  static constexpr std::array<std::byte, kSectorBytes> kZero{};
  bool all = true;
  each_segment(state, [&](unsigned from, unsigned to) {
    all = all &&
          std::any_of(state.versions.begin(), state.versions.end(),
                      [&](const Version& v) {
                        return covers(v, from, to) &&
                               !superseded(state, v, from, to, begun) &&
                               holds(v.tag, sector, from, to, kZero.data());
                      });
  });
  return all;
}

void SectorModel::spoil(std::uint64_t sector, bool on_main, bool for_good) {
  Sector& state = sectors_[sector];
  state.bad_since = now();
  state.for_good |= for_good;
  state.slot_bad |= !on_main;
}

void SectorModel::crash() {
  const Time at = now();
  for (Sector& sector : sectors_) {
    std::vector<Version> left;
    each_segment(sector, [&](unsigned from, unsigned to) {
      for (const Version& v : sector.versions) {
        if (!covers(v, from, to) || superseded_durably(sector, v, from, to))
          continue;
        Version survivor;
        survivor.tag = v.tag;
        survivor.from = static_cast<std::uint16_t>(from);
        survivor.to = static_cast<std::uint16_t>(to);
        survivor.start = survivor.end = at;
        left.push_back(survivor);
      }
    });
    sector.versions = std::move(left);
  }
}

std::string SectorModel::settle(std::uint64_t s, ConstBytes content) {
  Sector& sector = sectors_[s];
  std::string wrong;
  std::vector<Version> found;
  each_segment(sector, [&](unsigned from, unsigned to) {
    if (!wrong.empty()) return;
    for (const Version& v : sector.versions) {
      if (!covers(v, from, to) ||
          !holds(v.tag, s, from, to, content.data() + from))
        continue;
      if (!found.empty() && found.back().tag == v.tag)
        found.back().to = static_cast<std::uint16_t>(to);
      else
        found.push_back(v);
      return;
    }
    wrong = misfit(sector, s, from, to, content.data() + from);
  });
  if (wrong.empty()) sector.versions = std::move(found);
  return wrong;
}

void SectorModel::tidy() {
  for (Sector& sector : sectors_) {
    if (sector.versions.size() < 2) continue;
    std::vector<Version> left;
    for (const Version& v : sector.versions)
      if (!superseded_durably(sector, v, v.from, v.to)) left.push_back(v);
    sector.versions = std::move(left);
  }
}

}  // namespace nbd_remap
