// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/bad_list.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <random>
#include <unordered_set>

#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

constexpr std::string_view kListForm =
    "expected sectors of 512 bytes as N, START-END or START+COUNT, each "
    "perhaps with :read, :write or :both, for example 7,100-199,300+8:write";

Error list_error(std::string_view element, std::string_view what) {
  return make_error(ErrorClass::caller, EINVAL,
                    fmt::format("\"{}\": {}; {}", element, what, kListForm));
}

Result<BadRange> parse_range(std::string_view element) {
  BadRange range;
  std::string_view numbers = element;
  if (const auto colon = element.find(':'); colon != std::string_view::npos) {
    numbers = element.substr(0, colon);
    range.mode = parse_bad_mode(element.substr(colon + 1));
    if (!range.mode) return list_error(element, "unknown mode");
  }
  const auto sign = numbers.find_first_of("-+");
  const auto start = parse_whole(numbers.substr(0, sign));
  if (!start) return list_error(element, "not a sector");
  range.start = *start;
  range.count = 1;
  if (sign != std::string_view::npos) {
    const auto second = parse_whole(numbers.substr(sign + 1));
    if (!second) return list_error(element, "not a range");
    if (numbers[sign] == '-') {
      if (*second < *start)
        return list_error(element, "the range ends before it starts");
      range.count = *second - *start + 1;
    } else {
      range.count = *second;
    }
  }
  if (range.count == 0) return list_error(element, "no sector at all");
  if (!checked_add(range.start, range.count))
    return list_error(element, "beyond any disk");
  return range;
}

// Uniform in [0, bound). By hand, as the standard leaves the algorithm of its
// own distributions open and the same seed must give the same sectors.
std::uint64_t below(std::mt19937_64& random, std::uint64_t bound) {
  const std::uint64_t rest = (UINT64_MAX % bound + 1) % bound;
  for (;;) {
    const std::uint64_t n = random();
    if (n <= UINT64_MAX - rest) return n % bound;
  }
}

}  // namespace

std::string_view bad_mode_name(BadMode mode) {
  switch (mode) {
    case BadMode::none:
      return "none";
    case BadMode::read:
      return "read";
    case BadMode::write:
      return "write";
    case BadMode::both:
      return "both";
  }
  return "none";
}

std::optional<BadMode> parse_bad_mode(std::string_view text) {
  for (const BadMode mode : {BadMode::read, BadMode::write, BadMode::both})
    if (text == bad_mode_name(mode)) return mode;
  return std::nullopt;
}

std::optional<std::uint64_t> parse_whole(std::string_view text) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, value);
  if (text.empty() || problem != std::errc() || stop != end)
    return std::nullopt;
  return value;
}

Result<std::vector<BadRange>> parse_bad_list(std::string_view text) {
  std::vector<BadRange> ranges;
  for (;;) {
    const auto comma = text.find(',');
    auto range = parse_range(text.substr(0, comma));
    if (!range) return std::move(range).error();
    ranges.push_back(*range);
    if (comma == std::string_view::npos) return ranges;
    text.remove_prefix(comma + 1);
  }
}

Status check_ranges(std::span<const BadRange> ranges,
                    std::uint64_t size_sectors, std::size_t remembered) {
  for (const BadRange& range : ranges) {
    const auto end = checked_add(range.start, range.count);
    if (range.count == 0 || !end || *end > size_sectors)
      return make_error(
          ErrorClass::caller, EINVAL,
          fmt::format("sectors {}+{}: the disk has {} sectors of 512 bytes, "
                      "the last is {}",
                      range.start, range.count, size_sectors,
                      size_sectors - 1));
  }
  // Each range adds at most itself and a cut at either end.
  if (remembered + 3 * ranges.size() > kMaxSeparateRanges)
    return make_error(
        ErrorClass::full, ENOMEM,
        fmt::format("more than {} separate ranges", kMaxSeparateRanges));
  return {};
}

std::uint64_t percent_of(double percent, std::uint64_t size_sectors) {
  const double share =
      std::ceil(percent / 100.0 * static_cast<double>(size_sectors));
  // A double may be a little above the greatest whole number we mean.
  if (share >= static_cast<double>(size_sectors)) return size_sectors;
  return static_cast<std::uint64_t>(share);
}

Result<std::vector<BadRange>> choose_sectors(std::uint64_t seed,
                                             std::uint64_t count,
                                             std::uint64_t size_sectors) {
  if (count > size_sectors)
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{} sectors of a disk that has {}", count, size_sectors));
  if (count == 0) return std::vector<BadRange>{};
  if (count == size_sectors)
    return std::vector<BadRange>{{0, size_sectors, std::nullopt}};
  if (count > kMaxChosen)
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{} sectors: at most {} can be chosen at once (or all {}); "
                    "name ranges for more",
                    count, kMaxChosen, size_sectors));
  // Floyd's algorithm: every subset is equally likely, `count` draws.
  std::mt19937_64 random(seed);
  std::unordered_set<std::uint64_t> chosen;
  for (std::uint64_t j = size_sectors - count; j < size_sectors; ++j)
    if (!chosen.insert(below(random, j + 1)).second) chosen.insert(j);
  std::vector<std::uint64_t> sorted(chosen.begin(), chosen.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<BadRange> ranges;
  for (const std::uint64_t sector : sorted) {
    if (!ranges.empty() && ranges.back().start + ranges.back().count == sector)
      ++ranges.back().count;
    else
      ranges.push_back({sector, 1, std::nullopt});
  }
  return ranges;
}

}  // namespace nbd_remap
