// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/control_actions.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <utility>

#include "plugins/baddisk/control_body.hpp"
#include "plugins/baddisk/parameters.hpp"

namespace nbd_remap {
namespace {

using Problem = std::optional<ActionProblem>;
using Empty = ControlBody::Empty;

// Each takes a read and a write, and all requests wait meanwhile.
constexpr std::uint64_t kMaxRotInFile = 10'000;

Problem bad_request(std::string detail) {
  return ActionProblem{400, std::move(detail)};
}

Problem answer(const Status& status) {
  if (status) return {};
  return bad_request(status.error().place);
}

Problem make_bad(BadDisk& disk, const BadDiskDefaults& defaults,
                 const HttpRequest& request) {
  ControlBody body(request,
                   {"ranges", "count", "percent", "seed", "mode", "transient"});
  const auto mode = body.mode();
  const auto transient = body.whole("transient", UINT32_MAX);
  const auto ranges = body.sectors(defaults.seed, disk.bad().size_sectors());
  if (body.has("ranges") && body.has("seed"))
    body.refuse("member \"seed\": goes with \"count\" or \"percent\"");
  if (!body.problem().empty()) return bad_request(body.problem());
  return answer(
      disk.bad().add(ranges, mode.value_or(defaults.mode),
                     static_cast<std::uint32_t>(transient.value_or(0))));
}

Problem heal(BadDisk& disk, const BadDiskDefaults&,
             const HttpRequest& request) {
  ControlBody body(request, {"ranges", "all"});
  const auto list = body.text("ranges");
  if (!body.problem().empty()) return bad_request(body.problem());
  const bool all = body.flag("all");
  if (body.size() != 1 || (!all && !list))
    return bad_request(
        "expected {\"ranges\":\"100-199\"} or {\"all\":true}, one of the two");
  if (all) {
    disk.bad().heal_all();
    return {};
  }
  const auto ranges = parse_bad_list(*list);
  return ranges ? answer(disk.bad().heal(*ranges))
                : bad_request(ranges.error().place);
}

Problem make_slow(BadDisk& disk, const BadDiskDefaults& defaults,
                  const HttpRequest& request) {
  ControlBody body(request,
                   {"ranges", "count", "percent", "seed", "mode", "delay_ms"});
  const auto mode = body.mode();
  const auto delay_ms = body.whole("delay_ms", SlowSectors::kMaxDelayMs);
  if (!delay_ms)
    body.refuse(
        "member \"delay_ms\": expected, for example {\"ranges\":"
        "\"100-199\",\"delay_ms\":500}");
  const auto ranges = body.sectors(defaults.seed, disk.bad().size_sectors());
  if (!body.problem().empty()) return bad_request(body.problem());
  return answer(
      disk.slow().set(ranges, mode.value_or(BadMode::both), *delay_ms));
}

Problem make_rot(BadDisk& disk, const BadDiskDefaults& defaults,
                 const HttpRequest& request) {
  ControlBody body(request,
                   {"ranges", "count", "percent", "seed", "bits", "in_file"});
  const std::uint64_t size = disk.bad().size_sectors();
  const auto bits = body.whole("bits", kMaxRotBits).value_or(1);
  const auto seed = body.whole("seed").value_or(defaults.seed);
  const bool in_file = body.flag("in_file");
  const auto ranges = body.sectors(defaults.seed, size);
  if (!body.problem().empty()) return bad_request(body.problem());
  if (!in_file) return answer(disk.rot().set(ranges, seed, bits));
  if (auto ok = check_ranges(ranges, size, 0); !ok) return answer(ok);
  std::uint64_t left = kMaxRotInFile;
  for (const BadRange& range : ranges) {
    if (range.count > left)
      return bad_request(fmt::format(
          "member \"in_file\": expected at most {} sectors", kMaxRotInFile));
    left -= range.count;
  }
  if (disk.info().read_only) return ActionProblem{409, "the file is read-only"};
  const auto done = disk.rot_file(ranges, seed, bits);
  if (done) return {};
  return ActionProblem{is_fault(done.error()) ? 409 : 500, done.error().place};
}

Problem die(BadDisk& disk, const BadDiskDefaults& defaults,
            const HttpRequest& request) {
  ControlBody body(request, {"after", "errno"}, Empty::allowed);
  const auto after = body.whole("after");
  const auto name = body.text("errno");
  const auto errnum =
      name ? parse_errno_name(*name) : std::optional(defaults.die_errnum);
  if (!errnum)
    body.refuse(fmt::format("member \"errno\": expected {}", kErrnoNames));
  if (!body.problem().empty()) return bad_request(body.problem());
  disk.dead().die(after.value_or(0), *errnum);
  return {};
}

Problem cut(BadDisk& disk, const BadDiskDefaults& defaults,
            const HttpRequest& request) {
  ControlBody body(request, {"kind", "seed"}, Empty::allowed);
  const auto kind = parse_cut_kind(body.text("kind").value_or("torn"));
  const auto seed = body.whole("seed").value_or(defaults.seed);
  if (!kind)
    body.refuse("member \"kind\": expected all, lost, reordered or torn");
  if (!body.problem().empty()) return bad_request(body.problem());
  if (disk.cache() == nullptr)
    return ActionProblem{
        409,
        "expected a server that was started with write-cache=, for "
        "example write-cache=16M"};
  const auto done = disk.cache()->cut(*kind, seed);
  if (done) return {};
  return ActionProblem{done.error().errnum == EALREADY ? 409 : 500,
                       done.error().place};
}

// Those that take no members.
template <class Act>
Problem simply(const HttpRequest& request, Act act) {
  const ControlBody body(request, {}, Empty::allowed);
  if (!body.problem().empty()) return bad_request(body.problem());
  act();
  return {};
}

Problem revive(BadDisk& disk, const BadDiskDefaults&,
               const HttpRequest& request) {
  return simply(request, [&] { disk.dead().revive(); });
}
Problem hang(BadDisk& disk, const BadDiskDefaults&,
             const HttpRequest& request) {
  return simply(request, [&] { disk.hang().hang(); });
}
Problem unhang(BadDisk& disk, const BadDiskDefaults&,
               const HttpRequest& request) {
  return simply(request, [&] { disk.hang().unhang(); });
}
Problem power_on(BadDisk& disk, const BadDiskDefaults&,
                 const HttpRequest& request) {
  return simply(request, [&] {
    if (disk.cache() != nullptr) disk.cache()->power_on();
  });
}

constexpr std::array<std::pair<std::string_view, Action>, 10> kActions{
    {{"bad", make_bad},
     {"heal", heal},
     {"slow", make_slow},
     {"rot", make_rot},
     {"die", die},
     {"revive", revive},
     {"hang", hang},
     {"unhang", unhang},
     {"cut", cut},
     {"power-on", power_on}}};

}  // namespace

Action find_action(std::string_view name) {
  for (const auto& [known, action] : kActions)
    if (known == name) return action;
  return nullptr;
}

std::string action_names() {
  std::string names;
  for (const auto& [name, action] : kActions)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  return names;
}

}  // namespace nbd_remap
