#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A volume's health as text for people. Pure; every field is a peer's, see
// ctl_render.hpp.

#include <nlohmann/json.hpp>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// Lines of `volume show`, of its "health". Throws answer_fields::Misfit.
std::string health_text(const nlohmann::json& health);
// Of `health`: the sentence and the score of a volume. Throws likewise.
std::string health_lines(const nlohmann::json& volume, const char* indent);

Result<std::string> render_acknowledge(const std::string& name,
                                       const nlohmann::json& answer);

}  // namespace nbd_remap
