#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// How a fuzz target takes its input apart, and says that something is broken.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "plugins/base/units.hpp"

namespace nbd_remap {

// Not assert: it counts in every build.
inline void require(bool holds, const char* what) {
  if (holds) return;
  static_cast<void>(std::fprintf(stderr, "broken: %s\n", what));
  std::abort();
}

// From the front. Beyond the end there are zeroes, and nothing more to take.
class FuzzInput {
 public:
  explicit FuzzInput(ConstBytes bytes) : rest_(bytes) {}

  bool empty() const { return rest_.empty(); }
  ConstBytes take(std::size_t n) {
    const ConstBytes head = rest_.first(std::min(n, rest_.size()));
    rest_ = rest_.subspan(head.size());
    return head;
  }
  // Little-endian, of so many bytes.
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t n = 0;
    std::size_t at = 0;
    for (const std::byte b : take(bytes))
      n |= std::to_integer<std::uint64_t>(b) << (8 * at++);
    return n;
  }
  std::uint64_t below(std::uint64_t end, std::size_t bytes) {
    return number(bytes) % end;
  }
  // Up to the mark, which is taken too.
  std::string_view text_until(char mark) {
    const std::string_view all = rest_text();
    const std::size_t end = all.find(mark);
    take(end == std::string_view::npos ? all.size() : end + 1);
    return all.substr(0, end);
  }
  std::string_view rest_text() const {
    return {reinterpret_cast<const char*>(rest_.data()), rest_.size()};
  }

 private:
  ConstBytes rest_;
};

}  // namespace nbd_remap
