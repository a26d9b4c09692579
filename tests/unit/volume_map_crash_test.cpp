// SPDX-License-Identifier: BSD-3-Clause
// Contracts C3 and C13 for what an owner asks of the map: a power cut at every
// step of it, and clients that write meanwhile.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <set>
#include <thread>

#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
constexpr std::uint64_t kBlocks = 6;
constexpr std::uint64_t kBlock = 4096;

// One volume on disks that lose and tear what was not flushed. Block b holds
// pattern(b), durably; blocks 0 to 2 live on SPARE.
class Cut {
 public:
  Cut() {
    format_for(spare_disk_, main_disk_, kBlock);
    EXPECT_TRUE(spare_disk_.flush());
    open();
    for (std::uint64_t b = 0; b < kBlocks; ++b) write(b, b);
    EXPECT_TRUE(act(MapAction::remap, 0, 3).status);
    // MAIN's copy of these is old now, and told apart.
    for (std::uint64_t b = 0; b < 3; ++b) write(b, b + 50);
    EXPECT_TRUE(volume_->flush());
  }
  static std::uint64_t tag(std::uint64_t b) { return b < 3 ? b + 50 : b; }

  MapStep act(MapAction action, std::uint64_t block, std::uint64_t blocks) {
    return volume_->map_step(action, VolumeOffset{block * kBlock},
                             blocks * kBlock, milliseconds(60'000));
  }
  // Both disks lose power at the n-th operation from now. 1 is the next.
  void cut_at(std::uint64_t n) {
    auto hook = [this,
                 left = std::make_shared<std::uint64_t>(n)](const Operation&) {
      if (--*left != 0) return;
      main_disk_.power_cut_after(0);
      spare_disk_.power_cut_after(0);
    };
    main_.set_hook(hook);
    spare_.set_hook(hook);
  }
  bool was_cut() const {
    return main_disk_.power_is_off() || spare_disk_.power_is_off();
  }
  void crash_and_open(std::uint64_t seed) {
    volume_.reset();
    main_.set_hook({});
    spare_.set_hook({});
    // 0: nothing that was not flushed survives; 1: all of it.
    const CrashBackend::Choice none = [](auto, auto) { return 0; };
    const CrashBackend::Choice all = [](auto, std::size_t n) { return n; };
    if (seed > 1) {
      main_disk_.crash(seed);
      spare_disk_.crash(seed + 1000);
    } else {
      main_disk_.crash(seed == 0 ? none : all);
      spare_disk_.crash(seed == 0 ? all : none);
    }
    open();
  }
  void write(std::uint64_t b, std::uint64_t t) {
    EXPECT_TRUE(volume_->write(VolumeOffset{b * kBlock}, pattern(t, kBlock),
                               Durability::cached));
  }
  void expect(std::uint64_t b, std::uint64_t t) {
    std::vector<std::byte> data(kBlock);
    const Status status = volume_->read(VolumeOffset{b * kBlock}, data);
    ASSERT_TRUE(status) << status.error().text();
    EXPECT_EQ(data, pattern(t, kBlock)) << "block " << b;
  }
  Volume& volume() { return *volume_; }

 private:
  void open() {
    volume_ = open_volume(main_, spare_, {}, clock_,
                          [](LogLevel, std::string_view) {});
  }
  CrashBackend main_disk_{kBlocks * kBlock};
  CrashBackend spare_disk_{spare_bytes_for(8, kBlock)};
  FaultyBackend main_{main_disk_};
  FaultyBackend spare_{spare_disk_};
  SystemClock clock_;
  std::unique_ptr<Volume> volume_;
};

class EachStep : public testing::TestWithParam<MapAction> {};

TEST_P(EachStep, a_power_cut_loses_nothing_and_mixes_nothing) {
  std::uint64_t cuts = 0;
  bool ended = false;
  std::set<std::size_t> maps;  // sizes seen after the cut
  for (std::uint64_t n = 1; !ended; ++n) {
    ASSERT_LT(n, 1000U);
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      SCOPED_TRACE(testing::Message() << "cut at " << n << ", seed " << seed);
      Cut world;
      world.cut_at(n);
      const MapStep step = world.act(GetParam(), 0, kBlocks);
      ended = !world.was_cut();
      if (ended) {
        ASSERT_TRUE(step.status) << step.status.error().text();
      } else {
        ASSERT_FALSE(step.status);
      }
      world.crash_and_open(seed);
      ++cuts;
      maps.insert(world.volume().entries(BlockNo{0}, 100).size());
      for (std::uint64_t b = 0; b < kBlocks; ++b) world.expect(b, Cut::tag(b));
      // Slots that came free are used again, and nobody shares one.
      for (std::uint64_t b = 0; b < kBlocks; ++b) world.write(b, b + 70);
      ASSERT_TRUE(world.act(MapAction::remap, 0, kBlocks).status);
      std::set<std::uint64_t> slots;
      for (const RemapEntry& e : world.volume().entries(BlockNo{0}, 100))
        slots.insert(e.slot_or_none);
      EXPECT_EQ(slots.size(), kBlocks);
      ASSERT_TRUE(world.volume().flush());
      world.crash_and_open(seed + 7);
      for (std::uint64_t b = 0; b < kBlocks; ++b) world.expect(b, b + 70);
      if (HasFailure()) return;
    }
  }
  EXPECT_GE(cuts, 60U);
  EXPECT_GE(maps.size(), 2U) << "no cut fell before and after a change";
}
INSTANTIATE_TEST_SUITE_P(VolumeMapCrash, EachStep,
                         testing::Values(MapAction::remap, MapAction::unmap));

// Contract C13, mistake 15: one thread moves blocks there and back, four write
// and read their own sectors of the same blocks.
TEST(VolumeMapThreads, no_write_is_lost_while_blocks_move) {
  constexpr unsigned kThreads = 4;
  constexpr std::uint64_t kCount = 24;
  Rig rig;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> moved{0};
  std::thread mover([&] {
    while (!stop)
      for (const MapAction action : {MapAction::remap, MapAction::unmap}) {
        const MapStep step = rig.volume->map_step(
            action, VolumeOffset{0}, rig.at(kCount), milliseconds(60'000));
        failed += !step.status.ok();
        moved += step.counts.remapped + step.counts.unmapped;
      }
  });
  std::array<std::array<std::uint64_t, kCount>, kThreads> last{};
  std::vector<std::thread> clients;
  for (unsigned t = 0; t < kThreads; ++t)
    clients.emplace_back([&, t] {
      std::mt19937_64 random(t);
      // Until the blocks have moved there and back, however late they began.
      for (std::uint64_t round = 1;
           round <= 3000 || (moved < 4 * kCount && round <= 300'000); ++round) {
        const std::uint64_t block = random() % kCount;
        const std::uint64_t at = rig.at(block) + t * 512;
        const std::uint64_t before = last.at(t).at(block);
        if (before != 0) wrong += !rig.holds(at, 512, before);
        failed += rig.write(at, 512, round * kThreads + t,
                            random() % 8 == 0 ? Durability::fua
                                              : Durability::cached) != 0;
        last.at(t).at(block) = round * kThreads + t;
      }
    });
  for (std::thread& client : clients) client.join();
  stop = true;
  mover.join();
  EXPECT_EQ(failed, 0U);
  EXPECT_EQ(wrong, 0U) << "an older content was read";
  EXPECT_GE(moved, 4 * kCount);
  for (bool restarted : {false, true}) {
    if (restarted) rig.reopen();
    for (unsigned t = 0; t < kThreads; ++t)
      for (std::uint64_t b = 0; b < kCount; ++b)
        EXPECT_TRUE(last.at(t).at(b) == 0 ||
                    rig.holds(rig.at(b) + t * 512, 512, last.at(t).at(b)));
  }
}

// A sector that could not be read when the block was probed is written, and so
// cured, before the block is taken from the clients.
TEST(VolumeMapThreads, a_write_after_the_probe_is_not_given_up) {
  for (const MapAction action : {MapAction::remap, MapAction::check}) {
    Rig rig;
    ASSERT_EQ(rig.write(0, 4096, 1), 0);
    const auto rule = rig.main.add_bad_range(FaultOp::read, 1024, 512, EIO,
                                             {.heal_on_write = true});
    // The probe reads the second half of the block when it has given up on
    // that sector.
    bool written = false;
    rig.main.set_hook([&](const Operation& o) {
      if (o.op != FaultOp::read || o.offset != 2048 || written) return;
      written = true;
      EXPECT_EQ(rig.main.fired(rule), 5 + rig.options.volume.retries);
      std::thread client([&] { EXPECT_EQ(rig.write(1024, 512, 2), 0); });
      client.join();
    });
    const MapStep step = rig.volume->map_step(action, VolumeOffset{0}, 4096,
                                              milliseconds(60'000));
    ASSERT_TRUE(step.status) << step.status.error().text();
    rig.main.set_hook({});
    EXPECT_TRUE(written);
    EXPECT_TRUE(rig.holds(1024, 512, 2));
    EXPECT_EQ(rig.entry(0).remapped(), action == MapAction::remap);
    EXPECT_EQ(rig.entry(0).valid, 0xFFU);
  }
}

}  // namespace
}  // namespace nbd_remap
