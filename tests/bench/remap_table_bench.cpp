// SPDX-License-Identifier: BSD-3-Clause
// What a lookup and a change of the remap table cost.
//
//   bench_remap_table --benchmark_repetitions=5
//
// Bounds: find_in_a_region_without_mappings 50 ns, find_a_hit_among_a_million
// and find_a_miss_among_a_million 250 ns. unordered_map_hit is the yardstick
// for ratios within one run. Blocks are looked up in a random order prepared
// beforehand, so that no time goes into choosing them.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kEntries = 1'000'000;
// A volume of 4 TiB in blocks of 4 KiB. The entries lie in its first half.
constexpr std::uint64_t kVolumeBlocks = std::uint64_t{1} << 30;
constexpr std::size_t kPatternMask = (std::size_t{1} << 20) - 1;

// At random places that are even, so that the odd ones next to them are misses.
const std::vector<RemapEntry>& million() {
  static const auto entries = [] {
    std::mt19937_64 random(7);
    std::vector<std::uint64_t> blocks(kEntries + kEntries / 50);
    for (auto& block : blocks) block = random() % (kVolumeBlocks / 4) * 2;
    std::sort(blocks.begin(), blocks.end());
    blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
    blocks.resize(kEntries);
    std::vector<RemapEntry> all;
    for (const std::uint64_t block : blocks) {
      all.push_back({BlockNo{block}, all.size(), 0xFF});
    }
    return all;
  }();
  return entries;
}

const RemapTable& table() {
  static const auto loaded = [] {
    auto t = std::make_unique<RemapTable>(kVolumeBlocks);
    t->load(million());
    return t;
  }();
  return *loaded;
}

const std::vector<RemapEntry>& shuffled() {
  static const auto entries = [] {
    auto all = million();
    std::shuffle(all.begin(), all.end(), std::mt19937_64(3));
    return all;
  }();
  return entries;
}

// The same entries, grown one by one: its leaves lie anywhere in memory.
const RemapTable& grown_table() {
  static const auto grown = [] {
    auto t = std::make_unique<RemapTable>(kVolumeBlocks);
    for (const RemapEntry& entry : shuffled()) t->put(entry);
    return t;
  }();
  return *grown;
}

template <class Choose>
std::vector<BlockNo> pattern(Choose choose) {
  std::mt19937_64 random(1);
  std::vector<BlockNo> blocks;
  for (std::size_t i = 0; i <= kPatternMask; ++i) {
    blocks.push_back(choose(random));
  }
  return blocks;
}
const std::vector<BlockNo>& hits() {
  static const auto blocks = pattern(
      [](auto& random) { return million()[random() % kEntries].block; });
  return blocks;
}
const std::vector<BlockNo>& misses() {
  static const auto blocks = pattern([](auto& random) {
    return BlockNo{million()[random() % kEntries].block.value + 1};
  });
  return blocks;
}
const std::vector<BlockNo>& far_away() {
  static const auto blocks = pattern([](auto& random) {
    return BlockNo{kVolumeBlocks / 8 * 5 + random() % (kVolumeBlocks / 4)};
  });
  return blocks;
}

// The place of each lookup depends on what the one before it found, so that
// the processor does not run several side by side.
void find(benchmark::State& state, const RemapTable& in,
          const std::vector<BlockNo>& blocks, std::uint64_t length) {
  std::size_t i = static_cast<std::size_t>(state.thread_index()) * 1009;
  std::uint64_t found = 0;
  for (auto _ : state) {
    const BlockNo first = blocks[i & kPatternMask];
    const auto entry = in.find_first(first, BlockNo{first.value + length});
    std::uint64_t step = 1;
    if (entry) {
      ++found;
      step += entry->valid >> 63;
    }
    benchmark::DoNotOptimize(step);
    i += step;
  }
  state.counters["hit_ratio"] = benchmark::Counter(
      static_cast<double>(found) / static_cast<double>(state.iterations()),
      benchmark::Counter::kAvgThreads);
}

