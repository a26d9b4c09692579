// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_map.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "plugins/base/unique_fd.hpp"
#include "plugins/base/units.hpp"
#include "server/answer_fields.hpp"
#include "server/ctl_map_text.hpp"
#include "server/ctl_render.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them
using nlohmann::json;

constexpr std::array kCounts{"looked_at", "remapped",        "already",
                             "unmapped",  "incomplete",      "main_bad",
                             "readable",  "cleared_sectors", "pending"};

constexpr std::size_t kReadBytes = 1 << 20;
constexpr std::uint64_t kMaxFileBytes = 256 << 20;

json new_totals(const std::string& action) {
  json totals{{"schema", 1},
              {"action", action},
              {"counts", json::object()},
              {"error", nullptr},
              {"stopped_at", nullptr}};
  for (const char* key : kCounts) totals["counts"][key] = 0U;
  return totals;
}

// All steps of one action over one range. False: the server stopped, totals
// say why.
Result<bool> run_range(const ControlClient& client, const std::string& name,
                       const std::string& action, const ByteRange& range,
                       json& totals,
                       const std::function<void(std::uint64_t)>& at) {
  const std::uint64_t end = range.offset + range.length;
  for (std::uint64_t next = range.offset; next < end;) {
    const auto step = client.step(name, action, next, end - next);
    if (!step) return step.error();
    auto went = render([&] {
      const json& counts = field(*step, "counts");
      for (const char* key : kCounts)
        totals["counts"][key] =
            totals["counts"][key].get<std::uint64_t>() + number(counts, key);
      const json& more = field(*step, "next");
      const std::uint64_t to = more.is_null() ? end : number_of(more, "next");
      const json& error = field(*step, "error");
      if (!error.is_null()) {
        (void)text_of(error, "error");
        totals["error"] = error;
        totals["stopped_at"] = to;
        return false;
      }
      if (to <= next || to > end) throw Misfit("\"next\" does not get on");
      next = to;
      return true;
    });
    if (!went || !*went) return went;
    if (at) at(next);
  }
  return true;
}

MapAnswer action_answer(json totals) {
  MapAnswer answer;
  const json& counts = totals["counts"];
  if (!totals["error"].is_null() || counts["incomplete"] != 0U ||
      counts["main_bad"] != 0U)
    answer.status = ExitStatus::failed;
  answer.text = render_action(totals);
  answer.json = std::move(totals);
  return answer;
}

Result<MapAnswer> act_on(const ControlClient& client, const std::string& name,
                         const std::string& action, const ByteRange& range,
                         const Progress& progress) {
  json totals = new_totals(action);
  const auto went =
      run_range(client, name, action, range, totals, [&](std::uint64_t next) {
        progress(fmt::format("{}: {} of {} bytes done", action,
                             next - range.offset, range.length));
      });
  if (!went) return went.error();
  return action_answer(std::move(totals));
}

struct Shape {
  std::uint64_t size = 0;
  std::uint64_t block = 0;
  std::uint64_t free_slots = 0;
};
Result<Shape> shape_of(const ControlClient& client, const std::string& name) {
  const auto volume = client.volume(name);
  if (!volume) return volume.error();
  return render([&] {
    Shape shape{number(*volume, "size"), number(*volume, "block_size"), 0};
    if (!is_power_of_two(shape.block) || shape.block < kSectorBytes ||
        shape.block > kMaxBlockBytes)
      throw Misfit("\"block_size\" is no size");
    const json& spare = field(*volume, "spare");
    if (spare.is_null()) return shape;
    const std::uint64_t gone = number(spare, "used") + number(spare, "retired");
    shape.free_slots =
        number(spare, "slots") - std::min(number(spare, "slots"), gone);
    return shape;
  });
}

// The areas of an entry that cannot be read: on the volume, or on MAIN.
std::vector<ByteRange> bad_of(const json& entry, const Shape& shape,
                              bool of_main) {
  std::vector<ByteRange> out;
  const std::uint64_t block = number(entry, "block");
  if (block >= (shape.size + shape.block - 1) / shape.block)
    throw Misfit("\"block\" is out of range");
  const std::uint64_t start = block * shape.block;
  const std::uint64_t end = std::min(start + shape.block, shape.size);
  if (of_main && text(entry, "state") == "remapped")
    return {{start, end - start}};
  std::uint64_t least = start / kSectorBytes;
  for (const json& s : list(entry, "unreadable_sectors")) {
    const std::uint64_t sector = number_of(s, "sector");
    if (sector < least || sector >= (end + kSectorBytes - 1) / kSectorBytes)
      throw Misfit("\"unreadable_sectors\" is out of range");
    least = sector + 1;
    append_range(out, {sector * kSectorBytes, kSectorBytes});
  }
  return out;
}

