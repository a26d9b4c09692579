#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the endpoints of a volume's control socket share: the form of an
// answer, and numbers out of a query.

#include <charconv>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "plugins/remap/remap_table.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

inline constexpr int kSchema = 1;

// Names of files need not be UTF-8.
inline HttpResponse reply(const nlohmann::json& body, int status = 200) {
  return {status,
          body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
              "\n"};
}

inline HttpResponse bad_request(const std::string& detail) {
  return http_problem(400, "Bad request", detail);
}

inline HttpResponse conflict(const std::string& detail) {
  return http_problem(409, "Conflict", detail);
}

// Empty: it is there and is no number.
inline std::optional<std::uint64_t> number(const HttpRequest& request,
                                           const std::string& key,
                                           std::uint64_t otherwise) {
  const auto it = request.query.find(key);
  if (it == request.query.end()) return otherwise;
  const std::string& text = it->second;
  std::uint64_t n = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return n;
}

// As sectors of the volume.
inline nlohmann::json unreadable_sectors(const RemapEntry& entry,
                                         std::uint32_t block_bytes) {
  nlohmann::json bad = nlohmann::json::array();
  const std::uint64_t per_block = block_bytes / kSectorBytes;
  for (std::uint64_t s = 0; s < per_block; ++s)
    if (!(entry.valid >> s & 1))
      bad.push_back(entry.block.value * per_block + s);
  return bad;
}

}  // namespace nbd_remap
