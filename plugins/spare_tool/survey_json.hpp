#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Parts of a SPARE as JSON, the same in check and dump. Pure.

#include <nlohmann/json.hpp>

#include "plugins/remap/metadata_survey.hpp"

namespace nbd_remap {

nlohmann::ordered_json superblock_json(const Superblock& superblock);
nlohmann::ordered_json layout_json(const Layout& layout);
// Both copies: verdicts, sequences, damages in words.
nlohmann::ordered_json copies_json(const MetadataSurvey& survey);

// ASCII, and never an exception: what is no UTF-8 is replaced.
std::string json_text(const nlohmann::ordered_json& json, int indent);

}  // namespace nbd_remap
