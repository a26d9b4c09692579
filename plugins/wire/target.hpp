#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The target of a request line ("/v1/map?cells=4") to path and query. Pure;
// every byte of it comes from a peer.

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace nbd_remap {

struct Target {
  std::string path;
  std::map<std::string, std::string> query;
};

// Empty unless it begins with '/', every % is followed by two hex digits other
// than 00, and no query key comes twice (two readers would disagree on which
// counts). A '+' is a plus, not a blank.
std::optional<Target> parse_target(std::string_view text);

}  // namespace nbd_remap
