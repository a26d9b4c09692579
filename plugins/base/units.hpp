#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Units: a place on the volume and a place on a device are different types,
// so that a request cannot reach a disk without passing the remap table.
//
// All offsets and lengths are bytes unless a name says sectors or blocks.
// A sector is 512 bytes, the unit of validity; a block is the remap unit
// (4 KiB to 32 KiB, fixed per SPARE); a slot is a block-sized place on SPARE.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace nbd_remap {

inline constexpr std::uint32_t kSectorBytes = 512;
inline constexpr std::uint32_t kMinBlockBytes = 4096;
// A block's validity mask is one 64-bit word.
inline constexpr std::uint32_t kMaxBlockBytes = 64 * kSectorBytes;
// The largest request that nbdkit passes to a plugin is 64 MiB.
inline constexpr std::uint32_t kMaxRequestBytes = 64U << 20;

template <class Tag>
struct Strong {
  std::uint64_t value{};
  friend constexpr auto operator<=>(const Strong&, const Strong&) = default;
};

// A byte offset as the NBD client counts.
using VolumeOffset = Strong<struct VolumeOffsetTag>;
// A byte offset on one Backend.
using DeviceOffset = Strong<struct DeviceOffsetTag>;
// volume offset / block size.
using BlockNo = Strong<struct BlockNoTag>;
// The n-th slot of SPARE; slot 0 is a slot like any other.
using SlotNo = Strong<struct SlotNoTag>;

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

// Empty when the sum does not fit: overflow is a value, not a wrap.
constexpr std::optional<std::uint64_t> checked_add(std::uint64_t a,
                                                   std::uint64_t b) {
  std::uint64_t sum{};
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

// REQUIRES: unit is a power of two. round_up: the result fits.
constexpr std::uint64_t round_down(std::uint64_t n, std::uint64_t unit) {
  return n & ~(unit - 1);
}
constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t unit) {
  return (n + unit - 1) & ~(unit - 1);
}
constexpr bool is_power_of_two(std::uint64_t n) {
  return n != 0 && (n & (n - 1)) == 0;
}

}  // namespace nbd_remap

template <class Tag>
struct std::hash<nbd_remap::Strong<Tag>> {
  std::size_t operator()(const nbd_remap::Strong<Tag>& s) const noexcept {
    return std::hash<std::uint64_t>{}(s.value);
  }
};
