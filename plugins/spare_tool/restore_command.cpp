// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/restore_command.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/remap/fresh_map.hpp"
#include "plugins/spare_tool/saved_map.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

Status check_words(const RestoreOptions& options,
                   std::optional<Uuid>& replace) {
  if (options.replace.empty()) return {};
  replace = parse_uuid(options.replace);
  if (replace) return {};
  return make_error(
      ErrorClass::caller, EINVAL,
      fmt::format("--replace={}: expected a UUID", options.replace));
}

// What was written is what is there.
Status verify(Backend& spare, const SavedMap& saved) {
  const auto survey = survey_metadata(spare);
  if (!survey) return survey.error();
  if (survey->copies_agree() && survey->best &&
      survey->chosen().state.entries == saved.state.entries &&
      survey->chosen().state.retired == saved.state.retired)
    return {};
  return make_error(EIO, fmt::format("{}: does not read back as it was written",
                                     spare.info().name));
}

constexpr const char* kUnknown =
    "nothing on SPARE tells whether the saved map was the newest one";

}  // namespace

RestoreReport run_restore(const RestoreOptions& options) {
  RestoreReport report;
  report.spare_name = options.spare;
  report.file = options.from;
  const auto refuse = [&](const Error& error) {
    report.reason = error_words(error);
    return report;
  };
  RestoreRequest request;
  request.lose_newer_data = options.lose_newer_data;
  if (Status status = check_words(options, request.replace); !status)
    return refuse(status.error());
  auto spare = open_backend(options.spare, {});
  if (!spare) return refuse(spare.error());
  report.spare_name = (*spare)->info().name;
  auto saved =
      read_saved_map(options.from, max_dump_bytes((*spare)->info().size_bytes));
  if (!saved) return refuse(saved.error());
  const auto plan = plan_restore(**spare, *saved, request);
  if (!plan) return refuse(plan.error());
  report.superblock = plan->superblock;
  report.counts = count_map(saved->state);
  report.saved_sequence = saved->sequence;
  report.reached = plan->reached;
  Status status = write_fresh_map(**spare, plan->superblock, saved->state);
  if (status) status = verify(**spare, *saved);
  if (!status) {
    report.verdict = Verdict::damaged;
    report.reason = fmt::format(
        "{}; SPARE may hold no map now: keep {}, and restore it again",
        error_words(status.error()), options.from);
    return report;
  }
  report.verdict = Verdict::sound;
  return report;
}

std::string render_restore(const RestoreReport& report, bool json) {
  const Superblock& sb = report.superblock;
  const MapCounts& n = report.counts;
  if (json) {
    nlohmann::ordered_json out = {{"schema", 1},
                                  {"verdict", verdict_word(report.verdict)},
                                  {"spare", report.spare_name},
                                  {"file", report.file},
                                  {"superblock", superblock_json(sb)},
                                  {"remapped", n.remapped},
                                  {"pending", n.pending},
                                  {"retired", n.retired},
                                  {"saved_sequence", report.saved_sequence},
                                  {"reached", report.reached},
                                  {"notes", nlohmann::json::array()}};
    if (report.reached == 0) out["notes"].push_back(kUnknown);
    return json_text(out, 2) + "\n";
  }
  std::string out = fmt::format(
      "{} holds the map of {} again.\n"
      "UUID     {}, for a MAIN of {}\n"
      "Holds    {}, {} pending; {} of {} used, {} retired\n"
      "As of    sequence {}, now {}\n",
      printable(report.spare_name), printable(report.file), uuid_text(sb.uuid),
      human_bytes(sb.main_bytes), count_of(n.remapped, "remapped block"),
      n.pending, n.remapped, count_of(sb.layout.slots, "slot"), n.retired,
      report.saved_sequence, sb.map_sequence);
  if (report.reached > report.saved_sequence)
    out += fmt::format(
        "Lost     what changed up to sequence {}: check the file systems on "
        "the volume\n",
        report.reached);
  if (report.reached == 0) out += fmt::format("Note     {}\n", kUnknown);
  return out;
}

}  // namespace nbd_remap
