#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SlowJudge: whether one read took far longer than its neighbours did.
//
// Method  Of the last kWindow whole chunks that no client disturbed the median
//         and the median absolute deviation (MAD). A read is slow when it took
//         longer than each of: median + 10 * 1.4826 * MAD (the deviation of a
//         normal distribution with that MAD), 3 * median, and a floor. The
//         floor keeps an even, quick disk from being doubted for what no drive
//         would call trouble: a revolution takes up to 11 ms, and a drive that
//         reads a sector again takes many. Until there are kLeast chunks
//         nothing is slow.
// A median does not move for a few slow ones, so these do not hide others.

#include <algorithm>
#include <chrono>
#include <vector>

namespace nbd_remap {

class SlowJudge {
 public:
  static constexpr std::size_t kWindow = 64;
  static constexpr std::size_t kLeast = 16;
  static constexpr std::chrono::milliseconds kChunkFloor{100};
  static constexpr std::chrono::milliseconds kBlockFloor{50};

  using Time = std::chrono::nanoseconds;

  void add(Time took) {
    if (times_.size() < kWindow)
      times_.push_back(took);
    else
      times_[next_] = took;
    next_ = (next_ + 1) % kWindow;
  }
  bool chunk_is_slow(Time took) const {
    return times_.size() >= kLeast && took > kChunkFloor && took > bound();
  }
  // A block is a small part of a chunk: one that takes as long as a chunk that
  // would be slow is slow too, and so is one far above the floor of its own.
  bool block_is_slow(Time took) const {
    return times_.size() >= kLeast && took > kBlockFloor &&
           took > 3 * median(times_);
  }

 private:
  static Time median(std::vector<Time> times) {
    const auto middle = times.begin() + static_cast<long>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }
  Time bound() const {
    const Time middle = median(times_);
    std::vector<Time> off;
    for (const Time t : times_)
      off.push_back(t < middle ? middle - t : t - middle);
    const auto mad = static_cast<double>(median(off).count());
    const Time spread(static_cast<std::int64_t>(10 * 1.4826 * mad));
    return std::max(3 * middle, middle + spread);
  }

  std::vector<Time> times_;
  std::size_t next_ = 0;
};

}  // namespace nbd_remap
