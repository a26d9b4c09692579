// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_uri.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <span>

#include "plugins/base/crc32c.hpp"

namespace nbd_remap {
namespace {

constexpr std::string_view kDefaultPort = ":10809";

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return out;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) * 16 +
                               hex_digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string encode(std::string_view text) {
  std::string out;
  for (const unsigned char c : text) {
    const bool plain =
        (c < 0x80 && std::isalnum(c)) ||
        std::string_view("-._~/:@[]+").find(static_cast<char>(c)) !=
            std::string_view::npos;
    if (plain)
      out += static_cast<char>(c);
    else
      out += fmt::format("%{:02X}", c);
  }
  return out;
}

std::string_view cut_from(std::string_view text, char mark) {
  return text.substr(0, std::min(text.find(mark), text.size()));
}

std::string_view query_value(std::string_view query, std::string_view key) {
  while (!query.empty()) {
    const std::string_view word = cut_from(query, '&');
    if (word.size() > key.size() && word.starts_with(key) &&
        word[key.size()] == '=')
      return word.substr(key.size() + 1);
    query.remove_prefix(std::min(word.size() + 1, query.size()));
  }
  return {};
}

}  // namespace

std::string nbd_display_name(std::string_view uri) {
  uri = cut_from(uri, '#');
  const std::string_view scheme = cut_from(uri, ':');
  uri.remove_prefix(std::min(scheme.size() + 1, uri.size()));
  const std::string_view before_query = cut_from(uri, '?');
  std::string_view query = uri.substr(before_query.size());
  if (!query.empty()) query.remove_prefix(1);

  std::string_view authority;
  std::string_view path = before_query;
  if (path.starts_with("//")) {
    path.remove_prefix(2);
    authority = cut_from(path, '/');
    path.remove_prefix(authority.size());
  }
  const std::size_t at = authority.rfind('@');
  if (at != std::string_view::npos) authority.remove_prefix(at + 1);
  if (authority.ends_with(kDefaultPort))
    authority.remove_suffix(kDefaultPort.size());

  std::string export_name = encode(decode(path));
  if (export_name.empty()) export_name += '/';
  std::string name = encode(lower(scheme)) + "://" +
                     encode(lower(decode(authority))) + export_name;
  const std::string_view socket = query_value(query, "socket");
  if (!socket.empty()) name += "?socket=" + encode(decode(socket));
  return name;
}

std::string nbd_identity(std::string_view uri) {
  std::string name = nbd_display_name(uri);
  if (name.starts_with("nbds")) name.erase(3, 1);
  if (name.size() + 4 <= kMaxNbdIdentityBytes) return "nbd " + name;
  const std::uint32_t sum = crc32c(std::as_bytes(std::span(name)));
  const std::string head = fmt::format("nbd crc32c:{:08x} ...", sum);
  return head + name.substr(name.size() - (kMaxNbdIdentityBytes - head.size()));
}

}  // namespace nbd_remap
