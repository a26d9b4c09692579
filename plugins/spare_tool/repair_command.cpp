// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/repair_command.hpp"

#include <fmt/format.h>

#include <utility>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/remap/spare_repair.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

std::vector<std::string> found(const MetadataSurvey& survey) {
  std::vector<std::string> out;
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    for (const std::string& words : copy.damages) out.push_back(words);
    for (const std::string& words : copy.notes)
      out.push_back(words + " (a crash leaves this)");
    if (!copy.in_step)
      out.push_back(fmt::format("{}: out of step", copy_name(c)));
  }
  return out;
}

// The verdict on what is there after an attempt.
Verdict look_again(Backend& spare) {
  const auto survey = survey_metadata(spare);
  return survey ? judge(*survey) : verdict_of(survey.error());
}

const char* last_line(const RepairReport& report) {
  if (!report.failure.empty()) return "";
  if (!report.before.survey || !report.before.survey->best)
    return "Nothing was written: no copy can be believed. A saved dump can be "
           "put back with spare restore.\n";
  if (report.plan.empty()) return "Nothing to do.\n";
  if (!report.written)
    return "Nothing was written. To do it, type --yes; the next start of the "
           "server does it too.\n";
  return report.verdict == Verdict::sound
             ? "Done: both copies are whole.\n"
             : "Done as far as it goes: one copy takes no writes.\n";
}

std::string render_json(const RepairReport& report) {
  nlohmann::ordered_json out = {{"schema", 1},
                                {"verdict", verdict_word(report.verdict)},
                                {"before", verdict_word(report.before.verdict)},
                                {"spare", report.before.spare_name},
                                {"reason", report.before.reason},
                                {"written", report.written},
                                {"plan", report.plan},
                                {"messages", report.done},
                                {"failure", report.failure}};
  out["found"] = nlohmann::ordered_json::array();
  if (report.before.survey) {
    out["found"] = found(*report.before.survey);
    out["superblock"] = superblock_json(report.before.survey->superblock);
    out["copies"] = copies_json(*report.before.survey);
  }
  return json_text(out, 2) + "\n";
}

}  // namespace

std::vector<std::string> plan_repair(const MetadataSurvey& survey) {
  if (!survey.best || survey.copies_agree()) return {};
  const MapCounts n = count_map(survey.chosen().state);
  return {
      fmt::format("write the {} anew from the {}: {}, {} pending, {} retired, "
                  "as of sequence {}",
                  copy_name(other_copy(*survey.best)), copy_name(*survey.best),
                  count_of(n.remapped, "remapped block"), n.pending, n.retired,
                  survey.chosen().last_sequence),
      "write both superblocks"};
}

RepairReport run_repair(const RepairOptions& options) {
  RepairReport report;
  CheckReport& before = report.before;
  before.spare_name = options.spare;
  OpenOptions open;
  open.read_only = !options.yes;
  auto spare = open_backend(options.spare, open);
  if (!spare) {
    before.reason = error_words(spare.error());
    return report;
  }
  before = check_spare(**spare);
  report.verdict = before.verdict;
  if (!before.survey) return report;
  report.plan = plan_repair(*before.survey);
  if (!options.yes || report.plan.empty()) return report;
  auto after = repair_spare(
      **spare, *before.survey,
      [&](LogLevel, std::string_view line) { report.done.emplace_back(line); });
  if (after) {
    report.written = true;
    report.verdict = judge(*after);
  } else {
    report.failure = error_words(after.error());
    report.verdict = look_again(**spare);
  }
  return report;
}

std::string render_repair(const RepairReport& report, bool json) {
  if (json) return render_json(report);
  const CheckReport& before = report.before;
  std::string out = fmt::format("{}: {}\n", printable(before.spare_name),
                                verdict_word(before.verdict));
  if (!before.reason.empty())
    out += fmt::format("  {}\n", printable(before.reason));
  for (const std::string& note : before.notes)
    out += fmt::format("  note: {}\n", printable(note));
  if (before.survey)
    for (const std::string& words : found(*before.survey))
      out += fmt::format("Found    {}\n", printable(words));
  for (const std::string& words : report.plan)
    out += fmt::format("{}  {}\n", report.written ? "Did    " : "To do  ",
                       printable(words));
  return out + last_line(report);
}

}  // namespace nbd_remap
