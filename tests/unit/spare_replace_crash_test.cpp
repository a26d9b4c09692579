// SPDX-License-Identifier: BSD-3-Clause
// Contracts C1 to C3 and M3 for a volume whose SPARE is being replaced: a power
// cut of all three disks at every call, with lost, torn and reordered sectors.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "plugins/remap/remap_move.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/spare_replace_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kBytes = 2 << 20;
// In slots before it begins; 8 and 9 get one, 12 loses its own.
constexpr std::array<std::uint64_t, 7> kSlots{0, 1, 5, 12, 100, 300, 511};
constexpr std::array<std::uint64_t, 9> kAll{0, 1, 5, 8, 9, 12, 100, 300, 511};

BackendInfo crash_disk(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.direct = true;
  return info;
}

class CrashWorld {
 public:
  explicit CrashWorld(std::uint64_t seed) : random_(seed) {
    format_for(spare_disk_, main_disk_, kBlock);
    EXPECT_TRUE(spare_disk_.flush());
    EXPECT_TRUE(world.open("spare"));
    for (const std::uint64_t b : kAll) write(b);
    for (const std::uint64_t b : kSlots) EXPECT_TRUE(world.remap(b, 1));
    for (const std::uint64_t b : kSlots) write(b);
    flush();
  }

  void write(std::uint64_t block, Durability durability = Durability::cached) {
    const std::uint64_t tag = ++tag_;
    const bool acked =
        world.write(block * kBlock, kBlock, tag, durability) == 0;
    may_[block].insert(tag);
    if (acked) newest_[block] = tag;
    if (acked && durability == Durability::fua) may_[block] = {tag};
  }
  void flush() {
    if (!world.volume->flush()) return;
    for (auto& [block, tags] : may_) tags = {newest_[block]};
  }
  // A client at work, all the way to the switch. False: it did not end.
  bool work() {
    (void)world.replacer->start("next", false);
    for (int i = 0; i < 400; ++i) {
      if (was_cut()) return true;
      if (world.phase() == ReplacePhase::done) return true;
      if (i == 1) (void)world.remap(8, 2);
      if (i == 2)
        (void)world.volume->map_step(MapAction::unmap,
                                     VolumeOffset{12 * kBlock}, kBlock,
                                     std::chrono::seconds(60));
      const std::uint64_t block = kAll.at(random_() % kAll.size());
      if (random_() % 2 == 0)
        write(block, random_() % 2 == 0 ? Durability::fua : Durability::cached);
      if (random_() % 4 == 0) flush();
      if (i > 3) (void)world.replacer->step();
    }
    return false;
  }
  void cut_at(std::uint64_t n) {
    // The new disk is written to by another thread.
    auto left = std::make_shared<std::atomic<std::uint64_t>>(n);
    const auto hook = [this, left](const Operation&) {
      if (--*left != 0) return;
      for (CrashBackend* d : {&main_disk_, &spare_disk_, &next_disk_})
        d->power_cut_after(0);
    };
    for (FaultyBackend* d : {&main_, &spare_, &next_}) d->set_hook(hook);
  }
  bool was_cut() const { return spare_disk_.power_is_off(); }
  void crash(std::uint64_t seed) {
    world.kill();
    std::uint64_t n = 0;
    for (FaultyBackend* d : {&main_, &spare_, &next_}) d->set_hook({});
    for (CrashBackend* d : {&main_disk_, &spare_disk_, &next_disk_})
      d->crash(seed * 3 + ++n);
  }
  // Contract M3: with exactly one of the two, whichever is tried first.
  void open_one(bool next_first) {
    const auto found = find_superblock(next_disk_);
    asked += found && *found && (*found)->is_candidate() ? 1 : 0;
    const char* const names[] = {next_first ? "next" : "spare",
                                 next_first ? "spare" : "next"};
    const bool first = world.open(names[0]).ok();
    world.kill();
    const bool second = world.open(names[1]).ok();
    ASSERT_NE(first, second);
    on_next = first == next_first;
    if (first) {
      ASSERT_TRUE(world.open(names[0]));
    }
  }
  std::vector<std::byte> content(std::uint64_t block) const {
    std::vector<std::byte> data(kBlock);
    const Status status =
        world.volume->read(VolumeOffset{block * kBlock}, data);
    EXPECT_TRUE(status) << status.error().text();
    return data;
  }
  // Sector by sector: a cut tears.
  void expect_possible(std::uint64_t block,
                       const std::vector<std::byte>& data) {
    for (std::size_t s = 0; s < kBlock; s += 512) {
      const auto& may = may_[block];
      const bool one = std::any_of(may.begin(), may.end(), [&](auto tag) {
        const auto right = pattern(tag, kBlock);
        return std::equal(right.begin() + static_cast<long>(s),
                          right.begin() + static_cast<long>(s + 512),
                          data.begin() + static_cast<long>(s));
      });
      EXPECT_TRUE(one) << "block " << block << " byte " << s;
    }
  }

