// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_map_text.hpp"

#include <fmt/format.h>

#include <ctime>

#include "plugins/base/tool_text.hpp"
#include "server/answer_fields.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them
using nlohmann::json;

constexpr std::uint64_t kUsualBlock = 4096;  // of ext4

std::string utc(std::uint64_t unix_seconds) {
  const auto t = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  std::array<char, 40> out{};
  if (!gmtime_r(&t, &parts) ||
      std::strftime(out.data(), out.size(), "%Y-%m-%d %H:%M:%S UTC", &parts) ==
          0)
    return fmt::format("second {}", unix_seconds);
  return out.data();
}

std::string event_line(const json& e) {
  const json& slot = field(e, "slot");
  const json& error = field(e, "error");
  return fmt::format(
      "  {}  {}{}: {}{}\n", utc(number(e, "time")), text(e, "event"),
      slot.is_null() ? "" : fmt::format(", slot {}", number_of(slot, "slot")),
      text(e, "reason"),
      error.is_null() ? "" : fmt::format(" ({})", text_of(error, "error")));
}

std::string history_lines(const json& answer) {
  const json& history = field(answer, "history");
  std::string out =
      fmt::format("History since {}", utc(number(history, "since")));
  out += number(history, "forgotten") == 0
             ? ", when the server started; what was before is not known:\n"
             : "; older events are forgotten:\n";
  const json& events = list(history, "events");
  for (const json& e : events) out += event_line(e);
  return out + (events.empty() ? "  nothing happened to this block\n" : "");
}

std::string sectors_line(const json& answer) {
  std::string out;
  for (const json& s : list(answer, "unreadable_sectors"))
    out += fmt::format("{}{}", out.empty() ? "" : " ", number_of(s, "sector"));
  return out.empty()
             ? "All of its sectors have data.\n"
             : fmt::format("Sectors of 512 bytes without data: {}\n", out);
}

}  // namespace

nlohmann::ordered_json file_commands(std::uint64_t offset) {
  const std::uint64_t sector = offset / 512;
  return {
      {"ext4",
       {fmt::format("debugfs -R \"icheck {}\" DEVICE", offset / kUsualBlock),
        "debugfs -R \"ncheck INODE\" DEVICE"}},
      {"xfs",
       {fmt::format("xfs_db -r -c \"blockget -n\" -c \"daddr {}\" "
                    "-c \"blockuse -n\" DEVICE",
                    sector),
        fmt::format("xfs_io -r -c \"fsmap -d {0} {0}\" MOUNTPOINT", sector)}},
      {"ntfs", {fmt::format("ntfscluster -s {0}-{0} DEVICE", sector)}}};
}

Result<std::string> render_explain(const json& answer) {
  return render([&] {
    const std::uint64_t offset = number(answer, "offset");
    std::string out =
        fmt::format("Byte {} is in block {} (of {} bytes), which is {}.\n",
                    offset, number(answer, "block"),
                    number(answer, "block_size"), text(answer, "state"));
    const json& slot = field(answer, "slot");
    if (!slot.is_null())
      out += fmt::format("The block lives in slot {}, at byte {} of SPARE.\n",
                         number(slot, "number"), number(slot, "spare_offset"));
    const json& place = field(answer, "place");
    out += place.is_null()
               ? std::string(
                     "The byte has no data: reading it fails until it "
                     "is written.\n")
               : fmt::format("The byte is at {} on {} ({}).\n",
                             number(place, "offset"), text(place, "disk"),
                             text(place, "name"));
    out += sectors_line(answer) + history_lines(answer);
    const auto commands = file_commands(offset);
    out += fmt::format(
        "\nWhich file is it? If a file system begins at byte 0 of the volume, "
        "with DEVICE\nas the volume's device, not mounted but for xfs_io:\n");
    for (const auto& [system, lines] : commands.items())
      for (const auto& line : lines)
        out += fmt::format("  {:<5} {}\n", system, line.get<std::string>());
    out += fmt::format(
        "ext4: {0} = {1} / {2}; if `dumpe2fs -h` shows another block size, "
        "divide by that.\n"
        "A partition: subtract its start first (START of `lsblk -o NAME,START` "
        "times 512)\nfrom {1}, and name the partition's device.\n",
        offset / kUsualBlock, offset, kUsualBlock);
    return out;
  });
}

std::string render_action(const json& totals) {
  const json& c = totals["counts"];
  const auto n = [&](const char* key) { return c[key].get<std::uint64_t>(); };
  std::string out =
      fmt::format("{} looked at", count_of(n("looked_at"), "block"));
  const auto add = [&](const char* key, const char* words) {
    if (n(key) != 0) out += fmt::format(", {} {}", n(key), words);
  };
  add("remapped", "remapped");
  add("already", "remapped before");
  add("unmapped", "back on MAIN");
  add("incomplete", "not copied back, as sectors have no data");
  add("main_bad", "not copied back, as MAIN cannot hold them");
  add("readable", "readable again");
  add("cleared_sectors", "sectors cleared");
  add("pending", "pending");
  out += "\n";
  if (!totals["error"].is_null())
    out += fmt::format("Stopped at byte {}: {}\n",
                       totals["stopped_at"].get<std::uint64_t>(),
                       printable(totals["error"].get<std::string>()));
  return out;
}

}  // namespace nbd_remap
