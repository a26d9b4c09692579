#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The words of the command line: nbdkit baddisk KEY=VALUE ...
//
// Errors  class caller. The place is one line: the word, what was expected and
//         an example. Nothing outside this object is touched.

#include <cerrno>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/baddisk/bad_list.hpp"
#include "plugins/base/result.hpp"

namespace nbd_remap {

struct BadDiskParameters {
  std::string file;
  std::vector<BadRange> bad;
  std::optional<std::uint64_t> bad_count;
  std::optional<double> bad_percent;
  BadMode mode = BadMode::both;
  std::uint32_t transient = 0;
  bool heal_on_write = false;
  std::uint64_t seed = 1;
  int errnum = EIO;
  std::vector<BadRange> slow;
  std::optional<std::uint64_t> slow_ms;
  std::vector<BadRange> rot;
  std::uint64_t rot_bits = 1;
  std::optional<std::uint64_t> die_after;  // requests
  int die_errnum = EIO;
  std::uint64_t write_cache_bytes = 0;  // 0: none
  std::string control;                  // empty: no control socket
};

inline constexpr std::uint64_t kMaxWriteCacheBytes = std::uint64_t{1} << 30;

class BadDiskParameterReader {
 public:
  Status set(const std::string& key, const std::string& value);
  // After the last word.
  Result<BadDiskParameters> complete() const;

 private:
  Status set_value(const std::string& key, const std::string& value);

  BadDiskParameters parameters_;
  std::set<std::string> given_;
};

// Of a control request too. Empty unless 0 < percent <= 100.
std::optional<double> parse_percent(std::string_view text);

// The errors that nbdkit passes on to the client as they are.
inline constexpr std::string_view kErrnoNames =
    "EIO, ENOMEM, ENOSPC, EPERM or ESHUTDOWN";
std::optional<int> parse_errno_name(std::string_view name);
std::string_view errno_name(int errnum);

}  // namespace nbd_remap
