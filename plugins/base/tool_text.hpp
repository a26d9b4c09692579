#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the command-line tools share: exit statuses, and words for people.
// Names and texts from a disk, a socket or the command line are hostile until
// printable() has seen them: a terminal acts on control characters.

#include <fmt/format.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "plugins/base/error_class.hpp"

namespace nbd_remap {

// Scripts depend on these. `spare check` has its own, see check_command.hpp.
enum class ExitStatus : int {
  fine = 0,
  failed = 1,
  usage = 2,
  not_found = 3,
  conflict = 4,
};

inline ExitStatus exit_status(const Error& error) {
  switch (error.errnum) {
    case EDESTADDRREQ:  // the command line leaves open which volume is meant
      return ExitStatus::usage;
    case ENOENT:
    case ENODEV:
    case ENXIO:
    case ENODATA:
    case ECONNREFUSED:
      return ExitStatus::not_found;
    case EBUSY:
    case EEXIST:
      return ExitStatus::conflict;
    default:
      return ExitStatus::failed;
  }
}

inline const char* exit_word(ExitStatus status) {
  switch (status) {
    case ExitStatus::fine:
      return "fine";
    case ExitStatus::usage:
      return "usage";
    case ExitStatus::not_found:
      return "not-found";
    case ExitStatus::conflict:
      return "conflict";
    case ExitStatus::failed:
      break;
  }
  return "failed";
}

// Who refuses (class caller) has said all in the place; who fails, where.
inline std::string error_words(const Error& error) {
  return error.error_class == ErrorClass::caller ? error.place : error.text();
}

namespace tool_text_detail {

// Length and value of the UTF-8 sequence at the front; empty if it is none.
struct Decoded {
  std::size_t length = 0;
  std::uint32_t value = 0;
};
inline std::optional<Decoded> decode_utf8(std::string_view s) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(s[i]));
  };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return Decoded{1, first};
  const std::size_t length = first >= 0xf0   ? 4
                             : first >= 0xe0 ? 3
                             : first >= 0xc2 ? 2
                                             : 0;
  if (length == 0 || first > 0xf4 || s.size() < length) return std::nullopt;
  std::uint32_t value = first & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return std::nullopt;
    value = value << 6 | (byte(i) & 0x3f);
  }
  const bool overlong =
      (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  if (overlong || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
    return std::nullopt;
  return Decoded{length, value};
}

// Control characters, line separators, and what turns the order of the text.
inline bool acts_on_terminal(std::uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x061c ||
         (c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
         (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

}  // namespace tool_text_detail

// One line that a terminal shows and does not act on: "\n", "\x1b", "\u{202e}".
inline std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto c = tool_text_detail::decode_utf8(text);
    if (!c) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
      text.remove_prefix(1);
      continue;
    }
    if (c->value == '\n')
      out += "\\n";
    else if (c->value == '\t')
      out += "\\t";
    else if (c->value == '\\')
      out += "\\\\";
    else if (!tool_text_detail::acts_on_terminal(c->value))
      out += text.substr(0, c->length);
    else if (c->value < 0x80)
      out += fmt::format("\\x{:02x}", c->value);
    else
      out += fmt::format("\\u{{{:x}}}", c->value);
    text.remove_prefix(c->length);
  }
  return out;
}

// "512 bytes", "1.5 GiB (1610612736 bytes)". Cut, not rounded up: what is
// shown is there.
inline std::string human_bytes(std::uint64_t bytes) {
  if (bytes == 1) return "1 byte";
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  constexpr std::string_view kUnits = "KMGTPE";
  std::size_t unit = 0;
  while (unit + 1 < kUnits.size() && bytes >> (10 * (unit + 2)) != 0) ++unit;
  const std::uint64_t one = std::uint64_t{1} << (10 * (unit + 1));
  return fmt::format("{}.{} {}iB ({} bytes)", bytes / one,
                     bytes % one * 10 / one, kUnits[unit], bytes);
}

// "1 block", "2 blocks".
inline std::string count_of(std::uint64_t n, std::string_view thing) {
  return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
}

// "1.52 %", or "under 0.01 %". REQUIRES: nothing of whole.
inline std::string percent_of(std::uint64_t part, std::uint64_t whole) {
  if (part == 0 || whole == 0) return "0 %";
  const double percent =
      100.0 * static_cast<double>(part) / static_cast<double>(whole);
  return percent < 0.01 ? "under 0.01 %" : fmt::format("{:.2f} %", percent);
}

// A number of bytes, as "4096", "4K", "1M", "2G", "1T" (powers of 1024).
inline std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  constexpr std::string_view kUnits = "KMGT";
  std::uint64_t unit = 1;
  if (!text.empty())
    if (const auto u = kUnits.find(text.back()); u != std::string_view::npos) {
      unit = std::uint64_t{1} << (10 * (u + 1));
      text.remove_suffix(1);
    }
  if (text.empty()) return std::nullopt;
  std::uint64_t n = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || __builtin_mul_overflow(n, 10U, &n) ||
        __builtin_add_overflow(n, static_cast<unsigned>(c - '0'), &n))
      return std::nullopt;
  }
  if (__builtin_mul_overflow(n, unit, &n)) return std::nullopt;
  return n;
}

// "--main=" with nothing behind it, as an unset variable leaves it. The parser
// would take the next word for its value.
inline bool lacks_value(std::string_view word) {
  return word.starts_with("--") && word.find('=') == word.size() - 1;
}

}  // namespace nbd_remap
