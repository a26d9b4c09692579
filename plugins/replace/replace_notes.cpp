// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/replace_notes.hpp"

#include <fmt/format.h>

#include "plugins/remap/metadata_survey.hpp"

namespace nbd_remap {

ReplaceNotes notes_in(StateArea* area) {
  ReplaceNotes notes;
  if (area == nullptr) return notes;
  notes.read = [area] { return area->read(StateKind::replace); };
  notes.write = [area](ConstBytes bytes) {
    return area->write(StateKind::replace, bytes);
  };
  return notes;
}

std::string replaced_by(Backend& spare, const std::string& main_identity) {
  const auto survey = survey_metadata(spare);
  if (!survey || survey->superblock.layout.state_at == 0) return {};
  const Superblock& sb = survey->superblock;
  StateArea area(spare, DeviceOffset{sb.layout.state_at}, sb.uuid,
                 [] { return Status(); });
  const auto bytes = area.read(StateKind::replace);
  if (!bytes || bytes->empty()) return {};
  const auto state = unpack_replace_state(*bytes);
  if (!state || state->old_identity != stored_identity(main_identity) ||
      state->next_identity != sb.main_identity)
    return {};
  return fmt::format("MAIN was replaced by {}; start with that", state->next);
}

}  // namespace nbd_remap
