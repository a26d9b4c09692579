#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// WriteTurns: changes of the same bytes of two disks, one after another. Two
// that ran at once could end in one order on one disk and in the other order on
// the other.
//
// Threads  any.
// Waits    take() at most kBound; then empty.

#include <chrono>
#include <cstdint>
#include <list>
#include <optional>
#include <utility>

#include "plugins/base/mutex.hpp"

namespace nbd_remap {

class WriteTurns {
  struct Range {
    std::uint64_t from = 0;
    std::uint64_t to = 0;
  };

 public:
  static constexpr std::chrono::seconds kBound{30};

  class Turn {
   public:
    Turn(Turn&& other) noexcept
        : turns_(std::exchange(other.turns_, nullptr)), at_(other.at_) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->end(at_);
    }

   private:
    friend class WriteTurns;
    Turn(WriteTurns* turns, std::list<Range>::iterator at)
        : turns_(turns), at_(at) {}
    WriteTurns* turns_;
    std::list<Range>::iterator at_;
  };

  std::optional<Turn> take(std::uint64_t offset, std::uint64_t length) {
    const auto until = std::chrono::steady_clock::now() + kBound;
    std::list<Range> mine{{offset, offset + length}};
    MutexLock lock(mu_);
    while (overlaps(mine.front()))
      if (!ended_.wait_until(mu_, until) && overlaps(mine.front()))
        return std::nullopt;
    under_way_.splice(under_way_.end(), mine);
    return Turn(this, std::prev(under_way_.end()));
  }

 private:
  bool overlaps(const Range& r) const REQUIRES(mu_) {
    for (const Range& other : under_way_)
      if (r.from < other.to && other.from < r.to) return true;
    return false;
  }
  void end(std::list<Range>::iterator at) {
    MutexLock lock(mu_);
    under_way_.erase(at);
    ended_.notify_all();
  }

  Mutex mu_;
  CondVar ended_;
  std::list<Range> under_way_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