// In whole blocks of the volume, so that each is asked for once.
std::vector<ByteRange> in_blocks(const std::vector<ByteRange>& ranges,
                                 const Shape& shape) {
  std::vector<ByteRange> out;
  std::uint64_t done = 0;
  for (const ByteRange& r : ranges) {
    const std::uint64_t from =
        std::max(done, round_down(r.offset, shape.block));
    const std::uint64_t to =
        std::min(shape.size, round_up(r.offset + r.length, shape.block));
    if (to > from) append_range(out, {from, to - from});
    done = std::max(done, to);
  }
  return out;
}

std::uint64_t blocks_of(const std::vector<ByteRange>& ranges,
                        const Shape& shape) {
  std::uint64_t n = 0;
  for (const ByteRange& r : ranges)
    n += (r.length + shape.block - 1) / shape.block;
  return n;
}

// Whether a block lies in one of the ranges. at: goes up with the blocks.
bool holds(const std::vector<ByteRange>& ranges, std::size_t& at,
           std::uint64_t offset) {
  while (at < ranges.size() && ranges[at].offset + ranges[at].length <= offset)
    ++at;
  return at < ranges.size() && ranges[at].offset <= offset;
}

}  // namespace

Result<MapAnswer> map_explain(const ControlClient& client,
                              const std::string& name, std::uint64_t offset) {
  auto answer = client.explain(name, offset);
  if (!answer) return std::move(answer).error();
  auto text = render_explain(*answer);
  if (!text) return std::move(text).error();
  (*answer)["file_commands"] = file_commands(offset);
  return MapAnswer{std::move(*answer), std::move(*text), ExitStatus::fine};
}

Result<MapAnswer> map_act(const ControlClient& client, const std::string& name,
                          const std::string& action, std::uint64_t offset,
                          std::optional<std::uint64_t> length,
                          const Progress& progress) {
  if (!length) {
    const auto shape = shape_of(client, name);
    if (!shape) return shape.error();
    if (offset >= shape->size)
      return make_error(
          ErrorClass::caller, EDESTADDRREQ,
          fmt::format("OFFSET {}: expected a byte of the volume, below {}",
                      offset, shape->size));
    offset = round_down(offset, shape->block);
    length = std::min(shape->block, shape->size - offset);
  }
  if (!checked_add(offset, *length))
    return make_error(ErrorClass::caller, EDESTADDRREQ,
                      "OFFSET and LENGTH together are beyond any volume");
  return act_on(client, name, action, {offset, *length}, progress);
}

Result<MapAnswer> map_retest_all(const ControlClient& client,
                                 const std::string& name,
                                 const Progress& progress) {
  const auto shape = shape_of(client, name);
  if (!shape) return shape.error();
  return act_on(client, name, "retest", {0, shape->size}, progress);
}

Result<MapAnswer> map_export(const ControlClient& client,
                             const std::string& name, const MapExport& what) {
  const auto shape = shape_of(client, name);
  if (!shape) return shape.error();
  std::vector<ByteRange> bad;
  const Status all = client.each_entry(name, [&](const json& entry) -> Status {
    const auto areas =
        render([&] { return bad_of(entry, *shape, what.of_main); });
    if (!areas) return areas.error();
    for (const ByteRange& area : *areas) {
      if (!bad.empty() && area.offset < bad.back().offset + bad.back().length)
        return make_error(ErrorClass::caller, EPROTO,
                          "the server's answer is not understood: the blocks "
                          "are not in order");
      append_range(bad, area);
    }
    return {};
  });
  if (!all) return all.error();
  MapAnswer answer;
  answer.text =
      what.format == ListFormat::ddrescue
          ? render_mapfile(
                bad, shape->size,
                fmt::format("Created by nbd-remapctl, {} {}",
                            what.of_main ? "MAIN of volume" : "volume",
                            printable(name)))
          : render_badblocks(bad, what.block_bytes);
  json areas = json::array();
  for (const ByteRange& r : bad)
    areas.push_back({{"offset", r.offset}, {"length", r.length}});
  answer.json = {{"schema", 1},
                 {"of", what.of_main ? "main" : "volume"},
                 {"size", shape->size},
                 {"bad", std::move(areas)}};
  return answer;
}

