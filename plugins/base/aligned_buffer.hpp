#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// AlignedBuffer: memory that any disk accepts for direct I/O.
// AlignedBufferPool: such buffers to borrow, so that a request allocates none.
//
// Threads  the pool: any, at once. A buffer: one at a time.

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {

inline constexpr std::size_t kBufferAlignment = 4096;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws std::bad_alloc. The content is zero.
  explicit AlignedBuffer(std::size_t size)
      : size_(size),
        data_(static_cast<std::byte*>(std::aligned_alloc(
            kBufferAlignment, round_up(size ? size : 1, kBufferAlignment)))) {
    if (!data_) throw std::bad_alloc();
    std::fill_n(data_.get(), round_up(size, kBufferAlignment), std::byte{});
  }
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  Bytes bytes() const { return {data_.get(), size_}; }
  Bytes first(std::size_t n) const { return bytes().first(n); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::size_t size_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

class AlignedBufferPool {
 public:
  explicit AlignedBufferPool(std::size_t buffer_size)
      : buffer_size_(buffer_size) {}

  // Given back when it goes out of scope, which must be before the pool does.
  class Loan {
   public:
    Loan(AlignedBufferPool* pool, AlignedBuffer buffer)
        : pool_(pool), buffer_(std::move(buffer)) {}
    Loan(Loan&&) = delete;
    Loan& operator=(Loan&&) = delete;
    ~Loan() { pool_->put_back(std::move(buffer_)); }
    const AlignedBuffer* operator->() const { return &buffer_; }

   private:
    AlignedBufferPool* pool_;
    AlignedBuffer buffer_;
  };

  // Allocates (and may throw std::bad_alloc) only when all are lent.
  Loan borrow() {
    {
      MutexLock lock(mu_);
      if (!idle_.empty()) {
        AlignedBuffer buffer = std::move(idle_.back());
        idle_.pop_back();
        return {this, std::move(buffer)};
      }
    }
    return {this, AlignedBuffer(buffer_size_)};
  }
  std::size_t buffer_size() const { return buffer_size_; }

 private:
  void put_back(AlignedBuffer buffer) noexcept {
    MutexLock lock(mu_);
    try {
      idle_.push_back(std::move(buffer));
    } catch (const std::bad_alloc&) {
      // Freed instead of kept.
    }
  }

  const std::size_t buffer_size_;
  Mutex mu_;
  std::vector<AlignedBuffer> idle_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
