#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Answers of a volume's control socket as text for people. Pure.
//
// Every field is a peer's: a field that is missing or of another kind is an
// error that names it, and no text reaches the terminal but as printable().

#include <nlohmann/json.hpp>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

// The body of an answer: one JSON object of schema 1, not nested absurdly.
Result<nlohmann::json> parse_answer(const std::string& body);

// Each takes what parse_answer() gave for the endpoint of its name.
Result<std::string> render_health(const nlohmann::json& health);
Result<std::string> render_volumes(const nlohmann::json& volumes);
Result<std::string> render_volume(const nlohmann::json& volume);
Result<std::string> render_map(const nlohmann::json& remaps);
// disk: "main" or "spare".
Result<std::string> render_grow(const std::string& name,
                                const std::string& disk,
                                const nlohmann::json& answer);
std::string render_quiesce(const std::string& name, std::uint64_t seconds);
std::string render_resume(const std::string& name);
Result<std::string> render_stop(const std::string& name,
                                const nlohmann::json& answer);

// If its owner need not hear of it: "healthy", or degraded and acknowledged.
bool is_quiet(const nlohmann::json& health);

// The error of an answer that is none of 2xx. The body may be a problem detail
// (RFC 9457) or rubbish.
Error problem_error(const std::string& what, int status,
                    const std::string& body);

// For --json: ASCII, so that no control character is in it; and one line feed.
std::string render_json(const nlohmann::json& answer);

}  // namespace nbd_remap
