// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_seed.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "plugins/base/units.hpp"
#include "server/answer_fields.hpp"
#include "server/disk_place.hpp"
#include "server/smart_report.hpp"
#include "server/smart_run.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them
using nlohmann::json;

using std::chrono::steady_clock;

constexpr std::size_t kRangesShown = 10;
// In one request; a scan takes up to 2,048 in all.
constexpr std::size_t kPartsAtOnce = 1000;
// Without a place more that was read: clients may keep the scan waiting.
constexpr std::chrono::seconds kPatience{30};
constexpr std::chrono::milliseconds kLookAgain{100};

Error usage(const std::string& words) {
  return make_error(ErrorClass::caller, EDESTADDRREQ, words);
}

struct SeededVolume {
  std::uint64_t size = 0;
  std::uint64_t block = 0;
  std::string main;
  bool remote = false;
};
Result<SeededVolume> seeded_volume(const ControlClient& client,
                                   const std::string& name) {
  const auto volume = client.volume(name);
  if (!volume) return volume.error();
  return render([&] {
    const json& main = field(*volume, "main");
    SeededVolume shape{number(*volume, "size"), number(*volume, "block_size"),
                       "", flag(main, "remote")};
    if (!is_power_of_two(shape.block) || shape.block < kSectorBytes ||
        shape.block > kMaxBlockBytes)
      throw Misfit("\"block_size\" is no size");
    (void)text(main, "name");
    shape.main = main["name"].get<std::string>();
    return shape;
  });
}

constexpr const char* kSayOffset =
    "; say where MAIN begins on the disk as --offset-of-partition=BYTES, 0 if "
    "it is all of it";

// Where MAIN begins on its disk, which must be the one that was asked.
Result<std::uint64_t> partition_start(const SeedRequest& what,
                                      const SeededVolume& shape) {
  if (what.partition != "auto") {
    const auto bytes = parse_bytes(what.partition);
    if (bytes && *bytes % kSectorBytes == 0) return *bytes;
    return usage(
        fmt::format("--offset-of-partition={}: expected auto, or a "
                    "number of bytes in whole sectors of 512",
                    what.partition));
  }
  if (shape.remote)
    return usage(fmt::format("MAIN is remote ({}){}", shape.main, kSayOffset));
  auto main = place_on_disk(shape.main, what.sysfs);
  if (!main)
    return usage(fmt::format("MAIN {}{}", main.error().place, kSayOffset));
  if (what.device.empty()) return main->start_bytes;
  const auto asked = place_on_disk(what.device, what.sysfs);
  // A controller (/dev/nvme0) is no block device: taken at its word.
  if (asked && asked->disk != main->disk)
    return usage(fmt::format("--device={}: MAIN ({}) is not on this disk{}",
                             what.device, shape.main, kSayOffset));
  return main->start_bytes;
}

json ranges_json(const std::vector<ByteRange>& ranges) {
  json out = json::array();
  for (const ByteRange& r : ranges)
    out.push_back({{"offset", r.offset}, {"length", r.length}});
  return out;
}

struct Found {
  std::uint64_t blocks = 0;   // of places that were read
  std::uint64_t pending = 0;  // of them, now
  std::uint64_t remapped = 0;
  std::uint64_t left = 0;  // places that are still to be read
  std::string waits;       // why, in the server's words
};

// What the server's scan has still to read of what it was given. waits: why it
// does not get on.
Result<std::uint64_t> seeds_left(const json& scan, std::string& waits) {
  return render([&] {
    const std::string state = text(scan, "state");
    const json& trouble = field(scan, "trouble");
    if (state == "paused") waits = "the scan is paused";
    if (!trouble.is_null()) waits = text_of(trouble, "trouble");
    return state == "stopped" ? 0 : number(scan, "seeds_left");
  });
}

// Has the server's scan read each place before all else, and waits for it as
// long as it gets on.
Status read_first(const ControlClient& client, const std::string& name,
                  const std::vector<ByteRange>& ranges, Found& found,
                  const Progress& progress) {
  for (std::size_t done = 0; done < ranges.size();) {
    const std::size_t n = std::min(kPartsAtOnce, ranges.size() - done);
    const auto from = ranges.begin() + static_cast<std::ptrdiff_t>(done);
    auto scan = client.scan_first(
        name, ranges_json({from, from + static_cast<std::ptrdiff_t>(n)}));
    auto moved = steady_clock::now();
    for (std::uint64_t before = n;;) {
      if (!scan) return std::move(scan).error();
      const auto left = seeds_left(*scan, found.waits);
      if (!left) return left.error();
      if (*left < before) moved = steady_clock::now();
      before = std::min(before, *left);
      progress(fmt::format("{} of {} read", done + n - before,
                           count_of(ranges.size(), "place")));
      if (*left == 0) break;
      if (!found.waits.empty() || steady_clock::now() - moved > kPatience) {
        found.left = ranges.size() - done - n + before;
        return {};
      }
      std::this_thread::sleep_for(kLookAgain);
      scan = client.of_volume(name, "GET", "/scan");
    }
    done += n;
  }
  return {};
}

