// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/small_world.hpp"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <stdexcept>
#include <utility>

#include "tests/fakes/volume_fixture.hpp"
#include "tests/sim/fibers.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlocks = 4;
constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kBytes = kBlocks * kBlock;
constexpr std::uint64_t kSectors = kBytes / kSectorBytes;
constexpr std::uint64_t kSlots = 2;
constexpr std::size_t kAllSubsets = 10;  // sectors; of more, some subsets
constexpr std::size_t kSomeSubsets = 64;

using Forks = std::vector<SimDisk::Fork>;

// Calls f(choices), one choice for each fork; until it answers false.
bool each_choice(
    const Forks& forks, std::size_t all_up_to,
    const std::function<bool(const std::vector<std::size_t>&)>& f) {
  std::vector<std::size_t> choice(forks.size());
  if (forks.size() > all_up_to) {
    std::mt19937_64 random(forks.size());
    for (std::size_t n = 0; n < kSomeSubsets + 2 * forks.size(); ++n) {
      const std::size_t alone = n / 2 - 1;
      for (std::size_t i = 0; i < forks.size(); ++i) {
        const std::size_t last = forks[i].choices.size() - 1;
        // None, all, each alone lost or kept, then any.
        if (n < 2 * forks.size() + 2)
          choice[i] = ((n % 2 == 0) == (i == alone)) ? last : 0;
        else
          choice[i] = random() % (last + 1);
      }
      if (!f(choice)) return false;
    }
    return true;
  }
  for (;;) {
    if (!f(choice)) return false;
    std::size_t i = 0;
    while (i < choice.size() && ++choice[i] == forks[i].choices.size())
      choice[i++] = 0;
    if (i == choice.size()) return true;
  }
}

}  // namespace

struct SmallWorld::Disks {
  Disks()
      : main("main", kBytes, power, 1, false),
        spare("spare", spare_bytes_for(kSlots, kBlock), power, 2, true) {}
  Disks(const Disks& other)
      : main(other.main, power), spare(other.spare, power) {}
  Disks& operator=(const Disks&) = delete;

  std::unique_ptr<Volume> open() {
    seed_random_device(1);
    return open_volume(main, spare, {}, clock,
                       [](LogLevel, std::string_view) {});
  }
  // The two as one: sectors of SPARE after those of MAIN.
  Forks forks() const {
    Forks all = main.forks();
    for (SimDisk::Fork fork : spare.forks()) {
      fork.sector += kSectors;
      all.push_back(std::move(fork));
    }
    return all;
  }
  void crash(const Forks& forks, const std::vector<std::size_t>& choices) {
    const auto choose = [&](std::uint64_t sector) -> std::size_t {
      for (std::size_t i = 0; i < forks.size(); ++i)
        if (forks[i].sector == sector) return forks[i].choices[choices[i]];
      return 0;
    };
    main.crash([&](std::uint64_t s, std::size_t) { return choose(s); });
    spare.crash(
        [&](std::uint64_t s, std::size_t) { return choose(s + kSectors); });
    power.off = false;
    power.cut_at.reset();
  }
  std::uint64_t key() const {
    std::uint64_t bad = 0;
    for (std::uint64_t s = 0; s < kSectors; ++s)
      bad = bad * 31 + main.is_bad(s, SimDisk::kReads) +
            2U * main.is_bad(s, SimDisk::kWrites);
    return (main.checksum() * 0x9e3779b97f4a7c15ULL ^ spare.checksum()) *
               0xc2b2ae3d27d4eb4fULL ^
           bad;
  }

  Power power;
  SimDisk main;
  SimDisk spare;
  SystemClock clock;
};

struct SmallWorld::Run {
  explicit Run(const Disks& fresh) : disks(fresh) {
    for (std::uint64_t s = 0; s < kSectors; ++s)
      if (s % 8 < 2) write_model(s * kSectorBytes, kSectorBytes, true);
    write_model(3 * kBlock, 2 * kSectorBytes, true);
    model.spoil(1, true, false);
    model.spoil(9, true, false);
  }
  void write_model(std::uint64_t offset, std::uint64_t length, bool durable) {
    const auto begun = model.begin_write(offset, length, ++tag);
    model.end_write(begun, true, durable);
  }

  void step(std::size_t which) {
    switch (which) {
      case 0:
        return write(0, 512, Durability::cached);
      case 1:
        return write(512, 1024, Durability::fua);
      case 2:
        return write(kBlock, 512, Durability::fua);
      case 3:
        return write(3 * kBlock, 512, Durability::cached);
      case 4:
        return write(kBlock - 512, kBlock + 1024, Durability::cached);
      case 5:
        return write(kBlock + 500, 100, Durability::cached);
      case 6:
        return flush();
      case 7:
        return read();
      case 8:
        return write(kBlock + 512, 1024, Durability::cached, &Run::zeroes);
      case 9:
        return write(0, 2 * kBlock, Durability::cached, &Run::trim);
      case 10:
        return move(MapAction::remap, kBlock);
      case 11:
        for (std::uint64_t s = 0; s < 8; ++s) {
          disks.main.mend(8 + s);
          disks.main.mend(24 + s);
        }
        return move(MapAction::unmap, kBytes);
      default:
        return stop();
    }
  }

