// SPDX-License-Identifier: BSD-3-Clause
// Files that people hand to nbd-remapctl: mapfiles of GNU ddrescue, lists of
// badblocks(8), dumps of a SPARE. The first byte says which. What was accepted
// is in order and on the disk, and says the same when it is written and read
// again.
#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "plugins/base/bad_areas.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/spare_tool/dump_command.hpp"
#include "plugins/spare_tool/saved_map.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

// Each costs half a kilobyte of JSON, written and read.
constexpr std::size_t kMostMade = 5;

void refused(const Error& error) {
  require(error.errnum != 0 && !error.place.empty(), "a refusal says why");
  require(error.error_class == ErrorClass::caller, "the file is to blame");
}

void check_ranges(const std::vector<ByteRange>& ranges, std::uint64_t size) {
  std::uint64_t last = 0;
  bool first = true;
  for (const ByteRange& r : ranges) {
    require(r.length != 0, "an area is not empty");
    require(first || r.offset > last, "areas are in order, neighbours joined");
    const auto end = checked_add(r.offset, r.length);
    require(end && *end <= size, "an area is on the volume");
    last = *end;
    first = false;
  }
  require(total_bytes(ranges) <= size, "areas do not overlap");
}

void try_mapfile(FuzzInput in) {
  const std::uint64_t size = in.number(5) * kSectorBytes;
  const auto areas = parse_mapfile(in.rest_text(), size);
  if (!areas) return refused(areas.error());
  check_ranges(areas->bad, size);
  check_ranges(areas->suspect, size);
  require(areas->untried <= size, "what was not tried is on the volume");
  for (const auto* list : {&areas->bad, &areas->suspect})
    for (const ByteRange& r : *list)
      require(r.offset % kSectorBytes == 0 && r.length % kSectorBytes == 0,
              "bad areas are whole sectors");
  if (size == 0) return;
  const auto again =
      parse_mapfile(render_mapfile(areas->bad, size, "comment"), size);
  require(again && again->bad == areas->bad && again->suspect.empty(),
          "a mapfile says the same again");
}

void try_badblocks(FuzzInput in) {
  const auto block = std::uint32_t{512} << in.below(8, 1);
  const std::uint64_t size = in.number(5) * kSectorBytes;
  const auto areas = parse_badblocks(in.rest_text(), size, block);
  if (!areas) return refused(areas.error());
  check_ranges(areas->bad, size);
  require(areas->suspect.empty() && areas->untried == 0, "a list knows");
  const auto again =
      parse_badblocks(render_badblocks(areas->bad, block), size, block);
  require(again && *again == *areas, "a list says the same again");
}

void try_dump(FuzzInput in) {
  std::istringstream text{std::string(in.rest_text())};
  const auto saved = parse_saved_map(text, "file");
  if (!saved) return refused(saved.error());
  require(check_saved(*saved).ok(), "what is accepted is possible");
}

// The other way round: a map that is made, dumped and read.
void try_made_dump(FuzzInput in) {
  MetadataSurvey survey;
  survey.best = CopyIndex::head;
  Superblock& sb = survey.superblock;
  const auto block = std::uint32_t{4096} << in.below(4, 1);
  const auto layout = compute_layout(in.number(3) * 512, block);
  if (!layout) return;
  sb.layout = *layout;
  sb.main_bytes = in.number(4) * 512;
  sb.sequence = in.number(2);
  sb.main_identity = std::string(in.text_until('\n'));
  // JSON cannot say what is no UTF-8; a disk's identity is ASCII.
  for (char& c : sb.main_identity) c = static_cast<char>(c & 0x7f);
  sb.spare_identity = "spare";
  CopySurvey& copy = survey.copies[0];
  copy.superblock = sb;
  copy.last_sequence = in.number(2);
  for (std::size_t n = 0; n < kMostMade && !in.empty(); ++n) {
    const auto kind = in.below(3, 1);
    const BlockNo at{in.number(3)};
    if (kind == 0)
      copy.state.entries.push_back({at, in.number(2), in.number(8)});
    else if (kind == 1)
      copy.state.entries.push_back({at, RemapEntry::kNoSlot, in.number(8)});
    else
      copy.state.retired.push_back({at.value});
  }
  survey.copies[1] = copy;
  const SavedMap made{"file", sb, copy.last_sequence, copy.state};
  const bool possible = check_saved(made).ok();
  // Numbers of slots that are not there have no place that could be dumped.
  for (const RemapEntry& e : copy.state.entries)
    if (e.remapped() && !sb.layout.has_slot(e.slot())) return;
  std::stringstream text;
  write_dump("spare", survey, true, [&](std::string_view piece) {
    text << piece;
    return true;
  });
  const auto saved = parse_saved_map(text, "file");
  if (!saved) refused(saved.error());
  require(saved.ok() == possible, "what is possible can be saved, no more");
  if (!saved) return;
  require(saved->state.entries == copy.state.entries &&
              saved->state.retired == copy.state.retired &&
              saved->sequence == copy.last_sequence &&
              saved->superblock.layout == sb.layout &&
              saved->superblock.main_bytes == sb.main_bytes &&
              saved->superblock.uuid == sb.uuid,
          "a dump is read as it was written");
}

}  // namespace

void fuzz_import(ConstBytes input) {
  FuzzInput in(input);
  switch (in.below(4, 1)) {
    case 0:
      return try_mapfile(in);
    case 1:
      return try_badblocks(in);
    case 2:
      return try_dump(in);
    default:
      try_made_dump(in);
  }
}

}  // namespace nbd_remap
