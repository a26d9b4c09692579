// SPDX-License-Identifier: BSD-3-Clause
// Contracts C1 to C3 for a volume whose MAIN is being replaced: a power cut of
// all three disks at every call, with lost, torn and reordered sectors.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "plugins/replace/replace_notes.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/replace_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kBytes = 3 << 20;
// Blocks that are written, a few in each chunk; the last is the volume's last.
constexpr std::array<std::uint64_t, 8> kUsed{0, 1, 5, 256, 300, 511, 600, 767};

BackendInfo disk(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.direct = true;
  return info;
}

// What a block may hold: what was durable last, or anything written since.
struct Model {
  std::map<std::uint64_t, std::set<std::uint64_t>> may;
  std::map<std::uint64_t, std::uint64_t> newest;

  void wrote(std::uint64_t block, std::uint64_t tag, bool acked) {
    may[block].insert(tag);
    if (acked) newest[block] = tag;
  }
  void flushed() {
    for (auto& [block, tags] : may) tags = {newest[block]};
  }
};

class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {
    format_for(spare_disk_, main_disk_, kBlock);
    EXPECT_TRUE(spare_disk_.flush());
    EXPECT_TRUE(open(main_));
    // One block lives on SPARE before it begins.
    for (const std::uint64_t b : kUsed) write(b);
    EXPECT_TRUE(volume
                    ->map_step(MapAction::remap, VolumeOffset{5 * kBlock},
                               kBlock, std::chrono::seconds(60))
                    .status);
    write(5);
    flush();
  }
  ~World() { close(); }

  void write(std::uint64_t block, Durability durability = Durability::cached) {
    const std::uint64_t tag = ++tag_;
    const Status status = volume->write(VolumeOffset{block * kBlock},
                                        pattern(tag, kBlock), durability);
    model.wrote(block, tag, status.ok());
    if (status && durability == Durability::fua) model.may[block] = {tag};
  }
  void flush() {
    if (volume->flush()) model.flushed();
  }
  // One step of the copier and something of a client, until the cut or the end.
  // False: it did not end.
  bool work() {
    (void)replacer->start("next", false);
    for (int i = 0; i < 400; ++i) {
      if (was_cut()) return true;
      if (replacer->status().phase == ReplacePhase::done) return true;
      clock_.move(std::chrono::seconds(3));
      (void)replacer->step();
      const std::uint64_t block = kUsed.at(random_() % kUsed.size());
      switch (random_() % 4) {
        case 0:
          write(block);
          break;
        case 1:
          write(block, Durability::fua);
          break;
        case 2:
          flush();
          break;
        default:
          break;
      }
    }
    return false;
  }
  void cut_at(std::uint64_t n) {
    // The new disk is written to by another thread.
    auto left = std::make_shared<std::atomic<std::uint64_t>>(n);
    const auto hook = [this, left](const Operation&) {
      if (--*left != 0) return;
      for (CrashBackend* d : {&main_disk_, &next_disk_, &spare_disk_})
        d->power_cut_after(0);
    };
    for (FaultyBackend* d : {&main_, &next_, &spare_}) d->set_hook(hook);
  }
  bool was_cut() const {
    return main_disk_.power_is_off() || next_disk_.power_is_off() ||
           spare_disk_.power_is_off();
  }
  void crash(std::uint64_t seed) {
    close();
    std::uint64_t n = 0;
    for (FaultyBackend* d : {&main_, &next_, &spare_}) d->set_hook({});
    for (CrashBackend* d : {&main_disk_, &next_disk_, &spare_disk_})
      d->crash(seed * 3 + ++n);
  }
  // Contract M3: with exactly one of the two.
  void open_one() {
    const bool old = open(main_).ok();
    if (old) close();
    const bool next = open(next_).ok();
    ASSERT_NE(old, next);
    on_next = next;
    if (old) {
      ASSERT_TRUE(open(main_));
    }
  }
  std::vector<std::byte> content(std::uint64_t block) {
    std::vector<std::byte> data(kBlock);
    const Status status = volume->read(VolumeOffset{block * kBlock}, data);
    EXPECT_TRUE(status) << status.error().text();
    return data;
  }
  // Sector by sector: a cut tears.
  void expect_possible(std::uint64_t block,
                       const std::vector<std::byte>& data) {
    for (std::size_t s = 0; s < kBlock; s += 512) {
      const auto& may = model.may[block];
      const bool one = std::any_of(may.begin(), may.end(), [&](auto tag) {
        const auto right = pattern(tag, kBlock);
        return std::equal(right.begin() + static_cast<long>(s),
                          right.begin() + static_cast<long>(s + 512),
                          data.begin() + static_cast<long>(s));
      });
      EXPECT_TRUE(one) << "block " << block << " byte " << s;
    }
  }
  void close() {
    volume.reset();
    replacer.reset();
  }

  Model model;
  bool on_next = false;
  std::unique_ptr<Replacer> replacer;
  std::unique_ptr<Volume> volume;

 private:
  Status open(Backend& with) {
    close();
    Binding binding;
    binding.main_bytes = with.info().size_bytes;
    binding.main_identity = with.info().identity;
    binding.main_name = with.info().name;
    const LogSink sink = [](LogLevel, std::string_view) {};
    auto spare =
        std::make_unique<Disk>(std::make_unique<BorrowedBackend>(spare_));
    auto store = RemapStore::open(*spare, binding, false, sink);
    if (!store) return std::move(store).error();
    StateArea* const area = (*store)->state_area();
    EXPECT_NE(area, nullptr);
    volume = std::make_unique<Volume>(
        std::make_unique<Disk>(std::make_unique<BorrowedBackend>(with)),
        std::move(spare), std::move(*store), false, "", VolumeOptions{}, clock_,
        sink);
    replacer = std::make_unique<Replacer>(
        *volume, notes_in(area).main,
        [this](const std::string&) -> Result<NewDisk> {
          return NewDisk{std::make_unique<BorrowedBackend>(next_), nullptr};
        },
        clock_, sink);
    replacer->resume();
    return {};
  }

  CrashBackend main_disk_{disk("old", kBytes)};
  CrashBackend next_disk_{disk("new", kBytes)};
  CrashBackend spare_disk_{disk("spare", kLeastBytesWithStateArea)};
  FaultyBackend main_{main_disk_};
  FaultyBackend next_{next_disk_};
  FaultyBackend spare_{spare_disk_};
  ManualClock clock_;
  std::mt19937_64 random_;
  std::uint64_t tag_ = 0;
};

