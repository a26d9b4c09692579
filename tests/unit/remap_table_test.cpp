// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace {
// Which allocation of this thread fails: 1 is the next; 0: none.
constinit thread_local int fail_at = 0;
}  // namespace

// The table's allocations pass here. Not inlined, or GCC 12 takes malloc and
// delete for a mismatch. NOLINTBEGIN
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (fail_at > 0 && --fail_at == 0) throw std::bad_alloc();
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
// NOLINTEND

namespace nbd_remap {
namespace {

#ifdef __SANITIZE_THREAD__
constexpr int kSlowness = 10;
#else
constexpr int kSlowness = 1;
#endif

using Model = std::map<std::uint64_t, RemapEntry>;

std::optional<RemapEntry> find_first(const Model& model, std::uint64_t first,
                                     std::uint64_t end) {
  const auto at = model.lower_bound(first);
  if (first >= end || at == model.end() || at->first >= end) {
    return std::nullopt;
  }
  return at->second;
}

std::vector<RemapEntry> values(const Model& model) {
  std::vector<RemapEntry> all;
  for (const auto& [block, entry] : model) all.push_back(entry);
  return all;
}

std::uint64_t remapped_in(const Model& model) {
  return static_cast<std::uint64_t>(
      std::count_if(model.begin(), model.end(),
                    [](const auto& e) { return e.second.remapped(); }));
}

std::optional<RemapEntry> find(const RemapTable& table, std::uint64_t first,
                               std::uint64_t end) {
  return table.find_first(BlockNo{first}, BlockNo{end});
}

TEST(RemapTable, a_new_table_knows_no_block) {
  const RemapTable table(1000);
  EXPECT_FALSE(find(table, 0, 1000));
  EXPECT_EQ(table.remapped_count(), 0U);
  EXPECT_EQ(table.pending_count(), 0U);
  EXPECT_TRUE(table.snapshot().empty());
}

// Mistake 19
TEST(RemapTable, the_first_and_the_last_block_and_slot_0_are_like_any_other) {
  // Sizes about the number of regions that the bitmap can tell apart.
  for (const std::uint64_t blocks :
       {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{64},
        std::uint64_t{65}, (std::uint64_t{1} << 20) - 1, std::uint64_t{1} << 20,
        (std::uint64_t{1} << 20) + 1, std::uint64_t{3} << 33}) {
    SCOPED_TRACE("blocks " + std::to_string(blocks));
    for (const std::uint64_t block : {std::uint64_t{0}, blocks - 1}) {
      RemapTable table(blocks);
      const RemapEntry entry{BlockNo{block}, 0, 0xFF};
      table.put(entry);
      EXPECT_TRUE(entry.remapped());
      EXPECT_EQ(find(table, block, block + 1), entry);
      EXPECT_EQ(find(table, 0, blocks), entry);
      EXPECT_FALSE(find(table, 0, block));
      EXPECT_FALSE(find(table, block + 1, blocks));
      EXPECT_EQ(table.remapped_count(), 1U);
      EXPECT_EQ(table.pending_count(), 0U);
      table.erase(BlockNo{block});
      EXPECT_FALSE(find(table, 0, blocks));
      EXPECT_EQ(table.remapped_count(), 0U);
    }
  }
}

// Mistake 13
TEST(RemapTable, an_entry_is_used_at_once_and_repeats_leave_one) {
  RemapTable table(1000);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const RemapEntry entry{BlockNo{7}, i / 2, 0xFF};
    table.put(entry);
    ASSERT_EQ(find(table, 7, 8), entry);
  }
  EXPECT_EQ(table.remapped_count(), 1U);
  EXPECT_EQ(table.snapshot().size(), 1U);
}

TEST(RemapTable, pending_and_remapped_entries_are_counted_apart) {
  RemapTable table(1000);
  table.put({BlockNo{1}, RemapEntry::kNoSlot, 0x0F});
  table.put({BlockNo{2}, 0, 0x0F});
  EXPECT_EQ(table.pending_count(), 1U);
  EXPECT_EQ(table.remapped_count(), 1U);
  table.put({BlockNo{1}, 1, 0xFF});
  EXPECT_EQ(table.pending_count(), 0U);
  EXPECT_EQ(table.remapped_count(), 2U);
  table.erase(BlockNo{3});
  table.erase(BlockNo{1});
  EXPECT_EQ(table.remapped_count(), 1U);
}

TEST(RemapTable, empty_and_reversed_ranges_and_ranges_beyond_the_end_are_fine) {
  constexpr std::uint64_t kLast = ~std::uint64_t{0};
  RemapTable table(1000);
  const RemapEntry entry{BlockNo{999}, 5, 0xFF};
  table.put(entry);
  EXPECT_FALSE(find(table, 999, 999));
  EXPECT_FALSE(find(table, 1000, 999));
  EXPECT_FALSE(find(table, kLast, 0));
  EXPECT_FALSE(find(table, 1000, kLast));
  EXPECT_FALSE(find(table, kLast - 1, kLast));
  EXPECT_EQ(find(table, 0, kLast), entry);
  EXPECT_EQ(find(table, 999, kLast), entry);
}

// What each step of a random run does to the table and to the model.
class Differential {
 public:
  Differential(std::uint64_t blocks, std::uint64_t seed)
      : blocks_(blocks), random_(seed), table_(blocks) {}

