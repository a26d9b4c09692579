// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/scan_command.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;

class Scanner {
 public:
  void scan(const std::string& path) {
    std::error_code error;
    if (is_nbd_uri(path) || !fs::is_directory(path, error)) {
      scan_disk(path, true);
      return;
    }
    std::vector<std::string> names;
    fs::directory_iterator entry(path, error);
    for (; !error && entry != fs::directory_iterator();
         entry.increment(error)) {
      std::error_code ignored;  // gone, or a link to nowhere
      const fs::file_status status = entry->status(ignored);
      if (fs::is_regular_file(status) || fs::is_block_file(status))
        names.push_back(entry->path());
    }
    if (error)
      report_.not_scanned.push_back(
          fmt::format("{}: {}", path, error.message()));
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) scan_disk(name, false);
  }

  ScanReport finish() {
    for (ScannedSpare& spare : report_.spares) {
      if (!spare.superblock) continue;
      const auto main = disks_.find(spare.superblock->main_identity);
      if (main != disks_.end()) spare.main_name = main->second;
    }
    return std::move(report_);
  }

 private:
  // named: by the person, and not only found in a folder.
  void scan_disk(const std::string& name, bool named) {
    if (!is_nbd_uri(name) && seen_before(name)) return;
    OpenOptions open;
    open.read_only = true;
    open.exclusive = false;
    auto disk = open_backend(name, open);
    if (!disk) {
      if (named || !is_no_disk(disk.error().errnum))
        report_.not_scanned.push_back(error_words(disk.error()));
      return;
    }
    ++report_.looked_at;
    disks_.emplace(stored_identity((*disk)->info().identity), name);
    const auto may_be = may_be_spare(**disk);
    if (!may_be) {
      report_.not_scanned.push_back(error_words(may_be.error()));
      return;
    }
    if (!*may_be) {
      if (named) report_.not_spares.push_back(name);
      return;
    }
    ScannedSpare spare;
    spare.name = name;
    OpenOptions alone = open;
    alone.exclusive = true;
    disk = Error{};  // closed: its own lock would be in the way
    auto held = open_backend(name, alone);
    if (held) {
      judge_spare(**held, spare);
    } else if (held.error().errnum == EBUSY) {
      spare.in_use = true;
      if (auto again = open_backend(name, open); again)
        spare.superblock = newest_superblock(**again);
    } else {
      report_.not_scanned.push_back(error_words(held.error()));
      return;
    }
    report_.spares.push_back(std::move(spare));
  }

  static void judge_spare(Backend& disk, ScannedSpare& spare) {
    CheckReport check = check_spare(disk);
    spare.verdict = check.verdict;
    spare.reason = std::move(check.reason);
    spare.notes = std::move(check.notes);
    if (!check.survey) return;
    spare.superblock = check.survey->superblock;
    if (check.survey->best)
      spare.counts = count_map(check.survey->chosen().state);
  }

  bool seen_before(const std::string& path) {
    struct stat st {};
    if (::stat(path.c_str(), &st) != 0) return false;
    return S_ISBLK(st.st_mode)
               ? !seen_.emplace(true, st.st_rdev, 0).second
               : !seen_.emplace(false, st.st_dev, st.st_ino).second;
  }

  // Empty, of an odd size, or a drive or device with nothing in it.
  static bool is_no_disk(int errnum) {
    return errnum == EINVAL || errnum == ENOMEDIUM || errnum == ENXIO;
  }

  // One of the two superblocks has its magic, whatever else is wrong with it.
  // Error: neither can be read.
  static Result<bool> may_be_spare(Backend& disk) {
    if (disk.info().size_bytes < 4 * kSuperblockPlaceBytes) return false;
    Status last;
    int read = 0;
    for (CopyIndex c : kCopies) {
      AlignedBuffer block(kSuperblockBytes);
      last =
          disk.read(superblock_place(disk.info().size_bytes, c), block.bytes());
      if (!last) continue;
      ++read;
      const auto sb = unpack_superblock(block.bytes());
      if (sb || sb.error().errnum == EPROTONOSUPPORT ||
          (sb.error().place.find("wrong magic") == std::string::npos &&
           sb.error().place.find("all zero") == std::string::npos))
        return true;
    }
    if (read == 0) return std::move(last).error();
    return false;
  }

  static std::optional<Superblock> newest_superblock(Backend& disk) {
    std::optional<Superblock> newest;
    for (CopyIndex c : kCopies) {
      AlignedBuffer block(kSuperblockBytes);
      if (!disk.read(superblock_place(disk.info().size_bytes, c),
                     block.bytes()))
        continue;
      auto sb = unpack_superblock(block.bytes());
      if (sb && (!newest || sb->sequence > newest->sequence)) newest = *sb;
    }
    return newest;
  }

  ScanReport report_;
  std::set<std::tuple<bool, dev_t, ino_t>> seen_;
  std::map<std::string, std::string> disks_;  // by identity
};

