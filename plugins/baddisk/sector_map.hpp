#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SectorMap: a value for ranges of sectors; the newest range that names a
// sector counts.
//
// Units    sectors of 512 bytes.
// Threads  one at a time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>

namespace nbd_remap {

template <class T>
class SectorMap {
 public:
  // Sectors [start, end) hold the value from now on; without one, nothing.
  // REQUIRES: start < end.
  void assign(std::uint64_t start, std::uint64_t end,
              const std::optional<T>& value) {
    split_at(start);
    split_at(end);
    runs_.erase(runs_.lower_bound(start), runs_.lower_bound(end));
    if (value) runs_.emplace(start, Tail{end, *value});
  }
  // see(from, to, value) for what [start, end) holds, ascending, clamped.
  template <class See>
  void visit(std::uint64_t start, std::uint64_t end, See see) const {
    auto it = runs_.upper_bound(start);
    if (it != runs_.begin() && std::prev(it)->second.end > start) --it;
    for (; it != runs_.end() && it->first < end; ++it)
      see(std::max(start, it->first), std::min(end, it->second.end),
          it->second.value);
  }
  std::size_t size() const { return runs_.size(); }

 private:
  struct Tail {
    std::uint64_t end = 0;  // exclusive
    T value;
  };

  void split_at(std::uint64_t sector) {
    auto it = runs_.lower_bound(sector);
    if (it == runs_.begin()) return;
    --it;
    if (it->second.end <= sector) return;
    runs_.emplace(sector, it->second);
    it->second.end = sector;
  }

  std::map<std::uint64_t, Tail> runs_;
};

}  // namespace nbd_remap
