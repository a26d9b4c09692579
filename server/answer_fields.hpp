#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Members of a server's answer, for the renderers. An answer that is not as it
// should be is an exception that does not leave them: render() is the border.

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "plugins/base/result.hpp"
#include "plugins/base/tool_text.hpp"

namespace nbd_remap::answer_fields {

using nlohmann::json;

class Misfit : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline const json& field(const json& object, const char* key) {
  if (!object.is_object())
    throw Misfit(fmt::format("what should hold \"{}\" is no object", key));
  const auto it = object.find(key);
  if (it == object.end()) throw Misfit(fmt::format("\"{}\" is missing", key));
  return *it;
}

inline std::uint64_t number_of(const json& value, const char* key) {
  if (!value.is_number_unsigned())
    throw Misfit(fmt::format("\"{}\" is no count", key));
  return value.get<std::uint64_t>();
}
inline std::uint64_t number(const json& object, const char* key) {
  return number_of(field(object, key), key);
}
inline bool flag(const json& object, const char* key) {
  const json& value = field(object, key);
  if (!value.is_boolean())
    throw Misfit(fmt::format("\"{}\" is neither true nor false", key));
  return value.get<bool>();
}
inline std::string text_of(const json& value, const char* key) {
  if (!value.is_string()) throw Misfit(fmt::format("\"{}\" is no text", key));
  return printable(value.get_ref<const std::string&>());
}
inline std::string text(const json& object, const char* key) {
  return text_of(field(object, key), key);
}
inline const json& list(const json& object, const char* key) {
  const json& value = field(object, key);
  if (!value.is_array()) throw Misfit(fmt::format("\"{}\" is no list", key));
  return value;
}

template <class Render>
auto render(Render&& how) -> Result<std::decay_t<decltype(how())>> {
  try {
    return how();
  } catch (const Misfit& e) {
    return make_error(
        ErrorClass::caller, EPROTO,
        fmt::format("the server's answer is not understood: {}", e.what()));
  }
}

// Columns as wide as their widest cell, two blanks between.
inline std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i + 1 < row.size(); ++i)
      out += fmt::format("{:<{}}  ", row[i], widths[i]);
    out += row.back() + "\n";
  }
  return out;
}

}  // namespace nbd_remap::answer_fields