const char* state_word(const ScannedSpare& spare) {
  return spare.in_use ? "in use" : verdict_word(spare.verdict);
}

std::string render_spare(const ScannedSpare& spare) {
  std::string out =
      fmt::format("{}: {}\n", printable(spare.name), state_word(spare));
  if (!spare.reason.empty())
    out += fmt::format("  {}\n", printable(spare.reason));
  for (const std::string& note : spare.notes)
    out += fmt::format("  note: {}\n", printable(note));
  if (!spare.superblock) return out;
  const Superblock& sb = *spare.superblock;
  out += fmt::format("  UUID   {}\n", uuid_text(sb.uuid));
  out += fmt::format("  MAIN   {}, \"{}\"{}{}\n", human_bytes(sb.main_bytes),
                     printable(sb.main_identity),
                     spare.main_name.empty() ? "" : ": ",
                     printable(spare.main_name));
  if (spare.counts)
    out +=
        fmt::format("  Holds  {}, {} pending; {} of {} used, {} retired\n",
                    count_of(spare.counts->remapped, "remapped block"),
                    spare.counts->pending, spare.counts->remapped,
                    count_of(sb.layout.slots, "slot"), spare.counts->retired);
  else
    out +=
        fmt::format("  Has    {} of {} bytes\n",
                    count_of(sb.layout.slots, "slot"), sb.layout.block_bytes);
  return out;
}

nlohmann::ordered_json spare_json(const ScannedSpare& spare) {
  nlohmann::ordered_json j = {
      {"spare", spare.name},
      {"verdict", spare.in_use ? "in-use" : verdict_word(spare.verdict)},
      {"reason", spare.reason},
      {"notes", spare.notes}};
  for (const char* key :
       {"superblock", "main", "slots", "remapped", "pending", "retired"})
    j[key] = nullptr;
  if (spare.superblock) {
    j["superblock"] = superblock_json(*spare.superblock);
    j["slots"] = spare.superblock->layout.slots;
  }
  if (!spare.main_name.empty()) j["main"] = spare.main_name;
  if (spare.counts) {
    j["remapped"] = spare.counts->remapped;
    j["pending"] = spare.counts->pending;
    j["retired"] = spare.counts->retired;
  }
  return j;
}

}  // namespace

ScanReport run_scan(const ScanOptions& options) {
  Scanner scanner;
  for (const std::string& path : options.paths) scanner.scan(path);
  return scanner.finish();
}

Verdict scan_verdict(const ScanReport& report) {
  if (report.spares.empty() || !report.not_scanned.empty())
    return Verdict::unknown;
  Verdict worst = Verdict::sound;
  for (const ScannedSpare& spare : report.spares)
    if (!spare.in_use) worst = std::max(worst, spare.verdict);
  return worst;
}

std::string render_scan(const ScanReport& report, bool json) {
  if (json) {
    nlohmann::ordered_json out = {{"schema", 1},
                                  {"looked_at", report.looked_at},
                                  {"spares", nlohmann::json::array()},
                                  {"not_spares", report.not_spares},
                                  {"not_scanned", report.not_scanned}};
    for (const ScannedSpare& spare : report.spares)
      out["spares"].push_back(spare_json(spare));
    return json_text(out, 2) + "\n";
  }
  std::string out;
  for (const ScannedSpare& spare : report.spares) out += render_spare(spare);
  for (const std::string& name : report.not_spares)
    out += fmt::format("{}: not a SPARE\n", printable(name));
  for (const std::string& words : report.not_scanned)
    out += fmt::format("{} (not looked at)\n", printable(words));
  return out + fmt::format("{}, {} looked at\n",
                           count_of(report.spares.size(), "SPARE"),
                           count_of(report.looked_at, "disk"));
}

}  // namespace nbd_remap
