// SPDX-License-Identifier: BSD-3-Clause
// The write cache of a bad disk, against a model of every sector's versions.

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "plugins/baddisk/write_cache.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSectors = 64;
constexpr std::uint64_t kLimit = 1 << 20;

// Each sector of what was written says which write it was; 0: never written.
std::vector<std::byte> stamped(std::uint64_t sectors, std::uint64_t number) {
  std::vector<std::byte> data(sectors * kSectorBytes);
  for (std::uint64_t i = 0; i < sectors; ++i)
    std::memcpy(data.data() + i * kSectorBytes, &number, sizeof number);
  return data;
}

std::vector<std::uint64_t> numbers(Backend& disk) {
  std::vector<std::byte> data(kSectors * kSectorBytes);
  EXPECT_TRUE(disk.read(DeviceOffset{0}, data));
  std::vector<std::uint64_t> out(kSectors);
  for (std::uint64_t i = 0; i < kSectors; ++i)
    std::memcpy(&out[i], data.data() + i * kSectorBytes, sizeof out[i]);
  return out;
}

struct CachedDisk {
  explicit CachedDisk(std::uint64_t limit = kLimit)
      : CachedDisk(std::make_unique<MemoryBackend>(kSectors * kSectorBytes),
                   limit) {}
  CachedDisk(std::unique_ptr<MemoryBackend> platter_disk, std::uint64_t limit)
      : platter(platter_disk.get()), cache(std::move(platter_disk), limit) {}

  void write(std::uint64_t sector, std::uint64_t count, std::uint64_t number,
             Durability durability = Durability::cached) {
    ASSERT_TRUE(cache.write(DeviceOffset{sector * kSectorBytes},
                            stamped(count, number), durability));
  }
  void cut_and_return(CutKind kind, std::uint64_t seed) {
    ASSERT_TRUE(cache.cut(kind, seed));
    cache.power_on();
  }

  MemoryBackend* platter;
  WriteCache cache;
};

TEST(BadCache, what_is_not_flushed_is_seen_but_is_not_on_the_platter) {
  CachedDisk disk;
  disk.write(3, 2, 7);
  EXPECT_EQ(numbers(disk.cache)[3], 7U);
  EXPECT_EQ(numbers(disk.cache)[5], 0U);
  EXPECT_EQ(numbers(*disk.platter)[3], 0U);
  EXPECT_EQ(disk.cache.status().held_bytes, 1024U);
  // A read of any bytes, over the edges of what is held.
  std::vector<std::byte> part(700);
  ASSERT_TRUE(disk.cache.read(DeviceOffset{3 * 512 - 100}, part));
  EXPECT_EQ(part[99], std::byte{0});
  EXPECT_EQ(part[100], std::byte{7});
  EXPECT_EQ(part[612], std::byte{7});
  ASSERT_TRUE(disk.cache.flush());
  EXPECT_EQ(disk.platter->calls().flush, 1U);
  EXPECT_EQ(numbers(*disk.platter)[4], 7U);
  EXPECT_EQ(disk.cache.status().held_bytes, 0U);
}

TEST(BadCache, without_power_everything_fails_until_it_is_back) {
  CachedDisk disk;
  disk.write(0, 1, 1);
  ASSERT_TRUE(disk.cache.cut(CutKind::all, 1));
  std::vector<std::byte> data(512);
  const auto read = disk.cache.read(DeviceOffset{0}, data);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().errnum, ESHUTDOWN);
  EXPECT_FALSE(disk.cache.write(DeviceOffset{0}, data, Durability::cached));
  EXPECT_FALSE(disk.cache.zero(DeviceOffset{0}, 512, ZeroMode::may_punch,
                               Durability::cached));
  EXPECT_FALSE(disk.cache.trim(DeviceOffset{0}, 512));
  EXPECT_FALSE(disk.cache.flush());
  EXPECT_FALSE(disk.cache.cut(CutKind::all, 1));
  EXPECT_EQ(disk.cache.status().refused, 5U);
  EXPECT_EQ(disk.cache.status().cuts, 1U);
  EXPECT_TRUE(disk.cache.shut_down());
  disk.cache.power_on();
  EXPECT_EQ(numbers(disk.cache)[0], 0U);
  disk.write(0, 1, 2);
  EXPECT_TRUE(disk.cache.shut_down());
  EXPECT_EQ(numbers(*disk.platter)[0], 2U);
}

TEST(BadCache, a_cut_of_all_leaves_just_what_was_flushed) {
  CachedDisk disk;
  disk.write(0, 8, 1);
  ASSERT_TRUE(disk.cache.flush());
  disk.write(2, 8, 2);
  disk.write(4, 1, 3, Durability::fua);
  disk.write(5, 1, 4);
  disk.cut_and_return(CutKind::all, 1);
  const auto now = numbers(disk.cache);
  EXPECT_EQ(std::vector(now.begin(), now.begin() + 9),
            (std::vector<std::uint64_t>{1, 1, 1, 1, 3, 1, 1, 1, 0}));
  EXPECT_EQ(disk.cache.status().sectors_lost, 7U);
}

