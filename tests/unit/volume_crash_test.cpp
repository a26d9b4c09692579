// SPDX-License-Identifier: BSD-3-Clause
// Contracts C2 and C3: power cuts of MAIN and SPARE at the same moment, with
// faults on both. Each sector then holds its last durable content or a later
// one that was written, never another. NBD_REMAP_CRASH_CUTS and NBD_REMAP_SEED
// make it longer, or the same again.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlocks = 64;
constexpr std::uint64_t kSectors = kBlocks * 8;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

using Words = std::array<std::uint64_t, kSectorBytes / 8>;

// Version 0 is zeroes.
Words content(std::uint64_t sector, std::uint64_t version) {
  Words words{};
  if (version == 0) return words;
  words.fill(version * 0x9e3779b97f4a7c15ULL + sector);
  words[0] = version;
  return words;
}

struct Totals {
  std::uint64_t cuts = 0, in_recovery = 0, faults = 0, remapped = 0,
                retired = 0, survived_unflushed = 0, unreadable = 0, moved = 0;
};

class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {
    format_for(spare_disk_, main_disk_, 4096);
    EXPECT_TRUE(spare_disk_.flush());
    main_.tear_failed_writes(seed);
    spare_.tear_failed_writes(seed + 1);
    bad_reads_ = main_.add_bad_range(FaultOp::read, 0, 0, EIO);
    bad_writes_ =
        main_.add_bad_range({FaultOp::write, FaultOp::zero}, 0, 0, EIO);
    bad_slots_ =
        spare_.add_bad_range({FaultOp::write, FaultOp::zero}, 0, 0, EIO);
    const auto hook = [this](const Operation&) {
      if (!until_cut_ || (*until_cut_)-- != 0) return;
      until_cut_.reset();
      main_disk_.power_cut_after(0);
      spare_disk_.power_cut_after(0);
      off_ = true;
    };
    main_.set_hook(hook);
    spare_.set_hook(hook);
    open();
  }

  // Some requests, a power cut among them, and a look at every sector.
  void cut_once(Totals& totals) {
    if (pick(2) == 0) add_fault();
    until_cut_ = pick(150);
    for (int i = 0; i < 60 && !off_; ++i) {
      request();
      if (testing::Test::HasFailure()) return;
    }
    volume_.reset();
    for (;;) {
      // Half of what is cut in recovery is cut again.
      crash();
      ++totals.cuts;
      if (pick(8) == 0) until_cut_ = pick(30);
      try {
        open();
        until_cut_.reset();
        if (!off_) break;
        volume_.reset();
      } catch (const std::runtime_error& error) {
        ASSERT_TRUE(off_) << "no cut, and it does not start: " << error.what();
      }
      ++totals.in_recovery;
    }
    look_at_all(totals);
    main_.clear_trace();
    spare_.clear_trace();
  }

  void add_to(Totals& totals) const {
    totals.faults += main_.fired() + spare_.fired();
    totals.remapped += volume_->status().store.remapped;
    totals.retired += volume_->status().store.slots.retired;
    totals.moved += moved_;
  }

 private:
  struct Sector {
    // The first is durable, the others may be: acknowledged, or not.
    std::vector<std::uint64_t> versions{0};
    std::size_t acked = 0;  // a live read gives this one, or a later one
    bool read_bad = false;  // on MAIN
    bool pinned = false;    // durably in a slot: must never be unreadable
  };

  std::uint64_t pick(std::uint64_t n) { return random_() % n; }

  void open() {
    volume_ = open_volume(main_, spare_, {}, clock_,
                          [](LogLevel, std::string_view) {});
  }

  void crash() {
    main_disk_.crash(random_());
    spare_disk_.crash(random_());
    until_cut_.reset();
    off_ = false;
  }

  void add_fault() {
    if (pick(8) == 0) {
      const Layout layout = volume_->status().store.superblock.layout;
      if (slots_spoiled_++ < 40)
        spare_.extend(bad_slots_, layout.slot(SlotNo{pick(110)}).value, 512);
      return;
    }
    const std::uint64_t sector = pick(kSectors);
    const std::uint64_t n = std::min(1 + pick(4), kSectors - sector);
    if (pick(3) != 0) main_.extend(bad_writes_, sector * 512, n * 512);
    if (pick(2) != 0) return;
    main_.extend(bad_reads_, sector * 512, n * 512);
    for (std::uint64_t s = sector; s < sector + n; ++s)
      sectors_[s].read_bad = true;
  }

  void request() {
    const std::uint64_t first = pick(kSectors);
    const std::uint64_t n =
        std::min(1 + pick(pick(4) == 0 ? 40 : 8), kSectors - first);
    const std::uint64_t kind = pick(100);
    if (kind < 10) return flush();
    if (kind < 25) return read(first, n);
    if (kind >= 92) return move(first, n);
    const bool zero = kind < 35;
    const Durability durability =
        pick(5) == 0 ? Durability::fua : Durability::cached;
    const std::uint64_t version = zero ? 0 : ++version_;
    std::vector<std::byte> data(n * 512);
    for (std::uint64_t s = first; s < first + n; ++s) {
      const Words words = content(s, version);
      std::memcpy(data.data() + (s - first) * 512, words.data(), 512);
      sectors_[s].versions.push_back(version);
    }
    const VolumeOffset offset{first * 512};
    const Status status =
        zero ? volume_->zero(offset, n * 512,
                             pick(2) == 0 ? ZeroMode::may_punch
                                          : ZeroMode::keep_allocated,
                             durability)
             : volume_->write(offset, data, durability);
    if (!status) {
      ASSERT_TRUE(off_) << status.error().text();
      return;
    }
    for (std::uint64_t s = first; s < first + n; ++s) {
      sectors_[s].acked = sectors_[s].versions.size() - 1;
      if (durability == Durability::fua) make_durable(s);
    }
  }

  // What an owner asks changes no content that can be read.
  void move(std::uint64_t first, std::uint64_t n) {
    constexpr std::array kActions{MapAction::remap, MapAction::unmap,
                                  MapAction::unmap, MapAction::retest,
                                  MapAction::check};
    const MapStep step = volume_->map_step(kActions.at(pick(kActions.size())),
                                           VolumeOffset{first * 512}, n * 512,
                                           std::chrono::milliseconds(60'000));
    ASSERT_TRUE(step.status || off_) << step.status.error().text();
    moved_ += step.counts.remapped + step.counts.unmapped;
    // Back on MAIN it may be met by a later fault.
    for (std::uint64_t s = first / 8 * 8; s < (first + n + 7) / 8 * 8; ++s)
      sectors_[s].pinned = false;
  }

  void make_durable(std::uint64_t s) {
    Sector& sector = sectors_[s];
    sector.versions.erase(
        sector.versions.begin(),
        sector.versions.begin() + static_cast<long>(sector.acked));
    sector.acked = 0;
    if (!sector.read_bad || sector.pinned) return;
    const auto entries = volume_->entries(BlockNo{s / 8}, 1);
    sector.pinned = !entries.empty() && entries[0].block.value == s / 8 &&
                    entries[0].remapped() && (entries[0].valid >> s % 8 & 1);
  }

  void flush() {
    const Status status = volume_->flush();
    if (!status) {
      ASSERT_TRUE(off_) << status.error().text();
      return;
    }
    for (std::uint64_t s = 0; s < kSectors; ++s) make_durable(s);
  }

  void read(std::uint64_t first, std::uint64_t n) {
    std::vector<std::byte> data(n * 512);
    const Status status = volume_->read(VolumeOffset{first * 512}, data);
    if (off_) return;
    bool may_fail = false;
    for (std::uint64_t s = first; s < first + n; ++s)
      may_fail |= sectors_[s].read_bad && !sectors_[s].pinned;
    ASSERT_TRUE(status || may_fail) << status.error().text();
    for (std::uint64_t s = first; status && s < first + n; ++s)
      ASSERT_TRUE(find(s, data.data() + (s - first) * 512, sectors_[s].acked))
          << "sector " << s << " is not what was acknowledged";
  }

  // Which of its versions, from this one on, a sector is.
  std::optional<std::size_t> find(std::uint64_t s, const std::byte* data,
                                  std::size_t from) const {
    const auto& versions = sectors_[s].versions;
    for (std::size_t i = from; i < versions.size(); ++i)
      if (std::memcmp(content(s, versions[i]).data(), data, 512) == 0) return i;
    return std::nullopt;
  }

  void look_at_all(Totals& totals) {
    std::array<std::byte, 512> data{};
    for (std::uint64_t s = 0; s < kSectors; ++s) {
      Sector& sector = sectors_[s];
      const Status status = volume_->read(VolumeOffset{s * 512}, data);
      if (!status) {
        ASSERT_TRUE(sector.read_bad && !sector.pinned)
            << "sector " << s << ": " << status.error().text();
        ++totals.unreadable;
        sector.acked = 0;
        continue;
      }
      const auto survivor = find(s, data.data(), 0);
      ASSERT_TRUE(survivor)
          << "sector " << s << " is older than durable, or nobody's";
      totals.survived_unflushed += *survivor != 0;
      sector.versions = {sector.versions[*survivor]};
      sector.acked = 0;
    }
  }

  std::mt19937_64 random_;
  CrashBackend main_disk_{kBlocks * 4096};
  CrashBackend spare_disk_{spare_bytes_for(160, 4096)};
  FaultyBackend main_{main_disk_};
  FaultyBackend spare_{spare_disk_};
  FaultyBackend::Rule bad_reads_ = 0, bad_writes_ = 0, bad_slots_ = 0;
  int slots_spoiled_ = 0;
  std::optional<std::uint64_t> until_cut_;
  bool off_ = false;
  SystemClock clock_;
  std::unique_ptr<Volume> volume_;
  std::array<Sector, kSectors> sectors_;
  std::uint64_t version_ = 0;
  std::uint64_t moved_ = 0;
};

TEST(VolumeCrash, a_power_cut_leaves_each_sector_durable_or_newer) {
  const std::uint64_t first = from_environment("NBD_REMAP_SEED", 1);
  const std::uint64_t cuts = from_environment("NBD_REMAP_CRASH_CUTS", 4000);
  Totals totals;
  for (std::uint64_t seed = first; totals.cuts < cuts; ++seed) {
    SCOPED_TRACE("NBD_REMAP_SEED=" + std::to_string(seed));
    const auto world = std::make_unique<World>(seed);
    for (int i = 0; i < 50; ++i) {
      world->cut_once(totals);
      if (HasFailure()) return;
    }
    world->add_to(totals);
  }
  RecordProperty("cuts", std::to_string(totals.cuts));
  EXPECT_GT(totals.in_recovery, cuts / 50);
  EXPECT_GT(totals.faults, cuts);
  EXPECT_GT(totals.remapped, 0U);
  EXPECT_GT(totals.retired, 0U);
  EXPECT_GT(totals.moved, cuts / 10);
  EXPECT_GT(totals.survived_unflushed, 0U) << "nothing was ever unflushed";
  EXPECT_GT(totals.unreadable, 0U);
}

}  // namespace
}  // namespace nbd_remap
