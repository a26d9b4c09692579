// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/format_command.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "plugins/backend/nbd_uri.hpp"
#include "plugins/backend/open_backend.hpp"
#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/clock.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/remap/spare_format.hpp"

namespace nbd_remap {
namespace {

// Before they are opened: the second open of one disk would only say that it
// is in use.
bool same_disk(const std::string& a, const std::string& b) {
  if (a == b) return true;
  if (is_nbd_uri(a) && is_nbd_uri(b)) return same_nbd_export(a, b);
  struct stat sa {};
  struct stat sb {};
  if (is_nbd_uri(a) || is_nbd_uri(b) || ::stat(a.c_str(), &sa) != 0 ||
      ::stat(b.c_str(), &sb) != 0)
    return false;
  if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
    return sa.st_rdev == sb.st_rdev;
  return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

// A MAIN that is a SPARE is a mistake of the command line: the two swapped, or
// the wrong disk.
Status refuse_spare_as_main(Backend& main) {
  if (main.info().size_bytes < 2 * kSuperblockPlaceBytes) return {};
  AlignedBuffer place(kSuperblockPlaceBytes);
  if (!main.read(superblock_place(main.info().size_bytes, CopyIndex::head),
                 place.bytes()))
    return {};  // a bad sector: what MAIN may have
  const auto sb = unpack_superblock(place.bytes());
  if (!sb) return {};
  return make_error(ErrorClass::caller, EEXIST,
                    fmt::format("{}: is itself a SPARE, {}; it cannot be the "
                                "MAIN of another",
                                main.info().name, uuid_text(sb->uuid)));
}

Result<FormatReport> format(const FormatOptions& options) {
  if (same_disk(options.main, options.spare))
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: SPARE and MAIN are the same disk", options.spare));
  OpenOptions open;
  open.read_only = true;
  auto main = open_backend(options.main, open);
  if (!main) return std::move(main).error();
  open.read_only = false;
  auto spare = open_backend(options.spare, open);
  if (!spare) return std::move(spare).error();
  if (Status status = refuse_spare_as_main(**main); !status)
    return std::move(status).error();
  const bool is_path = !is_nbd_uri(options.spare);
  std::vector<Signature> signatures;
  if (is_path) {
    auto found = find_signatures(options.spare);
    if (!found) return std::move(found).error();
    signatures = std::move(*found);
  }
  auto replace =
      match_replace((*spare)->info().name, signatures, options.replace);
  if (!replace) return std::move(replace).error();

  FormatRequest request;
  request.block_bytes = options.block_bytes;
  request.replace = *replace;
  request.now_unix_seconds = SystemClock().unix_seconds();
  auto superblock = format_spare(**spare, **main, request);
  if (!superblock) return std::move(superblock).error();
  if (!signatures.empty()) {
    Status status = wipe_signatures(options.spare, **spare, superblock->layout);
    if (!status) return std::move(status).error();
  }
  FormatReport report;
  report.main_name = (*main)->info().name;
  report.spare_name = (*spare)->info().name;
  report.spare_direct = (*spare)->info().direct;
  report.superblock = std::move(*superblock);
  return report;
}

}  // namespace

Result<std::optional<Uuid>> match_replace(
    const std::string& spare_name, const std::vector<Signature>& found,
    const std::vector<std::string>& replace) {
  std::string kept;
  std::string words;
  for (const Signature& s : found) {
    if (std::any_of(replace.begin(), replace.end(),
                    [&](const std::string& w) { return s.is_named(w); }))
      continue;
    kept += fmt::format("{}{}{}{}", kept.empty() ? "" : " and ", s.type,
                        s.uuid.empty() ? "" : " ", s.uuid);
    words += fmt::format(" --replace={}", s.name());
  }
  if (!kept.empty())
    return make_error(ErrorClass::caller, EEXIST,
                      fmt::format("{}: holds {}; to destroy it, type{}",
                                  spare_name, kept, words));
  std::optional<Uuid> left_over;
  for (const std::string& word : replace) {
    if (std::any_of(found.begin(), found.end(),
                    [&](const Signature& s) { return s.is_named(word); }))
      continue;
    const auto uuid = parse_uuid(word);
    if (!uuid || (left_over && *left_over != *uuid))
      return make_error(ErrorClass::caller, EINVAL,
                        fmt::format("{}: holds nothing called {} to replace",
                                    spare_name, word));
    left_over = uuid;
  }
  return left_over;
}

std::string render_format(const FormatReport& report, bool json) {
  const Superblock& sb = report.superblock;
  const Layout& layout = sb.layout;
  const std::uint64_t capacity = layout.slots * layout.block_bytes;
  if (json) {
    const nlohmann::ordered_json out = {
        {"schema", 1},
        {"uuid", uuid_text(sb.uuid)},
        {"block_size", layout.block_bytes},
        {"slots", layout.slots},
        {"capacity", capacity},
        {"pending_capacity", layout.pending_capacity()},
        {"main",
         {{"name", report.main_name},
          {"size", sb.main_bytes},
          {"identity", sb.main_identity}}},
        {"spare",
         {{"name", report.spare_name},
          {"size", layout.spare_bytes},
          {"identity", sb.spare_identity},
          {"direct", report.spare_direct}}}};
    return out.dump(2, ' ', true,
                    nlohmann::ordered_json::error_handler_t::replace) +
           "\n";
  }
  return fmt::format(
      "{} is now the SPARE of {}.\n"
      "UUID        {}\n"
      "Block size  {}\n"
      "Capacity    {}: {} of {} bytes\n"
      "Of MAIN     {} of {}\n"
      "Map         {} of SPARE's {}\n",
      printable(report.spare_name), printable(report.main_name),
      uuid_text(sb.uuid), human_bytes(layout.block_bytes),
      human_bytes(capacity), count_of(layout.slots, "slot"), layout.block_bytes,
      percent_of(capacity, sb.main_bytes), human_bytes(sb.main_bytes),
      human_bytes(layout.spare_bytes - capacity),
      human_bytes(layout.spare_bytes));
}

Result<std::string> run_format(const FormatOptions& options) {
  const auto report = format(options);
  if (!report) return report.error();
  return render_format(*report, options.json);
}

}  // namespace nbd_remap
