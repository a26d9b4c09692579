// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/aligned_buffer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

namespace nbd_remap {
namespace {

TEST(AlignedBuffer, is_aligned_and_zero_at_any_size) {
  for (std::size_t size : {0U, 1U, 511U, 4096U, 4097U, 1U << 20U}) {
    const AlignedBuffer buffer(size);
    EXPECT_EQ(
        reinterpret_cast<std::uintptr_t>(buffer.data()) % kBufferAlignment, 0U);
    EXPECT_EQ(buffer.bytes().size(), size);
    EXPECT_TRUE(std::all_of(buffer.bytes().begin(), buffer.bytes().end(),
                            [](std::byte b) { return b == std::byte{}; }));
  }
}

TEST(AlignedBufferPool, lends_the_same_memory_again) {
  AlignedBufferPool pool(4096);
  const std::byte* first = nullptr;
  {
    const auto loan = pool.borrow();
    first = loan->data();
  }
  const auto again = pool.borrow();
  EXPECT_EQ(again->data(), first);
  const auto other = pool.borrow();
  EXPECT_NE(other->data(), first);
}

TEST(AlignedBufferPool, never_lends_one_buffer_to_two_threads) {
  AlignedBufferPool pool(4096);
  std::atomic<int> shared = 0;
  {
    std::vector<std::jthread> threads;
    for (int id = 1; id <= 4; ++id)
      threads.emplace_back([&, id] {
        const auto mark = static_cast<std::byte>(id);
        for (int i = 0; i < 2000; ++i) {
          const auto loan = pool.borrow();
          std::fill_n(loan->data(), 4096, mark);
          std::this_thread::yield();
          if (std::count(loan->data(), loan->data() + 4096, mark) != 4096)
            ++shared;
        }
      });
  }
  EXPECT_EQ(shared, 0);
}

}  // namespace
}  // namespace nbd_remap
