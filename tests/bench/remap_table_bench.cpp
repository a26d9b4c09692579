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
constexpr std::uint64_t kGap = kVolumeBlocks / 2 / kEntries;
constexpr std::size_t kPatternMask = (std::size_t{1} << 20) - 1;

// Entry i, at a place within its own stretch of kGap blocks.
RemapEntry entry_number(std::uint64_t i) {
  const std::uint64_t jitter = i * 0x9E3779B97F4A7C15 >> 40;
  return {BlockNo{i * kGap + jitter % (kGap - 1)}, i, 0xFF};
}

const std::vector<RemapEntry>& million() {
  static const auto entries = [] {
    std::vector<RemapEntry> all;
    for (std::uint64_t i = 0; i < kEntries; ++i) all.push_back(entry_number(i));
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
    return BlockNo{kVolumeBlocks / 2 + kGap + random() % (kVolumeBlocks / 4)};
  });
  return blocks;
}

// Each lookup waits for the one before it, as in a request: without that the
// processor would run several side by side.
void find(benchmark::State& state, const RemapTable& in,
          const std::vector<BlockNo>& blocks, std::uint64_t length) {
  std::size_t i = static_cast<std::size_t>(state.thread_index()) * 1009;
  std::uint64_t found = 0;
  std::uint64_t delay = 0;
  for (auto _ : state) {
    const BlockNo first = blocks[(i++ + delay) & kPatternMask];
    const auto entry = in.find_first(first, BlockNo{first.value + length});
    found += entry.has_value() ? 1 : 0;
    delay = found >> 63;
  }
  benchmark::DoNotOptimize(found);
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

void find_a_miss_among_a_million(benchmark::State& state) {
  find(state, table(), misses(), 1);
}
BENCHMARK(find_a_miss_among_a_million);

void unordered_map_hit(benchmark::State& state) {
  static const auto map = [] {
    std::unordered_map<std::uint64_t, RemapEntry> all;
    // In random order, as faults come.
    for (const BlockNo block : hits()) all[block.value] = {block, 0, 0xFF};
    for (const RemapEntry& entry : million()) all[entry.block.value] = entry;
    return all;
  }();
  std::size_t i = 0;
  std::uint64_t found = 0;
  std::uint64_t delay = 0;
  for (auto _ : state) {
    const auto entry = map.find(hits()[(i++ + delay) & kPatternMask].value);
    found += entry != map.end() && entry->second.valid == 0xFF ? 1 : 0;
    delay = found >> 63;
  }
  benchmark::DoNotOptimize(found);
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
    // A walk over all entries in an order without pattern.
    std::uint64_t n = 0;
    for (std::uint64_t i = 0; i < kEntries; ++i) {
      n = (n + 618'033'989) % kEntries;
      t.put(million()[n]);
    }
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