// What is lost is the end of what was written.
TEST(BadCache, a_cut_that_loses_keeps_all_up_to_a_moment) {
  std::set<std::uint64_t> moments;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CachedDisk disk;
    std::vector<std::vector<std::uint64_t>> states{numbers(disk.cache)};
    std::mt19937_64 random(seed);
    for (std::uint64_t n = 1; n <= 10; ++n) {
      const std::uint64_t at = random() % (kSectors - 8);
      disk.write(at, 1 + random() % 8, n);
      states.push_back(numbers(disk.cache));
    }
    disk.cut_and_return(CutKind::lost, seed);
    const auto found =
        std::find(states.begin(), states.end(), numbers(disk.cache));
    ASSERT_NE(found, states.end()) << "seed " << seed;
    moments.insert(static_cast<std::uint64_t>(found - states.begin()));
  }
  EXPECT_GT(moments.size(), 8U);
}

TEST(BadCache, a_cut_that_reorders_keeps_whole_writes) {
  std::set<std::vector<std::uint64_t>> ends;
  bool later_without_earlier = false;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CachedDisk disk;
    for (std::uint64_t n = 0; n < 8; ++n) disk.write(n * 8, 8, n + 1);
    disk.cut_and_return(CutKind::reordered, seed);
    const auto now = numbers(disk.cache);
    for (std::uint64_t i = 0; i < kSectors; ++i) {
      ASSERT_EQ(now[i], now[i / 8 * 8]) << "seed " << seed;
      ASSERT_TRUE(now[i] == 0 || now[i] == i / 8 + 1) << "seed " << seed;
    }
    later_without_earlier |= now[0] == 0 && now[8] != 0;
    ends.insert(now);
  }
  EXPECT_TRUE(later_without_earlier);
  EXPECT_GT(ends.size(), 100U);  // of 256
}

TEST(BadCache, a_cut_that_tears_leaves_any_version_of_any_sector) {
  std::set<std::vector<std::uint64_t>> ends;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    CachedDisk disk;
    disk.write(0, 3, 1);
    ASSERT_TRUE(disk.cache.flush());
    disk.write(0, 3, 2);
    disk.write(0, 3, 3);
    disk.cut_and_return(CutKind::torn, seed);
    const auto now = numbers(disk.cache);
    ends.insert({now[0], now[1], now[2]});
    for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(now[i] >= 1);
    for (std::uint64_t i = 3; i < kSectors; ++i) ASSERT_EQ(now[i], 0U);
  }
  EXPECT_EQ(ends.size(), 27U);
}

// Contract E5
TEST(BadCache, the_same_seed_cuts_alike) {
  for (const CutKind kind :
       {CutKind::lost, CutKind::reordered, CutKind::torn}) {
    const auto end_of = [kind](std::uint64_t seed) {
      CachedDisk disk;
      for (std::uint64_t n = 1; n < 40; ++n) disk.write(n, n % 20 + 1, n);
      disk.cut_and_return(kind, seed);
      return numbers(disk.cache);
    };
    EXPECT_EQ(end_of(5), end_of(5));
    EXPECT_NE(end_of(5), end_of(6));
  }
}

// Contract C2, mistake 6: whatever the cut, each sector holds what was last
// made durable or something later.
TEST(BadCache, what_was_flushed_survives_every_cut_of_every_seed) {
  std::uint64_t lost = 0;
  std::uint64_t destaged = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto roll = [&](std::uint64_t n) { return random() % n; };
    CachedDisk disk(seed % 3 == 0 ? 20 * kSectorBytes : kLimit);
    // Per sector the numbers it may have after a cut, the newest last.
    std::vector<std::vector<std::uint64_t>> allowed(kSectors, {0});
    for (std::uint64_t n = 1; n <= 400; ++n) {
      const std::uint64_t at = roll(kSectors);
      const std::uint64_t count = 1 + roll(std::min(kSectors - at, 24UL));
      const auto each = [&](auto change) {
        for (std::uint64_t i = at; i < at + count; ++i) change(allowed[i]);
      };
      switch (roll(20)) {
        case 0:
          ASSERT_TRUE(disk.cache.flush());
          for (auto& versions : allowed) versions = {versions.back()};
          break;
        case 1: {
          const bool fua = roll(2) == 0;
          ASSERT_TRUE(disk.cache.zero(
              DeviceOffset{at * kSectorBytes}, count * kSectorBytes,
              ZeroMode::may_punch, fua ? Durability::fua : Durability::cached));
          each([&](auto& versions) {
            if (fua) versions.clear();
            versions.push_back(0);
          });
          break;
        }
        case 2:
          disk.write(at, count, n, Durability::fua);
          each([&](auto& versions) { versions = {n}; });
          break;
        case 3: {
          const auto kind = static_cast<CutKind>(roll(4));
          disk.cut_and_return(kind, seed * 1000 + n);
          const auto now = numbers(disk.cache);
          for (std::uint64_t i = 0; i < kSectors; ++i) {
            ASSERT_TRUE(
                std::count(allowed[i].begin(), allowed[i].end(), now[i]) > 0)
                << "sector " << i << " holds write " << now[i] << " after step "
                << n;
            lost += now[i] != allowed[i].back();
            allowed[i] = {now[i]};
          }
          break;
        }
        default:
          disk.write(at, count, n);
          each([&](auto& versions) { versions.push_back(n); });
      }
      const auto now = numbers(disk.cache);
      for (std::uint64_t i = 0; i < kSectors; ++i)
        ASSERT_EQ(now[i], allowed[i].back()) << "sector " << i << " step " << n;
    }
    destaged += disk.cache.status().destaged;
    ASSERT_GT(disk.cache.status().cuts, 0U);
  }
  EXPECT_GT(lost, 1000U);
  EXPECT_GT(destaged, 1000U);
}