  // REQUIRES: erase_percent < 100. The rest are puts, as many lookups again.
  void run(int steps, unsigned erase_percent) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      const std::uint64_t block = choose();
      if (random_() % 100 < erase_percent) {
        table_.erase(BlockNo{block});
        erased_ += model_.erase(block);
      } else {
        RemapEntry entry{BlockNo{block}, random_() % 5, random_() % 256};
        if (random_() % 3 == 0) entry.slot_or_none = RemapEntry::kNoSlot;
        table_.put(entry);
        model_[block] = entry;
      }
      const std::uint64_t first = random_() % 2 == 0 ? block : choose();
      const std::uint64_t end = first + lengths_[random_() % lengths_.size()];
      const auto found = find(table_, first, end);
      ASSERT_EQ(found, find_first(model_, first, end))
          << "step " << i << ", [" << first << ", " << end << ")";
      hits_ += found ? 1 : 0;
    }
    EXPECT_EQ(table_.snapshot(), values(model_));
    EXPECT_EQ(table_.remapped_count(), remapped_in(model_));
    EXPECT_EQ(table_.pending_count(), model_.size() - remapped_in(model_));
  }
  void reload() {
    table_.load(values(model_));
    EXPECT_EQ(table_.snapshot(), values(model_));
  }

  const Model& model() const { return model_; }
  std::uint64_t hits() const { return hits_; }
  std::uint64_t erased() const { return erased_; }

 private:
  std::uint64_t choose() {
    switch (random_() % 100) {
      case 0:
        return 0;
      case 1:
        return blocks_ - 1;
      default:
        return random_() % blocks_;
    }
  }

  const std::uint64_t blocks_;
  const std::vector<std::uint64_t> lengths_{0, 1, 1, 1, 2, 8, 256, 16384};
  std::mt19937_64 random_;
  RemapTable table_;
  Model model_;
  std::uint64_t hits_ = 0;
  std::uint64_t erased_ = 0;
};

