// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/dump_command.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/crc32c.hpp"
#include "plugins/remap/remap_log.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kPieceBytes = 64 << 10;

class Writer {
 public:
  explicit Writer(const TextSink& sink) : sink_(sink) {}

  // "\n  KEY: VALUE", after a comma but for the first.
  void member(const char* key, const nlohmann::ordered_json& value) {
    begin_member(key);
    add(json_text(value, -1));
  }
  void begin_member(const char* key) {
    fmt::format_to(out(), "{}  \"{}\": ", first_ ? "\n" : ",\n", key);
    first_ = false;
  }
  void add(std::string_view text) {
    buffer_.append(text.data(), text.data() + text.size());
  }
  std::back_insert_iterator<fmt::memory_buffer> out() {
    return std::back_inserter(buffer_);
  }
  // False once the sink has given up.
  bool flush(std::size_t unless_under = 0) {
    if (buffer_.size() < unless_under || !good_) return good_;
    good_ = sink_({buffer_.data(), buffer_.size()});
    buffer_.clear();
    return good_;
  }

 private:
  const TextSink& sink_;
  fmt::memory_buffer buffer_;
  bool first_ = true;
  bool good_ = true;
};

// By hand: a million of them as JSON values would need a GiB.
void write_entry(const RemapEntry& e, const Superblock& sb, Writer& writer) {
  const std::uint32_t block_bytes = sb.layout.block_bytes;
  const std::uint64_t offset = e.block.value * block_bytes;
  fmt::format_to(
      writer.out(), R"({{"block":{},"offset":{},"kind":"{}","valid":"{:#x}",)",
      e.block.value, offset, e.remapped() ? "remapped" : "pending", e.valid);
  if (e.remapped())
    fmt::format_to(writer.out(), R"("slot":{},"slot_offset":{},)",
                   e.slot().value, sb.layout.slot(e.slot()).value);
  else
    writer.add(R"("slot":null,"slot_offset":null,)");
  writer.add(R"("unreadable_sectors":[)");
  bool any = false;
  for (const std::uint64_t s : unreadable_sectors(e, sb)) {
    fmt::format_to(writer.out(), "{}{}", any ? "," : "", s);
    any = true;
  }
  writer.add("]}");
}

bool write_entries(const MetadataSurvey& survey, Writer& writer) {
  writer.begin_member("entries");
  writer.add("[");
  bool first = true;
  for (const RemapEntry& e : survey.chosen().state.entries) {
    writer.add(first ? "\n    " : ",\n    ");
    first = false;
    write_entry(e, survey.superblock, writer);
    if (!writer.flush(kPieceBytes)) return false;
  }
  writer.add(first ? "]" : "\n  ]");
  return true;
}

bool write_retired(const MetadataSurvey& survey, Writer& writer) {
  writer.begin_member("retired_slots");
  writer.add("[");
  bool first = true;
  for (SlotNo slot : survey.chosen().state.retired) {
    fmt::format_to(writer.out(), "{}{}", first ? "" : ",", slot.value);
    first = false;
    if (!writer.flush(kPieceBytes)) return false;
  }
  writer.add("]");
  return true;
}

}  // namespace

std::string map_checksum(const MapState& state) {
  return fmt::format("{:#010x}", crc32c(pack_checkpoint_body(state)));
}

std::vector<std::uint64_t> unreadable_sectors(const RemapEntry& e,
                                              const Superblock& sb) {
  std::vector<std::uint64_t> sectors;
  const std::uint32_t in_block = sb.layout.block_bytes / kSectorBytes;
  const std::uint64_t first = e.block.value * in_block;
  const std::uint64_t end =
      std::min(first + in_block, sb.main_bytes / kSectorBytes);
  for (std::uint64_t s = first; s < end; ++s)
    if ((e.valid >> (s - first) & 1) == 0) sectors.push_back(s);
  return sectors;
}

bool write_dump(const std::string& spare_name, const MetadataSurvey& survey,
                bool entries, const TextSink& sink) {
  Writer writer(sink);
  writer.add("{");
  writer.member("schema", kDumpSchema);
  writer.member("spare", spare_name);
  writer.member("superblock", superblock_json(survey.superblock));
  writer.member("layout", layout_json(survey.superblock.layout));
  writer.member("copies", copies_json(survey));
  writer.member("refusal", survey.refusal);
  if (survey.best) {
    const CopySurvey& best = survey.chosen();
    writer.member("believed",
                  *survey.best == CopyIndex::head ? "head" : "tail");
    writer.member("sequence", best.last_sequence);
    writer.member("stopped_in_order", best.closed);
    writer.member("entry_count", best.state.entries.size());
    writer.member("map_crc32c", map_checksum(best.state));
    if (entries &&
        (!write_entries(survey, writer) || !write_retired(survey, writer)))
      return false;
  } else {
    writer.member("believed", nullptr);
  }
  writer.add("\n}\n");
  return writer.flush();
}

Status run_dump(const DumpOptions& options, const TextSink& sink) {
  OpenOptions open;
  open.read_only = true;
  auto spare = open_backend(options.spare, open);
  if (!spare) return std::move(spare).error();
  const auto survey = survey_metadata(**spare);
  if (!survey) return survey.error();
  if (!write_dump((*spare)->info().name, *survey, options.entries, sink))
    return make_error(ErrorClass::caller, EIO,
                      "standard output: cannot be written");
  if (!survey->best)
    return make_error(ErrorClass::caller, EUCLEAN,
                      fmt::format("{}: no copy of the map can be believed: {}",
                                  options.spare, survey->refusal));
  return {};
}

}  // namespace nbd_remap