// What the map says of these places.
Status look_at_map(const ControlClient& client, const std::string& name,
                   std::vector<ByteRange> ranges, std::uint64_t block,
                   Found& found) {
  std::sort(ranges.begin(), ranges.end(),
            [](const ByteRange& a, const ByteRange& b) {
              return a.offset < b.offset;
            });
  for (const ByteRange& range : ranges)
    found.blocks += (range.length + block - 1) / block;
  auto at = ranges.begin();
  return client.each_entry(name, [&](const json& entry) -> Status {
    const auto seen = render([&] {
      const std::uint64_t offset = number(entry, "offset");
      while (at != ranges.end() && at->offset + at->length <= offset) ++at;
      if (at != ranges.end() && at->offset <= offset)
        ++(text(entry, "state") == "remapped" ? found.remapped : found.pending);
      return true;
    });
    return seen ? Status() : Status(seen.error());
  });
}

std::string places_text(const SmartReport& report, const SmartSeeds& seeds,
                        bool dry_run) {
  std::string out;
  if (report.lbas.empty())
    return report.pending.value_or(0) == 0
               ? "It names no bad places.\n"
               : "It does not say where they are; a whole scan finds them.\n";
  out += fmt::format(
      "It names {}, {} of them on the volume{}.\n",
      count_of(report.lbas.size(), "sector"),
      report.lbas.size() - seeds.outside,
      report.more_lbas == 0
          ? ""
          : fmt::format(" ({} more are left out)", report.more_lbas));
  if (!dry_run) return out;
  for (std::size_t i = 0; i < seeds.ranges.size(); ++i) {
    if (i == kRangesShown) {
      out += fmt::format("  and {} more\n", seeds.ranges.size() - i);
      break;
    }
    out += fmt::format("  would read {} bytes at {}\n", seeds.ranges[i].length,
                       seeds.ranges[i].offset);
  }
  return out;
}

}  // namespace

Result<MapAnswer> scan_seed(const ControlClient& client,
                            const std::string& name, const SeedRequest& what,
                            const Progress& progress) {
  if (what.device.empty() == what.smart_json.empty())
    return usage("expected one of --device=DISK and --smart-json=FILE");
  const auto shape = seeded_volume(client, name);
  if (!shape) return shape.error();
  const auto first = partition_start(what, *shape);
  if (!first) return first.error();
  const auto said = what.device.empty() ? read_smart_file(what.smart_json)
                                        : run_smartctl(what.device);
  if (!said) return said.error();
  const auto report =
      parse_smart(*said, what.device.empty() ? what.smart_json : what.device);
  if (!report) return report.error();
  if (report->block_bytes == 0 && !report->lbas.empty())
    return make_error(ErrorClass::caller, EINVAL,
                      "smartctl names bad places, but not the size of the "
                      "disk's blocks (logical_block_size)");
  SmartSeeds seeds;
  if (!report->lbas.empty())
    seeds = place_seeds(*report, *first, shape->size, shape->block);

  Found found;
  if (!what.dry_run) {
    if (const auto noted = client.note_smart(name, smart_counts_json(*report));
        !noted)
      return noted.error();
    Status all = read_first(client, name, seeds.ranges, found, progress);
    if (all && !seeds.ranges.empty())
      all = look_at_map(client, name, seeds.ranges, shape->block, found);
    if (!all) return all.error();
  }
  MapAnswer answer;
  answer.json = {{"schema", 1},
                 {"dry_run", what.dry_run},
                 {"smart", smart_counts_json(*report)},
                 {"partition_offset", *first},
                 {"places", report->lbas.size()},
                 {"outside", seeds.outside},
                 {"left_out", report->more_lbas},
                 {"seeds", ranges_json(seeds.ranges)}};
  answer.text =
      fmt::format("{}: {}\n{}", printable(report->model), smart_words(*report),
                  places_text(*report, seeds, what.dry_run));
  if (what.dry_run) return answer;
  answer.json["found"] = {{"blocks", found.blocks},
                          {"pending", found.pending},
                          {"remapped", found.remapped},
                          {"places_left", found.left}};
  if (!seeds.ranges.empty())
    answer.text += fmt::format("{} there: {} pending, {} remapped.\n",
                               count_of(found.blocks, "block"), found.pending,
                               found.remapped);
  if (found.left != 0)
    answer.text += fmt::format(
        "{} still to be read{}; what of them the server was given its scan "
        "reads next (scan status).\n",
        count_of(found.left, "place"),
        found.waits.empty() ? "" : ": " + printable(found.waits));
  return answer;
}

}  // namespace nbd_remap
