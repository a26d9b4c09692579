// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/bad_areas.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kShown = 60;  // of a line that is quoted

Error refuse(std::uint64_t line, const std::string& words) {
  return make_error(ErrorClass::caller, EINVAL,
                    fmt::format("line {}: {}", line, words));
}

// As it is: who prints an error makes it printable.
std::string quoted(std::string_view text) {
  return fmt::format("\"{}{}\"", text.substr(0, kShown),
                     text.size() > kShown ? "..." : "");
}

bool blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

// The lines that say something, with comments and blanks at both ends cut off.
class Lines {
 public:
  explicit Lines(std::string_view text) : rest_(text) {}

  // Empty at the end. number() is that of the line given last.
  std::optional<std::string_view> next() {
    while (!rest_.empty()) {
      const std::size_t end = rest_.find('\n');
      std::string_view line = rest_.substr(0, end);
      rest_ = end == std::string_view::npos ? std::string_view{}
                                            : rest_.substr(end + 1);
      ++number_;
      for (std::size_t i = 0; i < line.size(); ++i)
        if (line[i] == '#' && (i == 0 || blank(line[i - 1]))) {
          line = line.substr(0, i);
          break;
        }
      while (!line.empty() && blank(line.front())) line.remove_prefix(1);
      while (!line.empty() && blank(line.back())) line.remove_suffix(1);
      if (!line.empty()) return line;
    }
    return std::nullopt;
  }
  std::uint64_t number() const { return number_; }

 private:
  std::string_view rest_;
  std::uint64_t number_ = 0;
};

// Up to four words; a fifth is counted and not kept.
struct Words {
  std::array<std::string_view, 4> word;
  std::size_t count = 0;
};
Words words_of(std::string_view line) {
  Words words;
  while (!line.empty()) {
    std::size_t end = 0;
    while (end < line.size() && !blank(line[end])) ++end;
    if (words.count < words.word.size())
      words.word.at(words.count) = line.substr(0, end);
    ++words.count;
    while (end < line.size() && blank(line[end])) ++end;
    line.remove_prefix(end);
  }
  return words;
}

std::optional<std::uint64_t> number(std::string_view text, int base) {
  std::uint64_t n = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), n, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return n;
}

// An integer constant of C: 4096, 0x1000, 010000.
std::optional<std::uint64_t> c_number(std::string_view text) {
  if (text.starts_with("0x") || text.starts_with("0X"))
    return number(text.substr(2), 16);
  if (text.size() > 1 && text.front() == '0') return number(text.substr(1), 8);
  return number(text, 10);
}

bool is_status(std::string_view word, std::string_view known) {
  return word.size() == 1 && known.find(word.front()) != std::string_view::npos;
}

constexpr const char* kAreaWanted =
    "expected a position, a size and one of ? * / - +, such as "
    "\"0x1000 0x200 -\"";

}  // namespace

void append_range(std::vector<ByteRange>& ranges, const ByteRange& range) {
  if (range.length == 0) return;
  if (!ranges.empty() &&
      ranges.back().offset + ranges.back().length == range.offset)
    ranges.back().length += range.length;
  else
    ranges.push_back(range);
}

std::uint64_t total_bytes(const std::vector<ByteRange>& ranges) {
  std::uint64_t total = 0;
  for (const ByteRange& r : ranges) total += r.length;
  return total;
}

