#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Which sectors are to be bad, in the words of a parameter or of a control
// request. Pure functions.
//
// Units   sectors of 512 bytes, counted from 0.
// Errors  class caller. The place is one line: the word, what was expected and
//         an example.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// Bits, so that modes can be joined and taken away.
enum class BadMode : std::uint8_t { none = 0, read = 1, write = 2, both = 3 };

constexpr BadMode operator|(BadMode a, BadMode b) {
  return static_cast<BadMode>(static_cast<int>(a) | static_cast<int>(b));
}
constexpr BadMode operator&(BadMode a, BadMode b) {
  return static_cast<BadMode>(static_cast<int>(a) & static_cast<int>(b));
}
constexpr BadMode without(BadMode a, BadMode b) {
  return static_cast<BadMode>(static_cast<int>(a) & ~static_cast<int>(b));
}
constexpr bool has(BadMode a, BadMode b) { return (a & b) != BadMode::none; }

std::string_view bad_mode_name(BadMode mode);
// Empty unless the text is read, write or both.
std::optional<BadMode> parse_bad_mode(std::string_view text);
// Digits only; empty unless the number fits.
std::optional<std::uint64_t> parse_whole(std::string_view text);

struct BadRange {
  std::uint64_t start = 0;
  std::uint64_t count = 0;
  // Empty: not said in the list.
  std::optional<BadMode> mode;

  friend bool operator==(const BadRange&, const BadRange&) = default;
};

// "7,100-199,300+8:write": a sector, START-END with the END included, or
// START+COUNT, each perhaps with :read, :write or :both.
Result<std::vector<BadRange>> parse_bad_list(std::string_view text);

// That the ranges lie within the disk, and that there is room to remember them
// beside so many already.
inline constexpr std::size_t kMaxSeparateRanges = 4'000'000;
Status check_ranges(std::span<const BadRange> ranges,
                    std::uint64_t size_sectors, std::size_t remembered);

// More cannot be chosen at once, save all sectors of the disk.
inline constexpr std::uint64_t kMaxChosen = 1'000'000;

// How many sectors a percentage is: rounded up, so that it is none only if the
// percentage is 0. REQUIRES: 0 <= percent <= 100.
std::uint64_t percent_of(double percent, std::uint64_t size_sectors);

// `count` different sectors out of size_sectors, ascending, neighbours joined.
// The same seed, count and size give the same sectors, on any machine.
Result<std::vector<BadRange>> choose_sectors(std::uint64_t seed,
                                             std::uint64_t count,
                                             std::uint64_t size_sectors);

}  // namespace nbd_remap
