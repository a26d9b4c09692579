// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "plugins/remap/remap_readers.hpp"
#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;

// An entry that shows whether it is whole: valid follows from the others.
std::uint64_t seal(std::uint64_t block, std::uint64_t slot) {
  return (block * 0x9E3779B97F4A7C15 + slot) * 0xC2B2AE3D27D4EB4F | 1;
}
RemapEntry sealed(std::uint64_t block, std::uint64_t slot) {
  return {BlockNo{block}, slot, seal(block, slot)};
}
bool whole(const RemapEntry& entry) {
  return entry.valid == seal(entry.block.value, entry.slot_or_none);
}

// Mistake 15, invariant 2. Even blocks stay, odd ones come and go.
TEST(RemapTable, readers_see_whole_entries_while_the_table_changes) {
  constexpr std::uint64_t kBlocks = 20'000;
  RemapTable table(kBlocks);
  std::vector<RemapEntry> stable;
  for (std::uint64_t b = 0; b < kBlocks; b += 2) stable.push_back(sealed(b, b));
  table.load(stable);

  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> bad{0};
  std::atomic<std::uint64_t> lost{0};
  std::atomic<std::uint64_t> hits{0};
  std::atomic<std::uint64_t> odd_hits{0};
  std::vector<std::jthread> readers;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    readers.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      while (!stop) {
        const std::uint64_t first = random() % kBlocks;
        const std::uint64_t length = random() % 4 + 1;
        const auto entry =
            table.find_first(BlockNo{first}, BlockNo{first + length});
        const std::uint64_t even = (first + 1) / 2 * 2;
        if (entry) {
          ++hits;
          if (entry->block.value % 2 == 1) ++odd_hits;
          if (!whole(*entry) || entry->block.value < first ||
              entry->block.value >= first + length) {
            ++bad;
          }
        }
        if (even < std::min(first + length, kBlocks) &&
            (!entry || entry->block.value > even)) {
          ++lost;
        }
      }
    });
  }
  std::mt19937_64 random(99);
  std::uint64_t changes = 0;
  // Fills the gaps and empties them again, so that leaves split and join.
  for (const auto until = steady_clock::now() + std::chrono::seconds(2);
       steady_clock::now() < until;) {
    for (int i = 0; i < 4000; ++i, ++changes) {
      const std::uint64_t odd = random() % (kBlocks / 2) * 2 + 1;
      table.put(sealed(odd, random() % 1000));
      if (i % 8 == 0) table.put(sealed(odd - 1, random() % 1000));
    }
    for (std::uint64_t odd = 1; odd < kBlocks; odd += 2, ++changes) {
      table.erase(BlockNo{odd});
    }
    if (random() % 4 == 0) table.load(stable);
  }
  stop = true;
  readers.clear();
  EXPECT_EQ(bad, 0U);
  EXPECT_EQ(lost, 0U);
  EXPECT_GT(hits, 1000U);
  EXPECT_GT(odd_hits, 0U);
  EXPECT_GT(changes, 1000U);
  EXPECT_EQ(table.snapshot().size(), kBlocks / 2);
}

// Low comes before high and goes after it. They lie in neighbouring leaves, so
// a lookup that read the two leaves at two moments could see high alone.
TEST(RemapTable, a_lookup_over_two_leaves_sees_one_moment) {
  constexpr std::uint64_t kBlocks = 20'000;
  RemapTable table(kBlocks);
  std::vector<RemapEntry> fill;
  for (std::uint64_t b = 0; b < 10'000; b += 100) fill.push_back(sealed(b, b));
  for (std::uint64_t b = 12'000; b < kBlocks; b += 100) {
    fill.push_back(sealed(b, b));
  }
  table.load(fill);
  const RemapEntry low = sealed(10'500, 1);
  const RemapEntry high = sealed(11'500, 2);

  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> high_alone{0};
  std::atomic<std::uint64_t> hits{0};
  std::atomic<std::uint64_t> half_snapshots{0};
  std::vector<std::jthread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        const auto entry = table.find_first(BlockNo{10'001}, BlockNo{11'999});
        if (entry) ++hits;
        if (entry == high) ++high_alone;
      }
    });
  }
  readers.emplace_back([&] {
    while (!stop) {
      const auto all = table.snapshot();
      const auto has = [&](const RemapEntry& e) {
        return std::find(all.begin(), all.end(), e) != all.end();
      };
      if (has(high) && !has(low)) ++half_snapshots;
      if (all.size() < fill.size()) ++half_snapshots;
    }
  });
  for (const auto until = steady_clock::now() + std::chrono::seconds(1);
       steady_clock::now() < until;) {
    table.put(low);
    table.put(high);
    table.erase(high.block);
    table.erase(low.block);
  }
  stop = true;
  readers.clear();
  EXPECT_EQ(high_alone, 0U);
  EXPECT_EQ(half_snapshots, 0U);
  EXPECT_GT(hits, 0U);
}

// The value in the cell that is not the current one is wiped once nobody may
// see it. More threads than processors, so that readers are also interrupted
// between looking at the epoch and counting themselves in.
TEST(Readers, what_a_reader_has_seen_stays_until_it_leaves) {
  Readers readers;
  std::array<std::atomic<std::uint64_t>, 2> cells{1, 0};
  std::atomic<std::size_t> current{0};
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wiped{0};
  std::atomic<std::uint64_t> visits{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const Readers::Pass pass(readers);
        const std::size_t mine = current.load();
        for (int look = 0; look < 2; ++look) {
          if (cells[mine].load(std::memory_order_relaxed) == 0) ++wiped;
        }
        ++visits;
      }
    });
  }
  std::uint64_t changes = 0;
  for (const auto until = steady_clock::now() + std::chrono::seconds(1);
       steady_clock::now() < until; ++changes) {
    const std::size_t old = current;
    cells[1 - old] = 1;
    current = 1 - old;
    readers.wait_for_earlier();
    cells[old] = 0;
  }
  stop = true;
  threads.clear();
  EXPECT_EQ(wiped, 0U);
  EXPECT_GT(visits, 0U);
  EXPECT_GT(changes, 0U);
}

}  // namespace
}  // namespace nbd_remap
