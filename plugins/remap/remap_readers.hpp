#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Readers: lets a writer know when nobody can still see what it replaced, so
// that readers need no lock.
//
// Threads  Pass: any, at once. wait_for_earlier: one caller at a time.
//
// A reader counts itself in under the parity of the epoch. The writer
// publishes, moves the epoch on and waits until the old parity is at zero;
// readers who come meanwhile count under the other one and hold nobody up.
//
// Why it is sound: the reader adds to the counter and then sees the epoch
// unmoved; the writer moves the epoch and then looks at the counter. All four
// are seq_cst, hence in one order, so either the writer sees the reader or the
// reader sees the epoch moved and tries again. A reader who sees the new epoch
// sees what was published before it. Leaving is a release that the writer's
// look acquires: the reader's last access comes before the free.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace nbd_remap {

class Readers {
  struct alignas(64) Counter {  // a cache line each
    std::atomic<std::uint64_t> inside{0};
  };

 public:
  class Pass {
   public:
    explicit Pass(Readers& readers) {
      const std::size_t shard = shard_of_this_thread();
      for (;;) {
        const std::uint64_t epoch = readers.epoch_.load();
        counter_ = &readers.counters_[epoch & 1][shard];
        counter_->inside.fetch_add(1);
        if (readers.epoch_.load() == epoch) return;
        leave();  // One change was completed in between: rare, and short.
      }
    }
    ~Pass() { leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    void leave() { counter_->inside.fetch_sub(1, std::memory_order_release); }
    Counter* counter_;
  };

  // Returns when every reader who may have come before the call has left.
  // One caller at a time.
  void wait_for_earlier() {
    const std::uint64_t epoch = epoch_.load();
    epoch_.store(epoch + 1);
    for (Counter& counter : counters_[epoch & 1]) {
      while (counter.inside.load() != 0) std::this_thread::yield();
    }
  }

 private:
  static constexpr std::size_t kShards = 16;

  // Threads take turns, so that up to kShards of them never share a counter.
  static std::size_t shard_of_this_thread() {
    static std::atomic<std::size_t> next{1};
    constinit thread_local std::size_t number = 0;
    if (number == 0) number = next.fetch_add(1, std::memory_order_relaxed);
    return number % kShards;
  }

  std::atomic<std::uint64_t> epoch_{0};
  std::array<std::array<Counter, kShards>, 2> counters_;
};

}  // namespace nbd_remap
