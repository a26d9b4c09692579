// SPDX-License-Identifier: BSD-3-Clause
// A million mappings: all there, loaded and closed in a bounded time. The
// times printed are what L2 is judged by (release build, idle machine); the
// bounds asserted are for any build on a busy one.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <ctime>

#include "plugins/backend/open_backend.hpp"
#include "tests/fakes/scratch.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMappings = 1'000'000;
constexpr std::uint64_t kStep = 97;  // scattered: no two are neighbours
constexpr auto kBound = std::chrono::seconds(20);

std::uint64_t big_spare_bytes() {
  return fresh_bytes_for(kMappings + 10, 4096);
}

class Stopwatch {
 public:
  explicit Stopwatch(const char* what) : what_(what) {}
  ~Stopwatch() {
    const auto took = std::chrono::steady_clock::now() - begin_;
    const auto cpu = std::clock() - cpu_;
    std::printf("%-24s %6.0f ms, of the CPU %6.0f ms\n", what_,
                std::chrono::duration<double, std::milli>(took).count(),
                1000.0 * static_cast<double>(cpu) / CLOCKS_PER_SEC);
    EXPECT_LT(took, kBound);
  }

 private:
  const char* what_;
  std::chrono::steady_clock::time_point begin_ =
      std::chrono::steady_clock::now();
  std::clock_t cpu_ = std::clock();
};

void fill(RemapStore& store) {
  std::vector<RemapEntry> many;
  for (std::uint64_t i = 0; i < kMappings; ++i) {
    const auto slot = store.take_slot();
    ASSERT_TRUE(slot) << i;
    many.push_back(remapped(i * kStep, *slot));
    if (many.size() < store.max_entries() && i + 1 < kMappings) continue;
    const Status status = store.commit(many);
    ASSERT_TRUE(status) << status.error().text() << " at " << i;
    many.clear();
  }
}

void check(const RemapStore& store) {
  ASSERT_EQ(store.table().remapped_count(), kMappings);
  const auto all = store.table().snapshot();
  const Layout& layout = store.layout();
  SlotNo slot{0};
  for (std::uint64_t i = 0; i < kMappings; ++i, ++slot.value) {
    while (!layout.has_slot(slot)) ++slot.value;  // they were taken in order
    ASSERT_EQ(all[i], remapped(i * kStep, slot)) << i;
  }
}

// The map is made in memory, where a flush costs nothing, then copied.
void life_of_a_million(Backend& spare) {
  const MemoryBackend main(kMappings * kStep * 4096);
  auto open_on = [&](Backend& disk) -> std::unique_ptr<RemapStore> {
    auto store = RemapStore::open(disk, binding_of(main), false, no_log());
    EXPECT_TRUE(store) << store.error().text();
    return store ? std::move(*store) : nullptr;
  };
  auto open = [&] { return open_on(spare); };
  {
    MemoryBackend twin(spare.info());
    const auto made = format_spare(twin, main, {});
    ASSERT_TRUE(made);
    {
      auto store = open_on(twin);
      ASSERT_TRUE(store);
      fill(*store);
    }
    const Layout& l = made->layout;
    const std::uint64_t head = l.checkpoint(CopyIndex::head, 0).value;
    const std::uint64_t tail = l.checkpoint(CopyIndex::tail, 0).value;
    const std::uint64_t copy = l.superblock(CopyIndex::tail).value - tail;
    for (const auto& [begin, end] :
         {std::pair{std::uint64_t{0}, l.slot({0}).value},
          std::pair{head, head + copy}, std::pair{tail, l.spare_bytes}}) {
      AlignedBuffer b(end - begin);
      ASSERT_TRUE(twin.read({begin}, b.bytes()));
      ASSERT_TRUE(spare.write({begin}, b.bytes(), Durability::cached));
    }
    ASSERT_TRUE(spare.flush());
    auto store = open();
    ASSERT_TRUE(store);
    ASSERT_TRUE(store->commit({pending(1, 1)}));
    ASSERT_TRUE(store->commit({clean(1)}));
    Stopwatch watch("close, with changes");
    ASSERT_TRUE(store->close());
  }
  std::unique_ptr<RemapStore> store;
  {
    Stopwatch watch("load");
    store = open();
  }
  check(*store);
  {
    Stopwatch watch("close, nothing changed");
    ASSERT_TRUE(store->close());
  }
  store.reset();
  {
    Stopwatch watch("load");
    store = open();
  }
  ASSERT_TRUE(store->commit({clean(0)}));
  store.reset();  // as kill -9 does
  {
    Stopwatch watch("load after a kill");
    store = open();
  }
  EXPECT_EQ(store->table().remapped_count(), kMappings - 1);
}

TEST(RemapLoad, a_million_mappings_in_memory) {
  MemoryBackend spare(big_spare_bytes());
  life_of_a_million(spare);
}

TEST(RemapLoad, a_million_mappings_in_a_file) {
  ScratchDir dir;
  const std::string path = dir.make_file("spare.img", big_spare_bytes());
  auto spare = open_backend(path, {});
  ASSERT_TRUE(spare) << spare.error().text();
  std::printf("direct I/O: %d\n", (*spare)->info().direct);
  life_of_a_million(**spare);
}

}  // namespace
}  // namespace nbd_remap
