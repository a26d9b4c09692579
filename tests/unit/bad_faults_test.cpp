// SPDX-License-Identifier: BSD-3-Clause
// Slow sectors, bit rot, a dead and a hung device: each by itself, and what a
// bad disk makes of them. Mistake 56: the neighbours stay as they are.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "plugins/baddisk/bad_disk.hpp"
#include "plugins/baddisk/sector_map.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
constexpr std::uint64_t kSize = 1000;

std::vector<BadRange> list(const std::string& text) {
  return *parse_bad_list(text);
}

TEST(SectorMap, agrees_with_a_model_of_single_sectors) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    SectorMap<int> map;
    std::map<std::uint64_t, int> model;
    for (int step = 1; step <= 400; ++step) {
      const std::uint64_t start = random() % 60;
      const std::uint64_t end = start + 1 + random() % 12;
      const bool clear = random() % 3 == 0;
      map.assign(start, end, clear ? std::nullopt : std::optional(step));
      for (std::uint64_t i = start; i < end; ++i)
        if (clear)
          model.erase(i);
        else
          model[i] = step;
      const std::uint64_t from = random() % 80;
      const std::uint64_t to = from + 1 + random() % 80;
      std::map<std::uint64_t, int> seen;
      map.visit(from, to, [&](std::uint64_t at, std::uint64_t stop, int value) {
        ASSERT_LT(at, stop);
        for (; at < stop; ++at) ASSERT_TRUE(seen.emplace(at, value).second);
      });
      const std::map<std::uint64_t, int> expected(model.lower_bound(from),
                                                  model.lower_bound(to));
      ASSERT_EQ(seen, expected) << "step " << step;
    }
  }
}

TEST(SlowSectors, only_a_request_that_touches_one_is_delayed) {
  SlowSectors slow(kSize);
  ASSERT_TRUE(slow.set(list("100-101,200:read"), BadMode::both, 50));
  ASSERT_TRUE(slow.set(list("101"), BadMode::both, 70));
  const auto ms = [&](DiskOp op, std::uint64_t offset, std::uint64_t length) {
    return slow.delay(op, offset, length).count();
  };
  EXPECT_EQ(ms(DiskOp::read, 99 * 512, 512), 0);
  EXPECT_EQ(ms(DiskOp::read, 102 * 512, 512), 0);
  EXPECT_EQ(ms(DiskOp::read, 100 * 512, 0), 0);
  EXPECT_EQ(slow.status(9).fired, 0U);
  EXPECT_EQ(ms(DiskOp::read, 99 * 512, 513), 50);
  EXPECT_EQ(ms(DiskOp::write, 100 * 512 + 511, 1), 50);
  EXPECT_EQ(ms(DiskOp::write, 0, kSize * 512), 70);
  EXPECT_EQ(ms(DiskOp::read, 200 * 512, 1), 50);
  EXPECT_EQ(ms(DiskOp::write, 200 * 512, 512), 0);
  EXPECT_EQ(slow.status(9).fired, 4U);
  EXPECT_EQ(slow.status(9).runs,
            (std::vector<SlowSectors::Run>{{100, 1, BadMode::both, 50},
                                           {101, 1, BadMode::both, 70},
                                           {200, 1, BadMode::read, 50}}));
  EXPECT_EQ(slow.status(1).runs.size(), 1U);
  ASSERT_TRUE(slow.set(list("0-999"), BadMode::both, 0));
  EXPECT_EQ(ms(DiskOp::read, 0, kSize * 512), 0);
}

TEST(SlowSectors, what_cannot_be_changes_nothing) {
  SlowSectors slow(kSize);
  EXPECT_FALSE(slow.set(list("5,1000"), BadMode::both, 50));
  EXPECT_FALSE(
      slow.set(list("5"), BadMode::both, SlowSectors::kMaxDelayMs + 1));
  EXPECT_TRUE(slow.status(9).runs.empty());
}

