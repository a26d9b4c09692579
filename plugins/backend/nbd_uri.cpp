// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_uri.hpp"

#include <fmt/format.h>
#include <sys/un.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <span>
#include <system_error>
#include <tuple>

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

struct UriParts {
  std::string_view scheme;
  std::string_view authority;  // without the user
  std::string_view path;
  std::string_view query;
};

UriParts split(std::string_view uri) {
  UriParts parts;
  uri = cut_from(uri, '#');
  parts.scheme = cut_from(uri, ':');
  uri.remove_prefix(std::min(parts.scheme.size() + 1, uri.size()));
  parts.path = cut_from(uri, '?');
  parts.query = uri.substr(parts.path.size());
  if (!parts.query.empty()) parts.query.remove_prefix(1);
  if (parts.path.starts_with("//")) {
    parts.path.remove_prefix(2);
    parts.authority = cut_from(parts.path, '/');
    parts.path.remove_prefix(parts.authority.size());
  }
  const std::size_t at = parts.authority.rfind('@');
  if (at != std::string_view::npos) parts.authority.remove_prefix(at + 1);
  return parts;
}

Error bad_uri(std::string_view uri, std::string_view expected) {
  return make_error(ErrorClass::caller, EINVAL,
                    fmt::format("{}: {}", nbd_display_name(uri), expected));
}

// What follows a host's name or address; empty if nothing does.
std::string_view port_of(std::string_view authority) {
  const std::size_t bracket = authority.rfind(']');
  const std::size_t colon = authority.rfind(':');
  if (colon == std::string_view::npos ||
      (bracket != std::string_view::npos && colon < bracket))
    return {};
  return authority.substr(colon + 1);
}

}  // namespace

std::string nbd_display_name(std::string_view uri) {
  auto [scheme, authority, path, query] = split(uri);
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

Status check_nbd_uri(std::string_view uri) {
  const UriParts parts = split(uri);
  const std::string scheme = lower(parts.scheme);
  if (scheme.ends_with("+unix")) {
    const std::string socket = decode(query_value(parts.query, "socket"));
    if (!socket.starts_with('/'))
      return bad_uri(uri,
                     "expected the absolute path of a socket, for example "
                     "nbd+unix:///export?socket=/run/nbd.sock");
    if (socket.size() >= sizeof(sockaddr_un::sun_path))
      return bad_uri(uri, fmt::format("the socket's path is longer than {} "
                                      "bytes",
                                      sizeof(sockaddr_un::sun_path) - 1));
    if (!parts.authority.empty())
      return bad_uri(uri,
                     "a socket has no host; expected three slashes, for "
                     "example nbd+unix:///export?socket=/run/nbd.sock");
  } else if (parts.authority.empty()) {
    return bad_uri(uri, "expected a host, for example nbd://host/export");
  } else if (parts.authority.ends_with(':') ||
             !port_of(parts.authority).empty()) {
    const std::string_view port = port_of(parts.authority);
    std::uint32_t n = 0;
    const auto [rest, error] =
        std::from_chars(port.data(), port.data() + port.size(), n);
    if (error != std::errc() || rest != port.data() + port.size() || n == 0 ||
        n > 65535)
      return bad_uri(uri,
                     "expected a port from 1 to 65535, for example "
                     "nbd://host:10809/export");
  }
  for (const char* key : {"tls-certificates", "tls-psk-file"}) {
    const std::string path = decode(query_value(parts.query, key));
    if (path.empty() || path.starts_with('/')) continue;
    return bad_uri(uri, fmt::format("expected an absolute path in {0}=, for "
                                    "example {0}=/etc/nbd-remap/tls",
                                    key));
  }
  return {};
}

std::vector<std::string> nbd_tls_files(std::string_view uri) {
  const UriParts parts = split(uri);
  std::vector<std::string> files;
  if (!lower(parts.scheme).starts_with("nbds")) return files;
  const std::string psk = decode(query_value(parts.query, "tls-psk-file"));
  if (!psk.empty()) files.push_back(psk);
  const std::string directory =
      decode(query_value(parts.query, "tls-certificates"));
  if (!directory.empty()) files.push_back(directory + "/ca-cert.pem");
  return files;
}

bool same_nbd_export(std::string_view a, std::string_view b) {
  const auto place = [](std::string_view uri) {
    const UriParts parts = split(uri);
    std::string socket = decode(query_value(parts.query, "socket"));
    if (!socket.empty()) {
      std::error_code ignored;
      const auto real = std::filesystem::weakly_canonical(socket, ignored);
      if (!ignored) socket = real.string();
    }
    std::string scheme = lower(parts.scheme);
    if (scheme.starts_with("nbds")) scheme.erase(3, 1);
    std::string_view host = parts.authority;
    if (host.ends_with(kDefaultPort)) host.remove_suffix(kDefaultPort.size());
    std::string_view path = parts.path;
    if (path.starts_with('/')) path.remove_prefix(1);
    return std::make_tuple(scheme, lower(decode(host)), decode(path), socket);
  };
  return place(a) == place(b);
}

}  // namespace nbd_remap