 private:
  CrashBackend main_disk_{crash_disk("main", kBytes)};
  CrashBackend spare_disk_{crash_disk("spare", kLeastBytesWithStateArea)};
  CrashBackend next_disk_{crash_disk("next", kLeastBytesWithStateArea)};
  FaultyBackend main_{main_disk_};
  FaultyBackend spare_{spare_disk_};
  FaultyBackend next_{next_disk_};

 public:
  SpareReplaceWorld world{{main_, spare_, next_}};
  bool on_next = false;
  std::uint64_t asked = 0;  // starts for which the old SPARE had to be asked

 private:
  std::map<std::uint64_t, std::set<std::uint64_t>> may_;
  std::map<std::uint64_t, std::uint64_t> newest_;
  std::mt19937_64 random_;
  std::uint64_t tag_ = 0;
};

TEST(SpareReplaceCrash, a_power_cut_at_any_call_leaves_one_of_the_two_whole) {
  const std::uint64_t seeds =
      std::getenv("NBD_REMAP_LONG") != nullptr ? 100 : 2;
  std::uint64_t before = 0;
  std::uint64_t after = 0;
  std::uint64_t asked = 0;
  std::uint64_t ended = 0;
  for (std::uint64_t i = 0; ended < 2 * seeds; ++i) {
    const std::uint64_t n = 1 + i / seeds;
    const std::uint64_t seed = i;
    ASSERT_LT(n, 2000U);
    SCOPED_TRACE(testing::Message() << "cut at " << n << ", seed " << seed);
    CrashWorld world(seed);
    world.cut_at(n);
    ASSERT_TRUE(world.work());
    if (!world.was_cut()) ++ended;
    world.crash(seed);
    world.open_one(seed % 3 == 0);
    if (HasFatalFailure()) return;
    ++(world.on_next ? after : before);
    asked += world.asked;
    std::map<std::uint64_t, std::vector<std::byte>> holds;
    for (const std::uint64_t b : kAll) {
      holds[b] = world.content(b);
      world.expect_possible(b, holds[b]);
    }
    // Whatever it was: it is settled now, and stays so until it is written.
    const auto expect_same = [&] {
      for (const std::uint64_t b : kAll)
        EXPECT_EQ(world.content(b), holds[b]) << "block " << b;
    };
    for (int step = 0;
         step < 50 && world.world.phase() == ReplacePhase::copying; ++step)
      (void)world.world.replacer->step();
    EXPECT_NE(world.world.phase(), ReplacePhase::copying);
    expect_same();
    world.flush();
    // And the next start, after another cut, finds the same.
    world.crash(seed + 1);
    world.open_one(seed % 2 == 0);
    if (HasFatalFailure()) return;
    expect_same();
    if (HasFailure()) return;
  }
  EXPECT_GE(before, 20 * seeds);
  EXPECT_GE(after, 2 * seeds) << "no cut fell behind the switch";
  EXPECT_GE(asked, seeds) << "no cut fell into the switch";
}

}  // namespace
}  // namespace nbd_remap
