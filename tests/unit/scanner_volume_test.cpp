// SPDX-License-Identifier: BSD-3-Clause
// The scanner's steps over a real volume: beside clients, beside bad sectors.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/scanner/scanner.hpp"
#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1 << 20;

TEST(ScannerVolume, bad_sectors_become_pending_and_their_neighbours_do_not) {
  Rig rig;
  ASSERT_EQ(rig.write(0, 4 * kMiB, 7), 0);
  const auto bad =
      rig.main.add_bad_range(FaultOp::read, rig.at(100) + 512, 512, EIO);
  rig.main.extend(bad, rig.at(101), 8192);
  const AlignedBuffer buffer(kMiB);
  std::uint64_t at = 0;
  std::uint64_t bytes = 0;
  std::uint64_t sectors = 0;
  std::vector<BlockNo> pending;
  while (at < 4 * kMiB) {
    ScanStep step = rig.volume->scan_main(VolumeOffset{at}, buffer.bytes());
    ASSERT_TRUE(step.status) << step.status.error().text();
    ASSERT_GT(step.next.value, at);
    at = step.next.value;
    bytes += step.bytes;
    sectors += step.unreadable_sectors;
    pending.insert(pending.end(), step.pending.begin(), step.pending.end());
    EXPECT_TRUE(step.retried.empty());
  }
  EXPECT_GE(rig.main.fired(bad), 1U);
  EXPECT_EQ(bytes, 4 * kMiB);
  EXPECT_EQ(sectors, 1U + 16U);
  EXPECT_EQ(pending,
            (std::vector<BlockNo>{BlockNo{100}, BlockNo{101}, BlockNo{102}}));
  EXPECT_EQ(rig.store().pending, 3U);
  EXPECT_EQ(rig.entry(100).valid, 0xfdU);
  EXPECT_EQ(rig.read(rig.at(99), 4096), 0);
  EXPECT_EQ(rig.read(rig.at(103), 4096), 0);
  EXPECT_EQ(rig.read(rig.at(100) + 512, 512), EIO);
  const auto history = rig.volume->history(BlockNo{100});
  ASSERT_EQ(history.events.size(), 1U);
  EXPECT_EQ(history.events[0].why, "the scanner could not read it");
  // What is pending is passed over.
  const ScanStep again =
      rig.volume->scan_main(VolumeOffset{rig.at(100)}, buffer.bytes());
  EXPECT_EQ(again.bytes, 0U);
  EXPECT_EQ(again.next.value, rig.at(101));
}

TEST(ScannerVolume, a_read_that_fails_for_a_while_is_told_of) {
  Rig rig;
  ASSERT_EQ(rig.write(0, kMiB, 7), 0);
  const AlignedBuffer buffer(kMiB);
  // 1 MiB and seven halves of it down to two blocks, the block, its probe.
  rig.main.add_bad_range(FaultOp::read, rig.at(9), 512, EIO, {.times = 10});
  ScanStep step = rig.volume->scan_main(VolumeOffset{0}, buffer.bytes());
  ASSERT_TRUE(step.status);
  EXPECT_EQ(step.retried, std::vector<BlockNo>{BlockNo{9}});
  EXPECT_EQ(step.next.value, kMiB);
  rig.main.add_bad_range(FaultOp::read, rig.at(9), 512, EIO, {.times = 3});
  step = rig.volume->scan_main(VolumeOffset{0}, buffer.bytes());
  ASSERT_TRUE(step.status);
  EXPECT_TRUE(step.retried.empty()) << "nobody knows which it was";
  EXPECT_EQ(step.trouble_from, 0U);
  EXPECT_EQ(step.trouble_to, kMiB / 4);
  EXPECT_EQ(rig.store().pending, 0U);
}

// A lock held across a scan makes clients wait for it.
TEST(ScannerVolume, clients_pass_while_the_scanner_waits_for_its_chunk) {
  Rig rig;
  ASSERT_EQ(rig.write(0, kMiB, 7), 0);
  Barrier barrier;
  const auto scanner_id = std::make_shared<std::atomic<std::thread::id>>();
  rig.main.set_hook([&, scanner_id](const Operation& operation) {
    if (operation.op == FaultOp::read && operation.length == kMiB &&
        std::this_thread::get_id() == scanner_id->load())
      barrier.arrive_and_wait();
  });
  ScanStep step;
  std::thread scanner([&] {
    *scanner_id = std::this_thread::get_id();
    const AlignedBuffer buffer(kMiB);
    step = rig.volume->scan_main(VolumeOffset{0}, buffer.bytes());
  });
  ASSERT_TRUE(barrier.wait_for_arrival());
  EXPECT_EQ(rig.write(rig.at(3), 4096, 8), 0);
  EXPECT_TRUE(rig.holds(rig.at(3), 4096, 8));
  EXPECT_EQ(rig.write(rig.at(5) + 7, 100, 9), 0) << "read, changed, written";
  EXPECT_TRUE(rig.volume->rescue(BlockNo{4}, "a test").status);
  EXPECT_EQ(rig.volume->flush().ok(), true);
  barrier.open();
  scanner.join();
  EXPECT_TRUE(step.status);
  EXPECT_TRUE(rig.holds(rig.at(3), 4096, 8));
}

