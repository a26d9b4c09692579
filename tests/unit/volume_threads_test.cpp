// SPDX-License-Identifier: BSD-3-Clause
// Many requests at once (contract C13).
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

template <class F>
void in_threads(unsigned count, F&& f) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < count; ++t) threads.emplace_back([&f, t] { f(t); });
  for (std::thread& thread : threads) thread.join();
}

// Mistake 14: 64 errors at once, 64 handled.
TEST(VolumeThreads, errors_that_come_at_once_are_all_handled) {
  Rig rig({.main_bytes = 64 << 20});
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 0);
  for (std::uint64_t i = 1; i < 64; ++i)
    rig.main.extend(rule, rig.at(i * 200), 4096);
  in_threads(64, [&](unsigned t) {
    EXPECT_EQ(rig.write(rig.at(t * 200), 4096, t), 0);
  });
  EXPECT_GE(rig.main.fired(rule), 64U);
  for (bool restarted : {false, true}) {
    if (restarted) rig.reopen();
    EXPECT_EQ(rig.entries().size(), 64U);
    EXPECT_EQ(rig.store().slots.used, 64U);
    for (std::uint64_t i = 0; i < 64; ++i)
      EXPECT_TRUE(rig.holds(rig.at(i * 200), 4096, i));
  }
}

// Eight threads, each with its own sector of every block, while blocks go bad
// under them, slots as well, and scans of the whole read beside them.
class SharedBlocks : public testing::TestWithParam<std::uint32_t> {};

TEST_P(SharedBlocks, no_write_is_lost_whatever_is_remapped_meanwhile) {
  constexpr unsigned kThreads = 8;
  constexpr std::uint64_t kBlocks = 128;
  constexpr int kRounds = 1500;
  Rig rig({.spare_slots = 400, .logical = GetParam()});
  const auto main_bad = rig.spoil(FaultOp::write, kBlocks);  // none of ours yet
  const auto slot_bad =
      rig.spare.add_bad_range(FaultOp::write, rig.slot(5), 512, EIO);
  std::array<std::array<std::uint64_t, kBlocks>, kThreads> last{};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> foreign{0};
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    std::vector<std::byte> all(kBlocks * 4096);
    while (!stop) {
      failed += !rig.volume->read(VolumeOffset{0}, all).ok();
      for (std::uint64_t s = 0; s < kBlocks * 8; ++s) {
        std::uint64_t owner = 0;
        std::memcpy(&owner, all.data() + s * 512, 8);
        foreign += owner != 0 && owner != s % 8 + 1;
      }
    }
  });
  in_threads(kThreads, [&](unsigned t) {
    std::mt19937_64 random(t);
    std::array<std::uint64_t, 64> words{};
    for (int round = 1; round <= kRounds; ++round) {
      const std::uint64_t block = random() % kBlocks;
      if (t == 0 && round % 16 == 0)
        rig.main.extend(main_bad, rig.at(random() % kBlocks), 4096);
      if (t == 1 && round % 100 == 0)
        rig.spare.extend(slot_bad, rig.slot(random() % 100), 4096);
      words.fill(static_cast<std::uint64_t>(round));
      words[0] = t + 1;
      const auto data = std::as_bytes(std::span(words));
      const Durability durability =
          random() % 4 == 0 ? Durability::fua : Durability::cached;
      failed += rig.write(rig.at(block) + t * 512, data, durability) != 0;
      if (random() % 50 == 0) failed += !rig.volume->flush().ok();
      last.at(t).at(block) = static_cast<std::uint64_t>(round);
      std::vector<std::byte> back(512);
      failed +=
          !rig.volume->read(VolumeOffset{rig.at(block) + t * 512}, back).ok();
      foreign += std::memcmp(back.data(), data.data(), 512) != 0;
    }
  });
  stop = true;
  reader.join();
  EXPECT_EQ(failed, 0U);
  EXPECT_EQ(foreign, 0U) << "a sector that reads as another, or older";
  EXPECT_GE(rig.main.fired(main_bad), 20U);
  EXPECT_GE(rig.spare.fired(slot_bad), 1U);
  for (bool restarted : {false, true}) {
    if (restarted) rig.reopen();
    EXPECT_GE(rig.entries().size(), 20U);
    EXPECT_GE(rig.store().slots.retired, 1U);
    std::uint64_t lost = 0;
    for (unsigned t = 0; t < kThreads; ++t)
      for (std::uint64_t b = 0; b < kBlocks; ++b) {
        std::array<std::uint64_t, 64> words{};
        words.fill(last.at(t).at(b));
        if (last.at(t).at(b) != 0) words[0] = t + 1;
        lost +=
            !rig.holds(rig.at(b) + t * 512, std::as_bytes(std::span(words)));
      }
    EXPECT_EQ(lost, 0U);
  }
}
INSTANTIATE_TEST_SUITE_P(Logical, SharedBlocks, testing::Values(512, 4096));