TEST(BitRot, turns_so_many_bits_of_each_sector_and_none_beside_it) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    for (const std::uint64_t bits : {1, 3, 64}) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      BitRot rot(kSize);
      ASSERT_TRUE(rot.set(list("10-11,13"), seed, bits));
      std::vector<std::byte> data(8 * 512);
      rot.spoil(8 * 512, data);  // sectors 8 to 15
      for (std::uint64_t sector = 8; sector < 16; ++sector) {
        std::uint64_t turned = 0;
        for (std::uint64_t i = 0; i < 512; ++i)
          turned += static_cast<std::uint64_t>(std::popcount(
              std::to_integer<unsigned>(data[(sector - 8) * 512 + i])));
        const bool rotten = sector == 10 || sector == 11 || sector == 13;
        ASSERT_EQ(turned, rotten ? bits : 0) << sector;
      }
      EXPECT_EQ(rot.status(9).fired, 1U);
    }
}

// Contract E5
TEST(BitRot, every_read_of_a_sector_turns_the_same_bits) {
  BitRot rot(kSize);
  ASSERT_TRUE(rot.set(list("0-7"), 42, 5));
  std::vector<std::byte> whole(8 * 512);
  rot.spoil(0, whole);
  std::vector<std::byte> pieces(8 * 512);
  for (std::uint64_t at = 0; at < pieces.size(); at += 100)
    rot.spoil(at, Bytes(pieces).subspan(
                      at, std::min<std::uint64_t>(100, pieces.size() - at)));
  EXPECT_TRUE(whole == pieces);
  EXPECT_NE(rotten_bits(42, 1, 5), rotten_bits(43, 1, 5));
  EXPECT_NE(rotten_bits(42, 1, 5), rotten_bits(42, 2, 5));
  // On any machine.
  EXPECT_EQ(rotten_bits(1, 0, 3), (std::vector<std::uint32_t>{286, 494, 3448}));
  ASSERT_TRUE(rot.set(list("0-999"), 42, 0));
  rot.spoil(0, pieces);
  EXPECT_TRUE(whole == pieces);
  EXPECT_FALSE(rot.set(list("0"), 1, kMaxRotBits + 1));
  EXPECT_FALSE(rot.set(list("1000"), 1, 1));
}

TEST(DeadSwitch, it_dies_after_so_many_requests_and_stays_dead) {
  DeadSwitch dead;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(dead.fails(), 0);
  dead.die(3, ENOSPC);
  EXPECT_EQ(dead.status().dies_after, 3U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(dead.fails(), 0);
  EXPECT_TRUE(dead.status().dead);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(dead.fails(), ENOSPC);
  dead.revive();
  EXPECT_EQ(dead.fails(), 0);
  dead.die(0, EIO);
  EXPECT_EQ(dead.fails(), EIO);
  EXPECT_EQ(dead.status().fired, 6U);
  dead.die(7, EIO);
  dead.revive();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(dead.fails(), 0);
}

// All of a disk, with a clock that a test can watch.
struct FaultyDisk {
  explicit FaultyDisk(BadDiskOptions options = {}) {
    options.sleep = [this](milliseconds time) {
      slept += time.count();
      std::this_thread::yield();
      return !given_up;
    };
    disk = std::make_unique<BadDisk>(
        std::make_unique<MemoryBackend>(kSize * 512), options);
  }
  Status read(std::uint64_t sector) {
    return disk->read(sector * 512, Bytes(data));
  }
  std::vector<std::byte> data = std::vector<std::byte>(512);
  std::atomic<std::int64_t> slept = 0;
  std::atomic<bool> given_up = false;
  std::unique_ptr<BadDisk> disk;
};

TEST(BadDisk, a_slow_sector_takes_its_time_and_is_slow_to_fail_too) {
  FaultyDisk d;
  ASSERT_TRUE(d.disk->slow().set(list("5"), BadMode::both, 300));
  ASSERT_TRUE(d.disk->bad().add(list("5:write"), BadMode::both, 0));
  EXPECT_TRUE(d.read(4));
  EXPECT_TRUE(d.read(6));
  EXPECT_EQ(d.slept, 0);
  EXPECT_TRUE(d.read(5));
  EXPECT_EQ(d.slept, 300);
  EXPECT_FALSE(d.disk->write(5 * 512, d.data, Durability::cached));
  EXPECT_EQ(d.slept, 600);
  EXPECT_FALSE(
      d.disk->zero(5 * 512, 512, ZeroMode::may_punch, Durability::cached));
  EXPECT_EQ(d.slept, 900);
  EXPECT_TRUE(d.disk->flush());
  EXPECT_EQ(d.slept, 900);
  // The server stops meanwhile.
  d.given_up = true;
  const auto given_up = d.read(5);
  ASSERT_FALSE(given_up);
  EXPECT_EQ(given_up.error().errnum, ESHUTDOWN);
  EXPECT_TRUE(is_fault(given_up.error()));
}

TEST(BadDisk, a_dead_device_fails_every_kind_of_request) {
  FaultyDisk d;
  d.disk->dead().die(1, ENOMEM);
  EXPECT_TRUE(d.read(0));
  for (const Status& status :
       {d.read(0), d.disk->write(0, d.data, Durability::cached),
        d.disk->zero(0, 512, ZeroMode::may_punch, Durability::cached),
        d.disk->trim(0, 4096), d.disk->flush()}) {
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().errnum, ENOMEM);
    EXPECT_TRUE(is_fault(status.error()));
  }
  EXPECT_EQ(d.disk->dead().status().fired, 5U);
  d.disk->dead().revive();
  EXPECT_TRUE(d.read(0));
}

