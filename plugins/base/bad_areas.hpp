#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// BadAreas: what is known to be bad, in the files that other tools write and
// read: mapfiles of GNU ddrescue and lists of badblocks(8). Pure.
//
// Units   bytes from the beginning of the volume.
// Errors  class caller; the place is one line that begins with the number of
//         the line ("line 7: ...") and says what was expected; what it quotes
//         is as it is in the file, for printable() to see. A file is taken
//         whole or refused whole.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/base/result.hpp"

namespace nbd_remap {

struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// Both lists ascending, without overlap, neighbours joined.
struct BadAreas {
  std::vector<ByteRange> bad;      // '-', or listed: known sector by sector
  std::vector<ByteRange> suspect;  // '*' and '/': a larger read failed there
  std::uint64_t untried = 0;       // bytes; nothing is known of them
  friend bool operator==(const BadAreas&, const BadAreas&) = default;
};

// Areas must follow one another without a gap. Only an untried one may reach
// beyond the volume. Bad and suspect ones are whole sectors of 512 bytes.
Result<BadAreas> parse_mapfile(std::string_view text,
                               std::uint64_t volume_bytes);
// One decimal block number a line, in any order, none twice.
Result<BadAreas> parse_badblocks(std::string_view text,
                                 std::uint64_t volume_bytes,
                                 std::uint32_t block_bytes);

// bad: ascending, without overlap, in the volume.
// comment: for people, one line.
std::string render_mapfile(const std::vector<ByteRange>& bad,
                           std::uint64_t volume_bytes,
                           std::string_view comment);
// Every block that the areas touch.
std::string render_badblocks(const std::vector<ByteRange>& bad,
                             std::uint32_t block_bytes);

// Adds a range behind the others; joins it with the last if it touches it.
void append_range(std::vector<ByteRange>& ranges, const ByteRange& range);
std::uint64_t total_bytes(const std::vector<ByteRange>& ranges);

}  // namespace nbd_remap