void find_in_a_region_without_mappings(benchmark::State& state) {
  find(state, table(), far_away(), static_cast<std::uint64_t>(state.range(0)));
}
// One block; a request of 1 MiB; the largest request.
BENCHMARK(find_in_a_region_without_mappings)->Arg(1)->Arg(256)->Arg(16384);

void find_a_hit_among_a_million(benchmark::State& state) {
  find(state, table(), hits(), 1);
}
BENCHMARK(find_a_hit_among_a_million);

void find_a_hit_in_a_grown_table(benchmark::State& state) {
  find(state, grown_table(), hits(), 1);
}
BENCHMARK(find_a_hit_in_a_grown_table);

void find_a_miss_among_a_million(benchmark::State& state) {
  find(state, table(), misses(), 1);
}
BENCHMARK(find_a_miss_among_a_million);

void unordered_map_hit(benchmark::State& state) {
  static const auto map = [] {
    std::unordered_map<std::uint64_t, RemapEntry> all;
    for (const RemapEntry& entry : shuffled()) all[entry.block.value] = entry;
    return all;
  }();
  std::size_t i = 0;
  for (auto _ : state) {
    const auto entry = map.find(hits()[i & kPatternMask].value);
    std::uint64_t step = 1;
    if (entry != map.end()) step += entry->second.valid >> 63;
    benchmark::DoNotOptimize(step);
    i += step;
  }
}
BENCHMARK(unordered_map_hit);

// Puts and erases random blocks among a million, so that the size stays.
void put_and_erase_among_a_million(benchmark::State& state) {
  RemapTable t(kVolumeBlocks);
  t.load(million());
  std::size_t i = 0;
  for (auto _ : state) {
    const BlockNo block = misses()[i++ & kPatternMask];
    t.put({block, i, 0xFF});
    t.erase(block);
  }
}
BENCHMARK(put_and_erase_among_a_million);

void put_a_million_in_random_order(benchmark::State& state) {
  for (auto _ : state) {
    RemapTable t(kVolumeBlocks);
    for (const RemapEntry& entry : shuffled()) t.put(entry);
    state.counters["bytes_per_entry"] = static_cast<double>(t.memory_bytes()) /
                                        static_cast<double>(t.remapped_count());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kEntries) *
                          state.iterations());
}
BENCHMARK(put_a_million_in_random_order)->Unit(benchmark::kMillisecond);

void load_a_million(benchmark::State& state) {
  RemapTable t(kVolumeBlocks);
  for (auto _ : state) t.load(million());
  state.counters["bytes_per_entry"] = static_cast<double>(t.memory_bytes()) /
                                      static_cast<double>(t.remapped_count());
}
BENCHMARK(load_a_million)->Unit(benchmark::kMillisecond);

std::unique_ptr<RemapTable> busy_table;
std::unique_ptr<std::jthread> inserter;
std::atomic<std::uint64_t> puts{0};

void start_inserting(const benchmark::State& /*state*/) {
  busy_table = std::make_unique<RemapTable>(kVolumeBlocks);
  busy_table->load(million());
  puts = 0;
  inserter = std::make_unique<std::jthread>([](const std::stop_token& stop) {
    for (std::size_t i = 0; !stop.stop_requested(); ++i) {
      busy_table->put({misses()[i & kPatternMask], i, 0xFF});
      ++puts;
    }
  });
}
void stop_inserting(const benchmark::State& /*state*/) {
  inserter.reset();
  busy_table.reset();
}
void find_while_another_thread_inserts(benchmark::State& state) {
  const std::uint64_t before = puts;
  find(state, *busy_table, hits(), 1);
  state.counters["puts"] = benchmark::Counter(
      static_cast<double>(puts - before), benchmark::Counter::kAvgThreads);
}
BENCHMARK(find_while_another_thread_inserts)
    ->Threads(2)
    ->UseRealTime()
    ->Setup(start_inserting)
    ->Teardown(stop_inserting);

}  // namespace
}  // namespace nbd_remap