TEST(BadCache, a_full_cache_sends_what_it_holds_to_the_platter) {
  CachedDisk disk(4 * kSectorBytes);
  disk.write(0, 4, 1);
  EXPECT_EQ(disk.cache.status().destaged, 0U);
  disk.write(10, 1, 2);
  EXPECT_EQ(disk.cache.status().destaged, 1U);
  EXPECT_EQ(disk.cache.status().held_bytes, 512U);
  EXPECT_EQ(numbers(*disk.platter)[3], 1U);
  EXPECT_EQ(numbers(*disk.platter)[10], 0U);
  // One that does not fit at all.
  disk.write(20, 5, 3);
  EXPECT_EQ(disk.cache.status().held_bytes, 0U);
  EXPECT_EQ(numbers(*disk.platter)[24], 3U);
  disk.cut_and_return(CutKind::all, 1);
  EXPECT_EQ(numbers(disk.cache)[10], 2U);
}

TEST(BadCache, nothing_older_comes_over_a_trim_or_a_fua) {
  CachedDisk disk;
  disk.write(0, 4, 1);
  disk.write(1, 1, 2, Durability::fua);
  ASSERT_TRUE(disk.cache.trim(DeviceOffset{1024}, 512));
  EXPECT_EQ(disk.cache.status().held_bytes, 1024U);
  ASSERT_TRUE(disk.cache.flush());
  EXPECT_EQ(numbers(disk.cache)[1], 2U);
  EXPECT_NE(numbers(disk.cache)[2], 1U);
  EXPECT_EQ(disk.platter->calls().trim, 1U);
}

// A disk that fails writes of one place while it is told to.
class FailingWrites final : public Backend {
 public:
  FailingWrites(std::uint64_t size, const bool& fails)
      : disk_(size), fails_(fails) {}
  const BackendInfo& info() const override { return disk_.info(); }
  Status read(DeviceOffset offset, Bytes buffer) override {
    return disk_.read(offset, buffer);
  }
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override {
    if (fails_ && offset.value == 5120) return make_error(EIO, "no");
    return disk_.write(offset, data, durability);
  }
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override {
    return disk_.zero(offset, length, mode, durability);
  }
  Status trim(DeviceOffset, std::uint64_t) override { return {}; }
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override {
    return disk_.extent(offset, length);
  }
  Status cache(DeviceOffset, std::uint64_t) override { return {}; }
  Status flush() override { return {}; }

 private:
  MemoryBackend disk_;
  const bool& fails_;
};

TEST(BadCache, a_platter_that_fails_loses_nothing_that_is_held) {
  bool fails = true;
  WriteCache cache(
      std::make_unique<FailingWrites>(kSectors * kSectorBytes, fails), kLimit);
  for (const std::uint64_t at : {0, 5120})
    ASSERT_TRUE(
        cache.write(DeviceOffset{at}, stamped(2, 1), Durability::cached));
  EXPECT_FALSE(cache.flush());
  EXPECT_FALSE(cache.write(DeviceOffset{5120}, stamped(2, 9), Durability::fua));
  EXPECT_EQ(cache.status().held_bytes, 2048U);
  EXPECT_EQ(numbers(cache)[11], 1U);
  fails = false;
  EXPECT_TRUE(cache.flush());
  EXPECT_EQ(cache.status().held_bytes, 0U);
  EXPECT_EQ(numbers(cache)[11], 1U);
}

// The unit of a cut is never smaller than what the disk can write.
TEST(BadCache, a_disk_of_larger_blocks_is_torn_between_them) {
  std::set<std::uint64_t> ends;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    CachedDisk disk(
        std::make_unique<MemoryBackend>(kSectors * kSectorBytes, 4096), kLimit);
    disk.write(0, 16, 1);
    disk.cut_and_return(CutKind::torn, seed);
    const auto now = numbers(disk.cache);
    for (std::uint64_t i = 0; i < 16; ++i)
      ASSERT_EQ(now[i], now[i / 8 * 8]) << seed;
    ends.insert(now[0] * 2 + now[8]);
    EXPECT_EQ(
        disk.cache.status().sectors_kept + disk.cache.status().sectors_lost,
        16U);
  }
  EXPECT_EQ(ends.size(), 4U);
}

}  // namespace
}  // namespace nbd_remap
