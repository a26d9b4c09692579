// SPDX-License-Identifier: BSD-3-Clause
// The memory that a remap table really takes.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// A million blocks at random places of a volume of 4 TiB.
std::vector<RemapEntry> scattered_million() {
  std::mt19937_64 random(1);
  std::vector<RemapEntry> entries;
  entries.reserve(1'100'000);
  while (entries.size() < 1'100'000) {
    entries.push_back({BlockNo{random() % (std::uint64_t{1} << 30)}, 1, 0xFF});
  }
  const auto by_block = [](const auto& a, const auto& b) {
    return a.block < b.block;
  };
  std::sort(entries.begin(), entries.end(), by_block);
  entries.erase(std::unique(entries.begin(), entries.end(),
                            [](const auto& a, const auto& b) {
                              return a.block == b.block;
                            }),
                entries.end());
  std::shuffle(entries.begin(), entries.end(), random);
  entries.resize(1'000'000);
  return entries;
}

struct Measured {
  double resident_per_entry;
  double said_per_entry;
  double heap_per_entry;
};

// What `fill` makes a table of a million entries take.
Measured measure(const std::function<void(RemapTable&)>& fill) {
  const auto heap = [] {
    const auto info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  malloc_trim(0);
  const std::uint64_t resident_before = resident_bytes();
  const std::uint64_t heap_before = heap();
  RemapTable table(std::uint64_t{1} << 30);
  fill(table);
  EXPECT_EQ(table.remapped_count(), 1'000'000U);
  const Measured m{
      static_cast<double>(resident_bytes() - resident_before) / 1e6,
      static_cast<double>(table.memory_bytes()) / 1e6,
      static_cast<double>(heap() - heap_before) / 1e6};
  printf(
      "bytes an entry: %.2f resident, %.2f in malloc's chunks, "
      "%.2f by memory_bytes()\n",
      m.resident_per_entry, m.heap_per_entry, m.said_per_entry);
  return m;
}

class RemapTableMemory : public testing::Test {
 protected:
  // As the plugin does: with an arena for each thread, malloc can keep what
  // one thread freed while another asks for more.
  static void SetUpTestSuite() {
    if (!kSanitized) {
      ASSERT_EQ(mallopt(M_ARENA_MAX, 1), 1);
    }
  }
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer's allocator is another one";
  }
};

TEST_F(RemapTableMemory, a_million_loaded_take_at_most_32_bytes_each) {
  auto entries = scattered_million();
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.block < b.block; });
  const auto m = measure([&](RemapTable& table) { table.load(entries); });
  EXPECT_GT(m.resident_per_entry, 24.0);
  EXPECT_LE(m.resident_per_entry, 32.0);
  EXPECT_NEAR(m.said_per_entry, m.heap_per_entry, 0.3);
}

TEST_F(RemapTableMemory, a_million_put_at_random_take_at_most_32_bytes_each) {
  const auto entries = scattered_million();
  const auto m = measure([&](RemapTable& table) {
    for (const RemapEntry& entry : entries) table.put(entry);
  });
  EXPECT_GT(m.resident_per_entry, 24.0);
  EXPECT_LE(m.resident_per_entry, 32.0);
  EXPECT_NEAR(m.said_per_entry, m.heap_per_entry, 0.3);
}

TEST_F(RemapTableMemory, a_million_put_by_four_threads_take_no_more) {
  const auto entries = scattered_million();
  const auto m = measure([&](RemapTable& table) {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < entries.size(); i += 4) {
          table.put(entries[i]);
        }
      });
    }
  });
  EXPECT_GT(m.resident_per_entry, 24.0);
  EXPECT_LE(m.resident_per_entry, 32.0);
}

TEST_F(RemapTableMemory, erasing_gives_it_back) {
  const auto entries = scattered_million();
  RemapTable table(std::uint64_t{1} << 30);
  const std::uint64_t empty = table.memory_bytes();
  for (std::size_t i = 0; i < 100'000; ++i) table.put(entries[i]);
  const std::uint64_t full = table.memory_bytes();
  for (std::size_t i = 1000; i < 100'000; ++i) table.erase(entries[i].block);
  EXPECT_EQ(table.remapped_count(), 1000U);
  EXPECT_LT(table.memory_bytes() - empty, (full - empty) / 50);
  for (std::size_t i = 0; i < 1000; ++i) table.erase(entries[i].block);
  EXPECT_EQ(table.memory_bytes(), empty);
}

}  // namespace
}  // namespace nbd_remap