TEST(ReplaceCrash, a_power_cut_at_any_call_leaves_one_of_the_two_whole) {
  const std::uint64_t seeds =
      std::getenv("NBD_REMAP_LONG") != nullptr ? 200 : 3;
  std::uint64_t before = 0;
  std::uint64_t after = 0;
  std::uint64_t ended = 0;
  for (std::uint64_t i = 0; ended < 2 * seeds; ++i) {
    const std::uint64_t n = 1 + i / seeds;
    const std::uint64_t seed = i;
    ASSERT_LT(n, 4000U);
    SCOPED_TRACE(testing::Message() << "cut at " << n << ", seed " << seed);
    World world(seed);
    world.cut_at(n);
    ASSERT_TRUE(world.work());
    if (!world.was_cut()) ++ended;
    world.crash(seed);
    world.open_one();
    if (HasFatalFailure()) return;
    ++(world.on_next ? after : before);
    std::map<std::uint64_t, std::vector<std::byte>> holds;
    for (const std::uint64_t b : kUsed) {
      holds[b] = world.content(b);
      world.expect_possible(b, holds[b]);
    }
    // Whatever it was: it is settled now, and stays so until it is written.
    const auto expect_same = [&] {
      for (const std::uint64_t b : kUsed)
        EXPECT_EQ(world.content(b), holds[b]) << "block " << b;
    };
    for (int step = 0; step < 400; ++step) {
      if (world.replacer->status().phase != ReplacePhase::copying) break;
      (void)world.replacer->step();
    }
    EXPECT_NE(world.replacer->status().phase, ReplacePhase::copying);
    expect_same();
    world.flush();
    // And the next start, after another cut, finds the same.
    world.crash(seed + 1);
    world.open_one();
    if (HasFatalFailure()) return;
    expect_same();
    if (HasFailure()) return;
  }
  EXPECT_GE(before, 20 * seeds);
  EXPECT_GE(after, 5 * seeds) << "no cut fell behind the switch";
}

}  // namespace
}  // namespace nbd_remap
