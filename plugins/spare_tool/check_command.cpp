// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/check_command.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

const char* report_word(const CheckReport& report) {
  return report.mismatch ? "mismatch" : verdict_word(report.verdict);
}

const char* last_stop(const MetadataSurvey& survey) {
  if (survey.superblock.owner_epoch == 0) return "no server has used it yet";
  return survey.chosen().closed
             ? "the last server stopped in order"
             : "the last server did not stop in order (killed, or a crash)";
}

std::string render_text(const CheckReport& report) {
  std::string out = fmt::format("{}: {}\n", printable(report.spare_name),
                                report_word(report));
  if (!report.reason.empty())
    out += fmt::format("  {}\n", printable(report.reason));
  for (const std::string& note : report.notes)
    out += fmt::format("  note: {}\n", printable(note));
  if (!report.survey) return out;
  const MetadataSurvey& survey = *report.survey;
  const Superblock& sb = survey.superblock;
  out += fmt::format("UUID       {}, for a MAIN of {}\n", uuid_text(sb.uuid),
                     human_bytes(sb.main_bytes));
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    out += fmt::format("{}  {}{}, sequence {} (checkpoint {}, {} after it)\n",
                       copy_name(c), copy.sound() ? "sound" : "damaged",
                       copy.in_step ? "" : ", out of step", copy.last_sequence,
                       copy.checkpoint_sequence,
                       count_of(copy.log_length, "record"));
    for (const std::string& words : copy.damages)
      out += fmt::format("           - {}\n", printable(words));
    for (const std::string& words : copy.notes)
      out += fmt::format("           - {} (a crash leaves this)\n",
                         printable(words));
  }
  if (!survey.best) return out;
  const MapCounts n = count_map(survey.chosen().state);
  out += fmt::format(
      "Newest     sequence {}, in the {}; {}\n"
      "Holds      {}, {} pending; {} of {} used, {} retired\n",
      survey.chosen().last_sequence, copy_name(*survey.best), last_stop(survey),
      count_of(n.remapped, "remapped block"), n.pending, n.remapped,
      count_of(sb.layout.slots, "slot"), n.retired);
  return out;
}

std::string render_json(const CheckReport& report) {
  nlohmann::ordered_json out = {{"schema", 1},
                                {"verdict", report_word(report)},
                                {"spare", report.spare_name},
                                {"reason", report.reason},
                                {"notes", report.notes}};
  if (report.survey) {
    const MetadataSurvey& survey = *report.survey;
    out["superblock"] = superblock_json(survey.superblock);
    out["copies"] = copies_json(survey);
    out["believed"] = nullptr;
    if (survey.best) {
      const CopySurvey& best = survey.chosen();
      const MapCounts n = count_map(best.state);
      out["believed"] = *survey.best == CopyIndex::head ? "head" : "tail";
      out["sequence"] = best.last_sequence;
      out["stopped_in_order"] = best.closed;
      out["slots"] = survey.superblock.layout.slots;
      out["remapped"] = n.remapped;
      out["pending"] = n.pending;
      out["retired"] = n.retired;
    }
  }
  return json_text(out, 2) + "\n";
}

// Whether SPARE belongs to this MAIN.
Status check_pair(const CheckOptions& options, Backend& spare,
                  CheckReport& report) {
  const Superblock& sb = report.survey->superblock;
  OpenOptions open;
  open.read_only = true;
  auto main = open_backend(options.main, open);
  if (!main) {
    report.verdict = Verdict::unknown;
    return std::move(main).error();
  }
  Binding binding;
  binding.main_bytes = (*main)->info().size_bytes;
  binding.main_identity = (*main)->info().identity;
  binding.main_name = (*main)->info().name;
  Status status = check_binding(sb, spare, binding);
  if (!status) {
    report.verdict = Verdict::damaged;
    report.mismatch = true;
  }
  return status;
}

}  // namespace

const char* verdict_word(Verdict verdict) {
  switch (verdict) {
    case Verdict::sound:
      return "sound";
    case Verdict::repairable:
      return "repairable";
    case Verdict::damaged:
      return "damaged";
    case Verdict::unknown:
      break;
  }
  return "not checked";
}

Verdict verdict_of(const Error& error) {
  switch (error.errnum) {
    case EUCLEAN:  // both superblocks are damaged
    case EINVAL:   // not the size that it was formatted with
      return Verdict::damaged;
    default:
      return Verdict::unknown;
  }
}

MapCounts count_map(const MapState& state) {
  MapCounts n;
  for (const RemapEntry& e : state.entries)
    ++(e.remapped() ? n.remapped : n.pending);
  n.retired = state.retired.size();
  return n;
}

Verdict judge(const MetadataSurvey& survey) {
  if (!survey.best) return Verdict::damaged;
  const CopySurvey& head = survey.copy(CopyIndex::head);
  const CopySurvey& tail = survey.copy(CopyIndex::tail);
  if (!head.sound() || !tail.sound() || !head.in_step || !tail.in_step)
    return Verdict::repairable;
  const auto [older, newer] =
      std::minmax(head.last_sequence, tail.last_sequence);
  return newer - older > 1 ? Verdict::repairable : Verdict::sound;
}

CheckReport check_spare(Backend& spare) {
  CheckReport report;
  report.spare_name = spare.info().name;
  auto survey = survey_metadata(spare);
  if (!survey) {
    report.verdict = verdict_of(survey.error());
    report.reason = report.verdict == Verdict::unknown
                        ? error_words(survey.error())
                        : survey.error().place;
    return report;
  }
  report.survey = std::move(*survey);
  report.verdict = judge(*report.survey);
  report.reason = report.survey->refusal;
  const Superblock& sb = report.survey->superblock;
  if (Status in_place = check_in_place(sb, spare); !in_place) {
    report.notes.push_back(in_place.error().place + "; the server refuses it");
    if (sb.was_replaced()) return report;
  }
  const std::string& formatted_on = sb.spare_identity;
  const std::string here = stored_identity(spare.info().identity);
  if (formatted_on != here)
    report.notes.push_back(
        fmt::format("a copy: it was formatted on \"{}\", this is \"{}\"; the "
                    "server refuses it",
                    formatted_on, here));
  return report;
}

CheckReport run_check(const CheckOptions& options) {
  CheckReport report;
  report.spare_name = options.spare;
  OpenOptions open;
  open.read_only = true;
  auto spare = open_backend(options.spare, open);
  if (!spare) {
    report.reason = error_words(spare.error());
    return report;
  }
  report = check_spare(**spare);
  if (!report.survey || options.main.empty()) return report;
  if (Status status = check_pair(options, **spare, report); !status)
    report.reason = error_words(status.error());
  return report;
}

std::string render_check(const CheckReport& report, bool json) {
  return json ? render_json(report) : render_text(report);
}

}  // namespace nbd_remap