Result<BadAreas> parse_mapfile(std::string_view text,
                               std::uint64_t volume_bytes) {
  Lines lines(text);
  const auto first = lines.next();
  if (!first)
    return make_error(ErrorClass::caller, EINVAL,
                      "empty; expected a mapfile of GNU ddrescue");
  const Words status = words_of(*first);
  const bool has_pass = status.count == 3;
  if ((status.count != 2 && !has_pass) || !c_number(status.word[0]) ||
      !is_status(status.word[1], "?*/-FG+") ||
      (has_pass && !number(status.word[2], 10)))
    return refuse(
        lines.number(),
        fmt::format("{}: expected the status line of a mapfile, such as "
                    "\"0x0 + 1\"",
                    quoted(*first)));
  BadAreas out;
  std::optional<std::uint64_t> end;
  while (const auto line = lines.next()) {
    const Words words = words_of(*line);
    const auto at = c_number(words.word[0]);
    const auto size = words.count == 3 ? c_number(words.word[1]) : std::nullopt;
    if (!at || !size || *size == 0 || !is_status(words.word[2], "?*/-+"))
      return refuse(lines.number(),
                    fmt::format("{}: {}", quoted(*line), kAreaWanted));
    const auto next = checked_add(*at, *size);
    if (!next)
      return refuse(lines.number(),
                    fmt::format("{}: position and size together are beyond "
                                "what a disk can have",
                                quoted(*line)));
    if (end && *at != *end)
      return refuse(
          lines.number(),
          fmt::format("begins at {}, {} the area before it, which ends at {}; "
                      "expected areas that follow one another",
                      *at, *at < *end ? "inside" : "not right after", *end));
    end = *next;
    const char state = words.word[2].front();
    if (state == '?') {
      if (*at < volume_bytes)
        out.untried += std::min(*size, volume_bytes - *at);
      continue;
    }
    if (*next > volume_bytes)
      return refuse(
          lines.number(),
          fmt::format("ends at {}, but the volume has {} bytes; expected a "
                      "mapfile of this disk",
                      *next, volume_bytes));
    if (state == '+') continue;
    if (*at % kSectorBytes != 0 || *size % kSectorBytes != 0)
      return refuse(lines.number(),
                    fmt::format("{}: bad areas are whole sectors; expected "
                                "multiples of 512 bytes",
                                quoted(*line)));
    append_range(state == '-' ? out.bad : out.suspect, {*at, *size});
  }
  if (!end) return refuse(lines.number(), "no areas; the mapfile is not whole");
  return out;
}

Result<BadAreas> parse_badblocks(std::string_view text,
                                 std::uint64_t volume_bytes,
                                 std::uint32_t block_bytes) {
  Lines lines(text);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> blocks;  // with the line
  while (const auto line = lines.next()) {
    const auto block = number(*line, 10);
    if (!block)
      return refuse(lines.number(),
                    fmt::format("{}: expected one block number, such as 1234",
                                quoted(*line)));
    std::uint64_t at = 0;
    if (__builtin_mul_overflow(*block, std::uint64_t{block_bytes}, &at) ||
        at >= volume_bytes)
      return refuse(
          lines.number(),
          fmt::format("block {} of {} bytes is beyond the end of the volume of "
                      "{} bytes; expected below {}, or another block size",
                      *block, block_bytes, volume_bytes,
                      (volume_bytes + block_bytes - 1) / block_bytes));
    blocks.emplace_back(*block, lines.number());
  }
  std::sort(blocks.begin(), blocks.end());
  BadAreas out;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (i != 0 && blocks[i].first == blocks[i - 1].first)
      return refuse(blocks[i].second,
                    fmt::format("block {} is there already, on line {}; "
                                "expected each once",
                                blocks[i].first, blocks[i - 1].second));
    const std::uint64_t at = blocks[i].first * block_bytes;
    append_range(out.bad,
                 {at, std::min<std::uint64_t>(block_bytes, volume_bytes - at)});
  }
  return out;
}

std::string render_mapfile(const std::vector<ByteRange>& bad,
                           std::uint64_t volume_bytes,
                           std::string_view comment) {
  std::string out = fmt::format(
      "# Mapfile. {}\n"
      "# current_pos  current_status  current_pass\n"
      "0x00000000     +               1\n"
      "#      pos        size  status\n",
      comment);
  const auto area = [&](std::uint64_t at, std::uint64_t size, char status) {
    if (size != 0)
      out += fmt::format("0x{:08X}  0x{:08X}  {}\n", at, size, status);
  };
  std::uint64_t at = 0;
  for (const ByteRange& r : bad) {
    area(at, r.offset - at, '+');
    area(r.offset, r.length, '-');
    at = r.offset + r.length;
  }
  area(at, volume_bytes - at, '+');
  return out;
}

std::string render_badblocks(const std::vector<ByteRange>& bad,
                             std::uint32_t block_bytes) {
  std::string out;
  std::uint64_t next = 0;  // not listed yet
  for (const ByteRange& r : bad) {
    const std::uint64_t last = (r.offset + r.length - 1) / block_bytes;
    for (next = std::max(next, r.offset / block_bytes); next <= last; ++next)
      out += fmt::format("{}\n", next);
  }
  return out;
}

}  // namespace nbd_remap