TEST(BadDisk, a_hung_device_answers_nobody_until_it_is_told) {
  FaultyDisk d;
  d.disk->hang().hang();
  std::atomic<int> answered = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      std::vector<std::byte> data(512);
      const auto done = i == 0   ? d.disk->flush()
                        : i == 1 ? d.disk->trim(0, 4096)
                        : i == 2 ? d.disk->read(0, data)
                                 : d.disk->write(0, data, Durability::cached);
      EXPECT_TRUE(done);
      ++answered;
    });
  const auto deadline = std::chrono::steady_clock::now() + milliseconds(10'000);
  while (d.disk->hang().status().waiting != 4 || d.slept < 4000) {
    if (std::chrono::steady_clock::now() > deadline) {
      ADD_FAILURE() << "not all wait";
      break;
    }
    std::this_thread::yield();
  }
  EXPECT_EQ(answered, 0);
  d.disk->hang().unhang();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, 4);
  EXPECT_EQ(d.disk->hang().status().waiting, 0U);
  EXPECT_EQ(d.disk->hang().status().fired, 4U);
  // A server that stops ends them with an error.
  d.disk->hang().hang();
  d.given_up = true;
  EXPECT_FALSE(d.disk->flush());
  EXPECT_EQ(d.disk->hang().status().waiting, 0U);
}

TEST(BadDisk, what_rotted_in_the_file_is_gone_when_it_is_written) {
  for (const std::uint64_t cache : {0, 65536}) {
    BadDiskOptions options;
    options.write_cache_bytes = cache;
    FaultyDisk d(options);
    std::vector<std::byte> all(kSize * 512);
    ASSERT_TRUE(d.disk->rot_file(list("7,9-10"), 3, 2));
    ASSERT_TRUE(d.disk->read(0, all));
    for (std::uint64_t sector = 0; sector < kSize; ++sector) {
      const bool clean = std::all_of(
          all.begin() + static_cast<std::ptrdiff_t>(sector * 512),
          all.begin() + static_cast<std::ptrdiff_t>(sector * 512 + 512),
          [](std::byte b) { return b == std::byte{}; });
      EXPECT_EQ(clean, sector != 7 && sector != 9 && sector != 10) << sector;
    }
    EXPECT_EQ(d.disk->requests().rotted_sectors, 3U);
    if (cache != 0) {
      EXPECT_EQ(d.disk->cache()->status().held_bytes, 0U);
    }
    ASSERT_TRUE(d.disk->write(7 * 512, d.data, Durability::cached));
    EXPECT_TRUE(d.read(7));
    EXPECT_TRUE(std::all_of(d.data.begin(), d.data.end(),
                            [](std::byte b) { return b == std::byte{}; }));
  }
}

TEST(BadDisk, rot_on_reading_is_silent_and_not_in_the_file) {
  FaultyDisk d;
  ASSERT_TRUE(d.disk->rot().set(list("5"), 9, 1));
  EXPECT_TRUE(d.read(4));
  EXPECT_EQ(d.data, std::vector<std::byte>(512));
  EXPECT_TRUE(d.read(5));
  EXPECT_NE(d.data, std::vector<std::byte>(512));
  ASSERT_TRUE(d.disk->rot().set(list("5"), 9, 0));
  EXPECT_TRUE(d.read(5));
  EXPECT_EQ(d.data, std::vector<std::byte>(512));
  EXPECT_EQ(d.disk->rot().status(0).fired, 1U);
}

}  // namespace
}  // namespace nbd_remap