TEST(ScannerVolume, slots_are_read_where_they_hold_data_and_nowhere_else) {
  Rig rig;
  ASSERT_EQ(rig.write(0, kMiB, 7), 0);
  ASSERT_TRUE(rig.volume->rescue(BlockNo{3}, "a test").status);
  ASSERT_TRUE(rig.volume->rescue(BlockNo{70}, "a test").status);
  const auto bad = rig.spare.add_bad_range(
      FaultOp::read, rig.slot(rig.entry(70).slot_or_none), 512, EIO);
  SlotStep step = rig.volume->scan_slot(BlockNo{0});
  ASSERT_TRUE(step.status);
  EXPECT_EQ(step.block, BlockNo{3});
  EXPECT_FALSE(step.failed);
  EXPECT_EQ(step.bytes, 4096U);
  step = rig.volume->scan_slot(BlockNo{4});
  EXPECT_EQ(step.block, BlockNo{70});
  EXPECT_TRUE(step.failed);
  EXPECT_GE(rig.spare.fired(bad), 1U);
  EXPECT_FALSE(rig.volume->scan_slot(BlockNo{71}).block);
  EXPECT_EQ(rig.store().remapped, 2U) << "nothing is given up";
}

TEST(ScannerVolume, the_largest_slot_is_read_to_its_last_sector) {
  Rig rig({.block_bytes = kMaxBlockBytes});
  ASSERT_TRUE(rig.volume->rescue(BlockNo{3}, "a test").status);
  const SlotStep step = rig.volume->scan_slot(BlockNo{0});
  EXPECT_EQ(step.block, BlockNo{3});
  EXPECT_EQ(step.bytes, kMaxBlockBytes);
}

TEST(ScannerVolume, a_real_scan_ends_at_once_however_much_is_bad) {
  Rig rig({.main_bytes = 64 << 20, .spare_slots = 20'000});
  const auto bad = rig.spoil(FaultOp::read, 0, 16384 - 1);
  std::atomic<std::uint64_t> reads{0};
  rig.main.set_hook([&](const Operation& operation) {
    if (operation.op != FaultOp::read) return;
    ++reads;
    std::this_thread::sleep_for(1ms);  // a disk that takes its time
  });
  auto scanner = std::make_unique<Scanner>(
      scan_volume_of(*rig.volume), rig.volume->state_area(), rig.clock,
      ScanOptions(), [](LogLevel, std::string_view) {});
  ASSERT_TRUE(scanner->start({}, {}, false));
  const auto until = std::chrono::steady_clock::now() + 20s;
  while (reads < 200 && std::chrono::steady_clock::now() < until)
    std::this_thread::yield();
  EXPECT_GE(rig.main.fired(bad), 1U);
  EXPECT_EQ(scanner->state().run, RunState::running);
  const auto before = reads.load();
  rig.volume->close_gate();
  EXPECT_TRUE(rig.volume->drain(10s));
  scanner->stop();
  // Not by the clock of a busy machine: a few reads, and not the 16,384 blocks
  // that were left.
  EXPECT_LT(reads - before, 300U);
  rig.main.set_hook(nullptr);
}

// Four writers and a rescuer over the same blocks: what was acked last is what
// is read, wherever it lives by then (C13).
TEST(ScannerVolume, no_write_is_lost_to_a_rescue) {
  constexpr unsigned kWriters = 4;
  constexpr std::uint64_t kBlocks = 16;
  const std::uint64_t races =
      std::getenv("NBD_REMAP_LONG") ? 1'000'000 : 20'000;
  MemoryBackend main_disk(kMiB);
  MemoryBackend spare_disk(spare_bytes_for(64, 4096));
  SystemClock clock;
  format_for(spare_disk, main_disk, {});
  auto volume = open_volume(main_disk, spare_disk, {}, clock,
                            [](LogLevel, std::string_view) {});
  std::atomic<std::uint64_t> writes{0};
  std::atomic<std::uint64_t> lost{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < kWriters; ++w)
    threads.emplace_back([&, w] {
      // Two sectors of each block are this one's own.
      std::mt19937_64 random(w);
      std::array<std::uint64_t, kBlocks> last{};
      std::array<std::uint64_t, 128> words{};
      std::array<std::uint64_t, 128> back{};
      for (std::uint64_t round = 1; !done; ++round) {
        const std::uint64_t block = random() % kBlocks;
        const VolumeOffset at{block * 4096 + w * 1024};
        if (random() % 2 == 0) {
          words.fill(round);
          const Status status = volume->write(
              at, std::as_bytes(std::span(words)),
              random() % 8 == 0 ? Durability::fua : Durability::cached);
          failed += !status;
          last[block] = round;
          ++writes;
        } else {
          failed += !volume->read(at, std::as_writable_bytes(std::span(back)));
          for (const std::uint64_t word : back) lost += word != last[block];
        }
      }
    });
  std::uint64_t rescued = 0;
  std::uint64_t refused = 0;
  std::mt19937_64 random(99);
  for (std::uint64_t i = 0; i < races; ++i) {
    const BlockNo block{random() % kBlocks};
    if (i % 2 == 0) {
      const MapStep step = volume->rescue(block, "a test");
      rescued += step.counts.remapped;
      refused += !step.status;
    } else {
      const MapStep step = volume->map_step(
          MapAction::unmap, VolumeOffset{block.value * 4096}, 4096, {});
      refused += !step.status;
    }
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lost, 0U);
  EXPECT_EQ(failed, 0U);
  EXPECT_EQ(refused, 0U);
  EXPECT_GT(rescued, races / 10);
  EXPECT_GT(writes, races / 100);
  volume->close_gate();
  ASSERT_TRUE(volume->drain(10s));
  EXPECT_TRUE(volume->close());
}

}  // namespace
}  // namespace nbd_remap
