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
  std::string control;  // empty: no control socket
};

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

}  // namespace nbd_remap
