// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/bit_rot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSectorBits = std::uint64_t{kSectorBytes} * 8;

// splitmix64: a generator of its own for every sector has to be cheap to make.
std::uint64_t next(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15U;
  std::uint64_t n = state;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9U;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebU;
  return n ^ (n >> 31);
}

}  // namespace

std::vector<std::uint32_t> rotten_bits(std::uint64_t seed, std::uint64_t sector,
                                       std::uint64_t bits) {
  std::uint64_t state = seed;
  state = next(state) ^ sector;
  std::vector<std::uint32_t> chosen;
  while (chosen.size() < bits) {
    const auto bit = static_cast<std::uint32_t>(next(state) % kSectorBits);
    // Turned twice it would be right again.
    if (std::find(chosen.begin(), chosen.end(), bit) == chosen.end())
      chosen.push_back(bit);
  }
  return chosen;
}

nbd_remap::Status BitRot::set(std::span<const BadRange> ranges,
                              std::uint64_t seed, std::uint64_t bits) {
  if (bits > kMaxRotBits)
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("{} bits: expected at most {} of a sector",
                                  bits, kMaxRotBits));
  MutexLock lock(mu_);
  if (auto ok = check_ranges(ranges, size_, map_.size()); !ok) return ok;
  for (const BadRange& range : ranges) {
    std::optional<Rot> rot;
    if (bits != 0) rot = Rot{seed, bits};
    map_.assign(range.start, range.start + range.count, rot);
  }
  return {};
}

void BitRot::spoil(std::uint64_t offset, Bytes data) {
  const std::uint64_t end = offset + data.size();
  MutexLock lock(mu_);
  if (data.empty() || map_.size() == 0) return;
  bool turned = false;
  const auto spoil_sector = [&](std::uint64_t sector, const Rot& rot) {
    for (const std::uint32_t bit : rotten_bits(rot.seed, sector, rot.bits)) {
      const std::uint64_t at = sector * kSectorBytes + bit / 8;
      if (at < offset || at >= end) continue;
      data[at - offset] ^= std::byte{1} << (bit % 8);
      turned = true;
    }
  };
  map_.visit(offset / kSectorBytes, round_up(end, kSectorBytes) / kSectorBytes,
             [&](std::uint64_t from, std::uint64_t to, const Rot& rot) {
               for (; from < to; ++from) spoil_sector(from, rot);
             });
  if (turned) ++fired_;
}

BitRot::Status BitRot::status(std::size_t limit) const {
  Status status;
  MutexLock lock(mu_);
  status.fired = fired_;
  map_.visit(0, size_, [&](std::uint64_t from, std::uint64_t to, Rot rot) {
    if (status.runs.size() < limit)
      status.runs.push_back({from, to - from, rot.seed, rot.bits});
  });
  return status;
}

}  // namespace nbd_remap