  using Change = Status (Run::*)(VolumeOffset, ConstBytes, Durability);
  Status data(VolumeOffset at, ConstBytes bytes, Durability durability) {
    return volume->write(at, bytes, durability);
  }
  Status zeroes(VolumeOffset at, ConstBytes bytes, Durability durability) {
    return volume->zero(at, bytes.size(), ZeroMode::may_punch, durability);
  }
  Status trim(VolumeOffset at, ConstBytes bytes, Durability durability) {
    return volume->trim(at, bytes.size(), durability);
  }

  void write(std::uint64_t offset, std::uint64_t length, Durability durability,
             Change change = &Run::data) {
    const auto mine =
        change == &Run::data ? ++tag : SectorModel::Tag{SectorModel::kZeroes};
    std::vector<std::byte> bytes(length);
    SectorModel::fill(mine, offset, bytes);
    const auto begun = model.begin_write(offset, length, mine);
    const Status status =
        (this->*change)(VolumeOffset{offset}, bytes, durability);
    model.end_write(begun, status.ok() && change != &Run::trim,
                    durability == Durability::fua);
  }
  void flush() {
    const auto begun = model.now();
    if (volume->flush()) model.flushed(begun);
  }
  void read() {
    std::vector<std::byte> bytes(kBlock);
    const auto begun = model.now();
    if (volume->read(VolumeOffset{0}, bytes))
      wrong = model.check_read(0, bytes, begun);
    else if (!model.may_fail(0, kBlock, begun) && !disks.power.off)
      wrong = "a read fails, and no sector was bad";
  }
  void move(MapAction action, std::uint64_t length) {
    (void)volume->map_step(action, VolumeOffset{0}, length,
                           std::chrono::milliseconds(60'000));
  }
  void stop() {
    volume->close_gate();
    (void)volume->close().ok();
    volume.reset();
    if (disks.power.off) return;
    try {
      volume = disks.open();
    } catch (const std::runtime_error& error) {
      if (!disks.power.off) wrong = error.what();
    }
  }

  Disks disks;
  SectorModel model{kBytes};
  SectorModel::Tag tag = 0;
  std::unique_ptr<Volume> volume;
  std::string wrong;
};

SmallWorld::SmallWorld(std::uint64_t recovery)
    : recovery_(recovery), fresh_(std::make_unique<Disks>()) {
  // A volume has a few large tables, and here lives for a fraction of a ms.
  (void)::mallopt(M_MMAP_THRESHOLD, 64 << 20);
  (void)::mallopt(M_TRIM_THRESHOLD, 256 << 20);
  seed_random_device(1);
  format_for(fresh_->spare, fresh_->main, kBlock);
  leave_two_slots();
  SectorModel::Tag tag = 0;
  std::vector<std::byte> sector(kSectorBytes);
  for (std::uint64_t s = 0; s < kSectors; ++s) {
    if (s % 8 >= 2) continue;
    SectorModel::fill(++tag, s * kSectorBytes, sector);
    if (!fresh_->main.write(DeviceOffset{s * kSectorBytes}, sector,
                            Durability::fua))
      throw std::runtime_error("a good disk refuses a write");
  }
  fresh_->main.spoil(1, SimDisk::kReads);
  fresh_->main.spoil(9, SimDisk::kReads);
  for (std::uint64_t s = 8; s < kSectors; ++s)
    fresh_->main.spoil(s, SimDisk::kWrites);
  std::vector<std::byte> moved(2 * kSectorBytes);
  SectorModel::fill(++tag, 3 * kBlock, moved);
  if (!fresh_->open()->write(VolumeOffset{3 * kBlock}, moved,
                             Durability::fua) ||
      !fresh_->spare.flush())
    throw std::runtime_error("a block does not get its slot");
}

SmallWorld::~SmallWorld() = default;

// The smallest SPARE has more: those are retired.
void SmallWorld::leave_two_slots() {
  Binding binding;
  binding.main_bytes = kBytes;
  binding.main_identity = fresh_->main.info().identity;
  auto store = RemapStore::open(fresh_->spare, binding, false,
                                [](LogLevel, std::string_view) {});
  if (!store) throw std::runtime_error(store.error().text());
  std::vector<SlotNo> retire;
  while ((*store)->status().slots.slots - retire.size() > kSlots)
    retire.push_back((*store)->take_slot().value());
  if (!(*store)->commit({}, retire) || !(*store)->close())
    throw std::runtime_error("a good SPARE retires no slots");
}

bool SmallWorld::explore(const std::vector<std::size_t>& steps) {
  ++counts_.sequences;
  std::uint64_t before = 0;  // calls until the last step begins
  for (std::uint64_t cut = 0;; ++cut) {
    Run run(*fresh_);
    run.volume = run.disks.open();
    run.disks.power.calls = 0;
    if (cut != 0) run.disks.power.cut_at = before + cut;
    for (std::size_t i = 0; i < steps.size() && !run.disks.power.off; ++i) {
      if (cut == 0 && i + 1 == steps.size()) before = run.disks.power.calls;
      run.step(steps[i]);
      if (!run.wrong.empty()) violation_ = run.wrong;
    }
    const bool was_cut = run.disks.power.off;
    // The first time it ends after the last step, then at each call of it.
    if (cut != 0 && !was_cut) return true;
    ++counts_.ends;
    run.volume.reset();
    if (violation_.empty()) at_end(steps, run);
    if (!violation_.empty()) {
      std::string names;
      for (std::size_t step : steps) names += std::string(kSteps[step]) + " ";
      violation_ = fmt::format("{}; steps {}, {}", violation_, names,
                               cut == 0 ? std::string("end after them")
                                        : fmt::format("end at call {} of the "
                                                      "last",
                                                      cut));
      return false;
    }
  }
}

bool SmallWorld::at_end(const std::vector<std::size_t>&, Run& run) {
  const Forks forks = run.disks.forks();
  run.model.crash();
  counts_.sampled += forks.size() > kAllSubsets;
  return each_choice(
      forks, kAllSubsets, [&](const std::vector<std::size_t>& choices) {
        ++counts_.states;
        Disks after(run.disks);
        after.crash(forks, choices);
        violation_ = compare(run.model, start(after));
        if (violation_.empty()) return true;
        violation_ += ", survivors";
        for (std::size_t i = 0; i < forks.size(); ++i)
          violation_ +=
              fmt::format(" {}{}:{}", forks[i].sector < kSectors ? 'm' : 's',
                          forks[i].sector % kSectors, choices[i]);
        return false;
      });
}

SmallWorld::Found SmallWorld::look(const Disks& disks) {
  Disks mine(disks);
  Found found;
  std::unique_ptr<Volume> volume;
  try {
    volume = mine.open();
  } catch (const std::runtime_error& error) {
    found.why = error.what();
    return found;
  }
  found.starts = true;
  SimDisk::Content sector{};
  for (std::uint64_t s = 0; s < kSectors; ++s) {
    std::uint32_t number = kUnreadable;
    if (volume->read(VolumeOffset{s * kSectorBytes}, sector)) {
      const auto next = static_cast<std::uint32_t>(contents_.size());
      number = numbers_.try_emplace(sector, next).first->second;
      if (number == next) contents_.push_back(sector);
    }
    found.sectors.push_back(number);
  }
  return found;
}

const SmallWorld::Found& SmallWorld::start(const Disks& disks) {
  const auto [at, is_new] = known_.try_emplace(disks.key());
  if (!is_new) return at->second;
  ++counts_.starts;
  at->second = look(disks);
  Found& found = at->second;
  if (found.starts && counts_.starts % recovery_ == 0 &&
      !cut_starts(disks, found, 2)) {
    found.starts = false;
    found.why = "a start that was cut and one that was not differ";
  }
  return found;
}

// At each call of the start; of what it leaves some subsets; and of these the
// last is cut again.
bool SmallWorld::cut_starts(const Disks& disks, const Found& expected,
                            unsigned depth) {
  for (std::uint64_t cut = 1;; ++cut) {
    Disks cut_disks(disks);
    cut_disks.power.calls = 0;
    cut_disks.power.cut_at = cut;
    try {
      (void)cut_disks.open();
    } catch (const std::runtime_error&) {
      if (!cut_disks.power.off) return false;
    }
    if (!cut_disks.power.off) return true;
    const Forks forks = cut_disks.forks();
    std::size_t n = 0;
    const bool same =
        each_choice(forks, 3, [&](const std::vector<std::size_t>& choices) {
          ++counts_.cut_starts;
          Disks after(cut_disks);
          after.crash(forks, choices);
          if (!(look(after) == expected)) return false;
          return depth == 1 || (++n + cut) % 64 != 0 ||
                 cut_starts(after, expected, depth - 1);
        });
    if (!same) return false;
  }
}

std::string SmallWorld::compare(const SectorModel& model, const Found& found) {
  if (!found.starts) return "it does not start: " + found.why;
  SectorModel after = model;
  for (std::uint64_t s = 0; s < kSectors; ++s) {
    if (found.sectors[s] == kUnreadable) {
      ++counts_.unreadable;
      if (!after.may_fail(s * kSectorBytes, kSectorBytes, after.now()))
        return fmt::format("sector {} cannot be read for no reason", s);
    } else if (auto wrong = after.settle(s, contents_[found.sectors[s]]);
               !wrong.empty()) {
      return wrong;
    }
  }
  return {};
}

}  // namespace nbd_remap