// Overlapping requests have no order, but a block is one of them, not a mix.
TEST(VolumeThreads, overlapping_writes_of_a_remapped_block_leave_one_of_them) {
  Rig rig;
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 0, 64);
  in_threads(8, [&](unsigned t) {
    for (std::uint64_t b = 0; b < 64; ++b)
      EXPECT_EQ(rig.write(rig.at(b), 4096, t), 0);
  });
  EXPECT_GE(rig.main.fired(rule), 64U);
  EXPECT_EQ(rig.entries().size(), 64U);
  EXPECT_EQ(rig.store().slots.used, 64U);
  for (std::uint64_t b = 0; b < 64; ++b) {
    int matches = 0;
    for (std::uint64_t t = 0; t < 8; ++t)
      matches += rig.holds(rig.at(b), 4096, t);
    EXPECT_EQ(matches, 1) << b;
  }
}

// Reads that fail and writes that mend, of the same sectors: a pending mark
// must never cover a write that was acknowledged.
TEST(VolumeThreads, a_search_for_bad_sectors_never_covers_a_newer_write) {
  Rig rig;
  const auto rule = rig.main.add_bad_range(FaultOp::read, 0, 512, EIO,
                                           {.heal_on_write = true});
  // On a busy machine a reader may come too late to meet any.
  for (std::uint64_t round = 0;
       round < 300 || (rig.main.fired(rule) < 300 && round < 20'000); ++round) {
    rig.main.extend(rule, 0, 64 * 512);
    std::vector<std::thread> readers;
    for (int r = 0; r < 2; ++r)
      readers.emplace_back([&] { (void)rig.read(0, 64 * 512); });
    std::uint64_t lost = 0;
    for (std::uint64_t s = 0; s < 64; ++s) {
      EXPECT_EQ(rig.write(s * 512, 512, round * 64 + s), 0);
      lost += !rig.holds(s * 512, 512, round * 64 + s);
    }
    for (std::thread& thread : readers) thread.join();
    for (std::uint64_t s = 0; s < 64; ++s)
      lost += !rig.holds(s * 512, 512, round * 64 + s);
    ASSERT_EQ(lost, 0U) << "round " << round;
  }
  EXPECT_GE(rig.main.fired(rule), 300U);
}

// Mistake 22: what went in came out.
TEST(VolumeThreads, every_request_is_answered_and_counted) {
  Rig rig;
  const auto rule = rig.spoil({FaultOp::read, FaultOp::write}, 0, 20);
  std::atomic<std::uint64_t> reads{0};
  std::atomic<std::uint64_t> writes{0};
  std::atomic<std::uint64_t> failed{0};
  in_threads(6, [&](unsigned t) {
    std::mt19937_64 random(t);
    for (int i = 0; i < 500; ++i) {
      const std::uint64_t offset = random() % (60 * 4096);
      const std::uint64_t length = 1 + random() % 10'000;
      if (random() % 2 == 0) {
        failed += rig.write(offset, length, t) != 0;
        ++writes;
      } else {
        failed += rig.read(offset, length) != 0;
        ++reads;
      }
    }
  });
  const Stats& stats = rig.volume->stats();
  auto counted = [&](Op op) {
    return stats.requests.at(static_cast<std::size_t>(op)).load();
  };
  EXPECT_EQ(reads + writes, 6U * 500);
  EXPECT_EQ(counted(Op::read), reads);
  EXPECT_EQ(counted(Op::write), writes);
  EXPECT_GE(rig.main.fired(rule), 1U);
  std::uint64_t errors = 0;
  for (const auto& by_class : stats.client_errors) errors += by_class;
  EXPECT_EQ(errors, failed);
}

}  // namespace
}  // namespace nbd_remap
