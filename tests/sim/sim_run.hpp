#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SimRun: one run of a SimPlan, for sim_world.cpp (rounds, ends and starts),
// sim_requests.cpp (what clients and owners ask, and what the medium does),
// sim_background.cpp (scans and replacements) and sim_checks.cpp (what must be
// true).
//
// Offsets are those of the plan, see sim_place().

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "plugins/replace/replacer.hpp"
#include "plugins/scanner/scan_engine.hpp"
#include "tests/fakes/volume_fixture.hpp"
#include "tests/sim/fibers.hpp"
#include "tests/sim/sector_model.hpp"
#include "tests/sim/sim_disk.hpp"
#include "tests/sim/sim_plan.hpp"
#include "tests/sim/sim_world.hpp"

namespace nbd_remap {

// Goes on by what runs in the background alone, so that no bound makes two runs
// of a seed differ.
class SimClock final : public Clock {
 public:
  std::chrono::steady_clock::time_point now() const override { return now_; }
  std::uint64_t unix_seconds() const override {
    return 1'700'000'000 + static_cast<std::uint64_t>(
                               std::chrono::duration_cast<std::chrono::seconds>(
                                   now_.time_since_epoch())
                                   .count());
  }
  void move(std::chrono::nanoseconds time) { now_ += time; }

 private:
  std::chrono::steady_clock::time_point now_{std::chrono::hours(1)};
};

class SimRun {
 public:
  using Kind = SimOp::Kind;
  using Time = SectorModel::Time;
  static constexpr std::uint64_t kSectorsPerBlock =
      kSimBlockBytes / kSectorBytes;

  explicit SimRun(const SimPlan& plan);
  ~SimRun() { kill_server(); }
  SimRun(const SimRun&) = delete;
  SimRun& operator=(const SimRun&) = delete;
  SimOutcome run();

 private:
  void violate(const std::string& words) {
    if (violation_.empty()) violation_ = words;
  }

  // What happens, as it does, if NBD_REMAP_SIM_TELL is set.
  static void tell(const std::string& words);
  static LogSink log() {
    return [](LogLevel, std::string_view words) { tell(std::string(words)); };
  }

  // sim_world.cpp
  void start();
  void open(std::size_t which);
  void kill_server();
  void run_round(const SimRound& round);
  bool going() const { return violation_.empty() && !power_.off; }

  void end(const SimRound& round);
  void power_on();
  void crash(unsigned mode, std::uint64_t seed);

  // sim_requests.cpp
  // One client: the next request, and the next.
  void client();
  void perform(const SimOp& op);
  void told(const SimOp& op, const Status& status);
  void read(const SimOp& op);
  static std::string prefix(const char* what, const std::string& words) {
    return words.empty() ? words : what + words;
  }

  void change(const SimOp& op);

  bool in_doubt() const {
    const VolumeStatus now = volume_->status();
    return now.main.in_doubt || now.spare.in_doubt;
  }

  void flush();

  void extents(const SimOp& op);
  void move(const SimOp& op, MapAction action);

  // Only sectors that cannot be read may become zeroes.
  void clear(const SimOp& op);
  void spoil(const SimOp& op);
  void alone(const SimOp& op);

  // By the numbers of the plan.
  static VolumeOffset place(std::uint64_t offset) {
    return VolumeOffset{sim_place(offset)};
  }
  std::optional<RemapEntry> entry(std::uint64_t block) const;
  void spoil_copy(const SimOp& op, const Layout& layout);

  // sim_background.cpp
  void scan(const SimOp& op);
  void begin_scan(const SimOp& op);
  void count_scan();
  void replace(const SimOp& op);
  void open_replacer();
  void grow_spare(const SimOp& op);

  // sim_checks.cpp
  // A change may fail only for a reason that is the disks'.
  void excuse_change(const Status& status, Time begun);
  bool is_unreadable(const std::string& words);
  void excuse_scan(const std::string& words, Time begun);
  // Contract C12: a flush that failed is in the status.
  void check_doubt();
  // Every sector. settle: after a power cut.
  void look(bool settle);
  void compare(std::uint64_t offset, ConstBytes data, bool settle);

  // Of a sector in a slot MAIN's faults are no excuse.
  void excuse_unreadable(std::uint64_t sector, const Status& status);
  void check_map(const SimRound& round);

  const SimPlan& plan_;
  Power power_;
  SimDisk& main() { return disks_[main_at_]; }
  SimDisk& other() { return disks_[1 - main_at_]; }

  std::array<SimDisk, 2> disks_{
      SimDisk{"main", kSimMainBytes, power_, plan_.seed + 1, false},
      SimDisk{"next", kSimMainBytes, power_, plan_.seed + 3, false}};
  std::size_t main_at_ = 0;
  SimDisk spare_{"spare",
                 plan_.state_area
                     ? kLeastBytesWithStateArea
                     : spare_bytes_for(plan_.slots, kSimBlockBytes),
                 power_, plan_.seed + 2, true};
  SimClock clock_;
  VolumeOptions options_;
  SectorModel model_{kSimBytes};
  Fibers fibers_;
  // Each outlives the next.
  std::unique_ptr<Replacer> replacer_;
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<ScanVolume> scan_volume_;
  std::unique_ptr<ScanEngine> scanner_;
  ScanState scan_counted_;  // what of it is in stats_
  bool scanning_ = false;   // a fiber is in a step
  bool replacing_ = false;
  bool may_be_other_ = false;  // nobody has seen yet which disk is MAIN
  std::string scan_log_;
  unsigned spare_grown_ = 0;
  Time spare_grew_at_ = 0;
  const SimRound* round_ = nullptr;
  std::size_t next_ = 0;
  std::size_t segment_end_ = 0;
  SectorModel::Tag tag_ = 0;
  std::uint64_t running_ = 0;       // blocks of requests under way
  std::uint64_t running_most_ = 0;  // since none was
  unsigned clears_ = 0;
  bool crashed_ = false;
  bool copy_is_bad_ = false;
  std::uint64_t main_flushes_ = 0;  // that had failed at the last start
  std::uint64_t spare_flushes_ = 0;
  std::set<std::uint64_t> retired_;
  std::string violation_;
  SimStats stats_;
};

}  // namespace nbd_remap
