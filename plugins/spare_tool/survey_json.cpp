// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/survey_json.hpp"

#include <string>

namespace nbd_remap {

using nlohmann::ordered_json;

ordered_json superblock_json(const Superblock& sb) {
  return {{"format", kFormatVersion},
          {"features",
           {{"compatible", sb.features.compatible},
            {"read_only_compatible", sb.features.read_only_compatible},
            {"incompatible", sb.features.incompatible}}},
          {"uuid", uuid_text(sb.uuid)},
          {"sequence", sb.sequence},
          {"owner_epoch", sb.owner_epoch},
          {"map_sequence", sb.map_sequence},
          {"copies_in_step", sb.copies_in_step},
          {"main_size", sb.main_bytes},
          {"main_identity", sb.main_identity},
          {"spare_identity", sb.spare_identity},
          {"created_unix_seconds", sb.created_unix_seconds},
          {"build", sb.build_id}};
}

ordered_json layout_json(const Layout& l) {
  ordered_json copies = ordered_json::array();
  for (CopyIndex c : kCopies)
    copies.push_back(
        {{"copy", c == CopyIndex::head ? "head" : "tail"},
         {"superblock", l.superblock(c).value},
         {"checkpoints", {l.checkpoint(c, 0).value, l.checkpoint(c, 1).value}},
         {"log", l.record(c, 0).value}});
  return {{"spare_size", l.spare_bytes},
          {"block_size", l.block_bytes},
          {"slots", l.slots},
          {"slots_offset", l.slots_at},
          {"head_offset", l.head_at},
          {"state_offset", l.state_at},
          {"checkpoint_size", l.checkpoint_bytes},
          {"entry_capacity", l.entry_capacity()},
          {"pending_capacity", l.pending_capacity()},
          {"log_records", l.log_records},
          {"copies", std::move(copies)}};
}

ordered_json copies_json(const MetadataSurvey& survey) {
  ordered_json out = ordered_json::array();
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    ordered_json j = {{"copy", c == CopyIndex::head ? "head" : "tail"},
                      {"sound", copy.sound()},
                      {"in_step", copy.in_step},
                      {"damages", copy.damages},
                      {"notes", copy.notes}};
    j["superblock_sequence"] = nullptr;
    if (copy.superblock) j["superblock_sequence"] = copy.superblock->sequence;
    j["area"] = copy.area;
    j["checkpoint_sequence"] = copy.checkpoint_sequence;
    j["log_length"] = copy.log_length;
    j["last_sequence"] = copy.last_sequence;
    j["max_sequence_seen"] = copy.max_sequence_seen;
    out.push_back(std::move(j));
  }
  return out;
}

std::string json_text(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', true, ordered_json::error_handler_t::replace);
}

}  // namespace nbd_remap