// Mistake 22: the bitmap never hides an entry, at any density.
TEST(RemapTable, a_million_random_steps_agree_with_a_map) {
  struct Volume {
    std::uint64_t blocks;
    std::uint64_t seed;
  };
  for (const auto& [blocks, seed] :
       {Volume{300, 1}, Volume{5000, 2}, Volume{200'000, 3},
        Volume{(std::uint64_t{1} << 20) + 7, 4},
        Volume{std::uint64_t{1} << 34, 5}}) {
    SCOPED_TRACE("blocks " + std::to_string(blocks) + ", seed " +
                 std::to_string(seed));
    Differential both(blocks, seed);
    both.run(80'000 / kSlowness, 20);  // grows
    EXPECT_GT(both.model().size(), blocks < 1000 ? 200U : 1000U);
    both.reload();
    both.run(40'000 / kSlowness, 50);
    both.run(80'000 / kSlowness, 95);  // shrinks
    EXPECT_GT(both.hits(), 100U);
    EXPECT_GT(both.erased(), blocks < 250'000 ? 100U : 1U);
    if (HasFailure()) return;
  }
}

// Every leaf boundary is met, whatever the leaf's size.
TEST(RemapTable, every_range_about_every_entry_is_right) {
  constexpr std::uint64_t kBlocks = 4000;
  RemapTable table(kBlocks);
  Model model;
  std::vector<std::uint64_t> order;
  for (std::uint64_t b = 0; b < kBlocks; b += 4) order.push_back(b);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  for (const std::uint64_t b : order) {
    model[b] = {BlockNo{b}, b, 0xFF};
    table.put(model[b]);
  }
  const auto check = [&] {
    for (std::uint64_t first = 0; first < kBlocks; ++first) {
      for (std::uint64_t end = first; end < first + 6; ++end) {
        ASSERT_EQ(find(table, first, end), find_first(model, first, end))
            << "[" << first << ", " << end << ")";
      }
    }
  };
  check();
  table.load(values(model));
  check();
  // In rising order, then from both ends: other leaves split and join.
  for (std::uint64_t b = 2; b < kBlocks; b += 4) {
    model[b] = {BlockNo{b}, b, 0xFF};
    table.put(model[b]);
  }
  check();
  while (!model.empty()) {
    for (int i = 0; i < 333 && !model.empty(); ++i) {
      const auto at = i % 2 == 0 ? model.begin() : std::prev(model.end());
      table.erase(BlockNo{at->first});
      model.erase(at);
    }
    check();
  }
  EXPECT_TRUE(table.snapshot().empty());
}

// A large request over a map that is nearly empty: the entry's bit may be lower
// in its word than the first block's is in its own.
TEST(RemapTable, a_lone_entry_is_found_from_far_before_it) {
  constexpr std::uint64_t kBlocks = 400;
  for (std::uint64_t at = 0; at < kBlocks; ++at) {
    RemapTable table(kBlocks);
    const RemapEntry entry{BlockNo{at}, at, 0xFF};
    table.put(entry);
    for (std::uint64_t first = 0; first < kBlocks; ++first) {
      ASSERT_EQ(find(table, first, kBlocks).has_value(), first <= at)
          << at << " from " << first;
      ASSERT_EQ(find(table, 0, first + 1).has_value(), at <= first)
          << at << " up to " << first;
    }
  }
}

// As disks go bad: thousands of neighbours, and a few far away. Where all
// leaves but a few lie in one spot, the hints say next to nothing.
TEST(RemapTable, a_crowd_in_one_place_is_found_as_scattered_entries_are) {
  constexpr std::uint64_t kBlocks = std::uint64_t{1} << 40;
  for (const std::uint64_t crowd :
       {std::uint64_t{0}, kBlocks / 3, kBlocks - 5001}) {
    RemapTable table(kBlocks);
    Model model;
    std::mt19937_64 random(crowd);
    for (int i = 0; i < 4000; ++i) {
      const std::uint64_t block =
          i % 100 == 0 ? random() % kBlocks : crowd + random() % 5000;
      model[block] = {BlockNo{block}, static_cast<std::uint64_t>(i), 0xFF};
      table.put(model[block]);
    }
    ASSERT_GT(model.size(), 10 * RemapTable::kLeafEntries);
    for (int loaded = 0; loaded < 2; ++loaded) {
      for (const auto& [block, entry] : model) {
        ASSERT_EQ(find(table, block, block + 1), entry);
        for (const std::uint64_t first : {block + 1, block - block / 2})
          ASSERT_EQ(find(table, first, first + 3000),
                    find_first(model, first, first + 3000));
      }
      table.load(values(model));
    }
  }
}

TEST(RemapTable, load_replaces_everything) {
  RemapTable table(std::uint64_t{1} << 30);
  const auto old = RemapEntry{BlockNo{77}, 3, 1};
  table.put(old);
  std::vector<RemapEntry> entries;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const bool pending = i % 4 == 0;
    entries.push_back(
        {BlockNo{i * 1000}, pending ? RemapEntry::kNoSlot : i, 0xFF});
  }
  for (int twice = 0; twice < 2; ++twice) {
    table.load(entries);
    EXPECT_EQ(table.snapshot(), entries);
    EXPECT_FALSE(find(table, 77, 78));
    for (const RemapEntry& entry : entries) {
      ASSERT_EQ(find(table, entry.block.value, entry.block.value + 1), entry);
    }
    EXPECT_EQ(table.remapped_count(), 750U);
    EXPECT_EQ(table.pending_count(), 250U);
  }
  table.load({});
  EXPECT_TRUE(table.snapshot().empty());
  EXPECT_FALSE(find(table, 0, std::uint64_t{1} << 30));
  EXPECT_EQ(table.remapped_count() + table.pending_count(), 0U);
  table.put(old);
  EXPECT_EQ(table.snapshot(), std::vector{old});
}

TEST(RemapTable, without_memory_a_change_fails_and_changes_nothing) {
  constexpr std::uint64_t kBlocks = 100'000;
  Model model;
  for (std::uint64_t b = 0; b < 1000; ++b) {
    model[b * 3] = {BlockNo{b * 3}, b, 0xFF};
  }
  RemapTable table(kBlocks);
  const auto loaded = values(model);
  const std::vector<RemapEntry> other(loaded.begin(), loaded.begin() + 500);
  table.load(loaded);

  // A change, with its first, second ... allocation failing until none fails.
  int failures = 0;
  const auto attempt = [&](const auto& change, const auto& undo) {
    const auto before = table.snapshot();
    for (int n = 1;; ++n) {
      bool failed = false;
      fail_at = n;
      try {
        change();
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      fail_at = 0;
      if (!failed) break;
      ++failures;
      ASSERT_EQ(table.snapshot(), before);
      ASSERT_EQ(table.remapped_count(), before.size());
    }
    ASSERT_NE(table.snapshot(), before);
    undo();
    ASSERT_EQ(table.snapshot(), before);
  };
  // Puts into one leaf until it has split, then erases until it has gone.
  for (std::uint64_t b = 1; b < 120; b += 3) {
    attempt(
        [&] {
          table.put({BlockNo{b}, b, 1});
        },
        [&] { table.erase(BlockNo{b}); });
    table.put({BlockNo{b}, b, 1});
  }
  EXPECT_GT(failures, 40) << "no split was met";
  failures = 0;
  for (const RemapEntry& entry : table.snapshot()) {
    attempt([&] { table.erase(entry.block); }, [&] { table.put(entry); });
    table.erase(entry.block);
  }
  EXPECT_GT(failures, 1000);
  table.load(loaded);
  failures = 0;
  attempt([&] { table.load(other); }, [&] { table.load(loaded); });
  EXPECT_GT(failures, 4);
}

}  // namespace
}  // namespace nbd_remap