namespace {

// Regular files and pipes; never more than a list can be.
Result<std::string> read_text_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto failed = [&](int errnum) {
    return make_error(ErrorClass::caller, errnum,
                      fmt::format("{}: cannot be read: {}", path,
                                  std::generic_category().message(errnum)));
  };
  if (!fd) return failed(errno);
  std::string text;
  for (;;) {
    const std::size_t had = text.size();
    text.resize(had + kReadBytes);
    const ssize_t n = ::read(fd.get(), text.data() + had, kReadBytes);
    if (n < 0) return failed(errno);
    text.resize(had + static_cast<std::size_t>(n));
    if (n == 0) return text;
    if (text.size() > kMaxFileBytes)
      return make_error(ErrorClass::caller, EFBIG,
                        fmt::format("{}: longer than {}; expected a mapfile or "
                                    "a list of blocks",
                                    path, human_bytes(kMaxFileBytes)));
  }
}

Result<BadAreas> read_list(const MapImport& what, std::uint64_t size) {
  auto file = read_text_file(what.file);
  if (!file) return std::move(file).error();
  auto areas = what.format == ListFormat::ddrescue
                   ? parse_mapfile(*file, size)
                   : parse_badblocks(*file, size, what.block_bytes);
  if (!areas) areas.error().place = what.file + ": " + areas.error().place;
  return areas;
}

Result<MapAnswer> rehearse(const ControlClient& client, const std::string& name,
                           const Shape& shape,
                           const std::vector<ByteRange>& bad,
                           const std::vector<ByteRange>& suspect) {
  std::uint64_t already = 0;
  std::uint64_t suspect_already = 0;
  std::uint64_t pending = 0;
  std::size_t at_bad = 0;
  std::size_t at_suspect = 0;
  const Status all = client.each_entry(name, [&](const json& entry) -> Status {
    const auto seen = render([&] {
      const std::uint64_t offset = number(entry, "offset");
      const bool remapped = text(entry, "state") == "remapped";
      if (holds(bad, at_bad, offset)) (remapped ? already : pending) += 1;
      if (holds(suspect, at_suspect, offset) && remapped) ++suspect_already;
      return true;
    });
    return seen ? Status() : Status(seen.error());
  });
  if (!all) return all.error();
  const std::uint64_t listed = blocks_of(bad, shape);
  const std::uint64_t copy = listed - std::min(listed, already);
  const std::uint64_t read = blocks_of(suspect, shape);
  const std::uint64_t check = read - std::min(read, suspect_already);
  MapAnswer answer;
  answer.json = {{"schema", 1},
                 {"action", "import"},
                 {"dry_run", true},
                 {"to_remap", copy},
                 {"of_them_pending", pending},
                 {"already", already},
                 {"to_check", check},
                 {"free_slots", shape.free_slots}};
  answer.text = fmt::format(
      "Would remap {} as far as {} can be read ({} pending now), leave {} "
      "that {} remapped,\nand read {} to check {}. {} free on SPARE.\n",
      count_of(copy, "block"), copy == 1 ? "it" : "they", pending,
      count_of(already, "block"), already == 1 ? "is" : "are",
      count_of(check, "block"), check == 1 ? "it" : "them",
      count_of(shape.free_slots, "slot"));
  if (copy > shape.free_slots) {
    answer.text += "Not all of them fit on SPARE.\n";
    answer.status = ExitStatus::failed;
  }
  return answer;
}

}  // namespace

Result<MapAnswer> map_import(const ControlClient& client,
                             const std::string& name, const MapImport& what,
                             const Progress& progress) {
  const auto shape = shape_of(client, name);
  if (!shape) return shape.error();
  const auto areas = read_list(what, shape->size);
  if (!areas) return areas.error();
  const auto bad = in_blocks(areas->bad, *shape);
  const auto suspect = in_blocks(areas->suspect, *shape);
  if (what.dry_run) return rehearse(client, name, *shape, bad, suspect);
  json totals = new_totals("import");
  const std::uint64_t total = total_bytes(bad) + total_bytes(suspect);
  std::uint64_t before = 0;
  const auto run = [&](const char* action,
                       const std::vector<ByteRange>& ranges) -> Result<bool> {
    for (const ByteRange& range : ranges) {
      auto went = run_range(
          client, name, action, range, totals, [&](std::uint64_t next) {
            progress(fmt::format("import: {} of {} bytes done",
                                 before + next - range.offset, total));
          });
      if (!went || !*went) return went;
      before += range.length;
    }
    return true;
  };
  auto went = run("remap", bad);
  if (went && *went) went = run("check", suspect);
  if (!went) return went.error();
  return action_answer(std::move(totals));
}

}  // namespace nbd_remap
