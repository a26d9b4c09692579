// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_map_words.hpp"

#include <fmt/format.h>

#include <cerrno>

#include "plugins/base/tool_text.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kLargestListBlock = 64 << 10;

Error wrong(const std::string& what) {
  return make_error(ErrorClass::caller, EDESTADDRREQ, what);
}

Result<std::uint64_t> bytes(const char* name, const std::string& word) {
  const auto n = parse_bytes(word);
  if (n) return *n;
  return wrong(fmt::format(
      "{} {}: expected a number of bytes, such as 1048576 or 1M", name, word));
}

}  // namespace

CLI::App* MapWords::add_verb(CLI::App& map, const char* name,
                             const char* words) {
  CLI::App* verb = map.add_subcommand(name, words);
  verb->fallthrough();
  verb->add_option("--volume", volume_,
                   "Its name; may be left out if there is only one");
  return verb;
}

void MapWords::add_range(CLI::App* verb, bool length_needed) {
  verb->add_option("OFFSET", offset_, "A byte of the volume, as 1048576 or 1M")
      ->required(length_needed);
  verb->add_option("LENGTH", length_,
                   length_needed ? "So many bytes"
                                 : "So many bytes; else the block there")
      ->required(length_needed);
}

void MapWords::add_format(CLI::App* verb) {
  verb->add_option("--format", format_, "ddrescue or badblocks")
      ->required()
      ->check(CLI::IsMember({"ddrescue", "badblocks"}));
  verb->add_option("--block-size", block_size_,
                   "Of a list of badblocks (default 1024)");
}

void MapWords::add_to(CLI::App& map) {
  explain_ = add_verb(map, "explain", "Where a byte lives, and why");
  explain_->add_option("OFFSET", offset_, "A byte of the volume")->required();
  remap_ = add_verb(map, "remap", "Copy blocks to SPARE, and use them there");
  add_range(remap_, false);
  unmap_ = add_verb(map, "unmap", "Copy blocks back to MAIN");
  add_range(unmap_, false);
  retest_ = add_verb(map, "retest", "Read pending blocks again");
  add_range(retest_, false);
  retest_->add_flag("--all", all_, "Those of the whole volume");
  clear_ = add_verb(map, "clear", "Write zeroes where data is lost");
  add_range(clear_, true);
  clear_->add_flag("--yes-lose-data", yes_, "Say that you mean it");
  export_ = add_verb(map, "export", "What cannot be read, as other tools say");
  add_format(export_);
  export_
      ->add_option("--of", of_,
                   "volume, or main: then remapped blocks count as bad "
                   "(default volume)")
      ->check(CLI::IsMember({"volume", "main"}));
  import_ = add_verb(map, "import", "Act on what another tool found bad");
  import_->add_option("FILE", file_, "A mapfile or list")->required();
  add_format(import_);
  import_->add_flag("--dry-run", dry_run_, "Say what would be done");
}

bool MapWords::parsed() const {
  for (const CLI::App* verb :
       {explain_, remap_, unmap_, retest_, clear_, export_, import_})
    if (verb->parsed()) return true;
  return false;
}

Result<MapAnswer> MapWords::act(const ControlClient& client,
                                const Progress& progress) const {
  const char* action = remap_->parsed()    ? "remap"
                       : unmap_->parsed()  ? "unmap"
                       : retest_->parsed() ? "retest"
                                           : "clear";
  if (all_ && !offset_.empty())
    return wrong("OFFSET and --all: expected one of them");
  if (all_) {
    const auto name = client.volume_name(volume_);
    return name ? map_retest_all(client, *name, progress)
                : Result<MapAnswer>(name.error());
  }
  if (offset_.empty())
    return wrong(
        fmt::format("OFFSET is missing{}",
                    retest_->parsed() ? "; expected it, or --all" : ""));
  const auto offset = bytes("OFFSET", offset_);
  if (!offset) return offset.error();
  std::optional<std::uint64_t> length;
  if (!length_.empty()) {
    const auto given = bytes("LENGTH", length_);
    if (!given) return given.error();
    if (*given == 0) return wrong("LENGTH 0: expected at least one byte");
    length = *given;
  }
  if (clear_->parsed() && !yes_)
    return wrong(
        "clear gives up what cannot be read now; if the data is restored or "
        "not needed, say --yes-lose-data");
  const auto name = client.volume_name(volume_);
  if (!name) return name.error();
  return map_act(client, *name, action, *offset, length, progress);
}

Result<MapAnswer> MapWords::run(const ControlClient& client,
                                const Progress& progress) const {
  const bool ddrescue = format_ == "ddrescue";
  std::uint32_t block = 1024;
  if (!block_size_.empty()) {
    const auto n = parse_bytes(block_size_);
    if (ddrescue)
      return wrong(
          "--block-size: a mapfile is in bytes; expected it with "
          "--format=badblocks only");
    if (!n || !is_power_of_two(*n) || *n < kSectorBytes ||
        *n > kLargestListBlock)
      return wrong(
          fmt::format("--block-size={}: expected a power of two from "
                      "512 to 65536",
                      block_size_));
    block = static_cast<std::uint32_t>(*n);
  }
  std::uint64_t at = 0;
  if (explain_->parsed()) {
    const auto offset = bytes("OFFSET", offset_);
    if (!offset) return offset.error();
    at = *offset;
  }
  if (!explain_->parsed() && !export_->parsed() && !import_->parsed())
    return act(client, progress);
  const auto name = client.volume_name(volume_);
  if (!name) return name.error();
  if (explain_->parsed()) return map_explain(client, *name, at);
  const ListFormat format =
      ddrescue ? ListFormat::ddrescue : ListFormat::badblocks;
  if (export_->parsed())
    return map_export(client, *name, {format, block, of_ == "main"});
  return map_import(client, *name, {file_, format, block, dry_run_}, progress);
}

}  // namespace nbd_remap
