#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// FaultWorld: one volume over two disks in memory, what a scenario does with
// it, and a model that knows what may come of it whatever failed meanwhile.
//
// Each step of a scenario is a call of this class. A request that fails must
// have an excuse: a fault that struck during it, a state of the server that
// says so (in doubt, breaker, a map that can no longer change), or that it
// fails in the run without faults as well. A request that succeeds must have
// told the truth, now and after the end of the server.
//
// Blocks   kBlocks of 4 KiB, the last of them cut short.
// Copies   REQUIRES: no server runs. A copy has disks of its own.
// Threads  one.

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/remap/metadata_survey.hpp"
#include "plugins/volume/volume.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/faults/alloc_fault.hpp"
#include "tests/sim/sector_model.hpp"
#include "tests/sim/sim_disk.hpp"

namespace nbd_remap {

class FaultWorld {
 public:
  static constexpr std::uint64_t kBlockBytes = 4096;
  static constexpr std::uint64_t kBlocks = 24;
  static constexpr std::uint64_t kBytes = kBlocks * kBlockBytes - 1024;
  static constexpr std::uint64_t kGrownBytes = kBytes + 4 * kBlockBytes;

  FaultWorld();
  FaultWorld(const FaultWorld& other);
  FaultWorld& operator=(const FaultWorld&) = delete;
  ~FaultWorld();

  // The scenario's words. Offsets in bytes of the volume.
  void format(bool again = false);
  void start();
  void stop();  // in order
  void kill();  // what the disks have they keep
  void read(std::uint64_t offset, std::uint64_t length);
  void write(std::uint64_t offset, std::uint64_t length, bool fua = false);
  void zero(std::uint64_t offset, std::uint64_t length, bool fua = false);
  void trim(std::uint64_t offset, std::uint64_t length, bool fua = false);
  void extents(std::uint64_t offset, std::uint64_t length);
  void cache(std::uint64_t offset, std::uint64_t length);
  void flush();
  void map(MapAction action, std::uint64_t offset, std::uint64_t length);
  void quiesce();
  void grow_spare();
  void grow_main();
  void grow_spare_offline();
  void grow_main_offline();
  void repair();
  void save_map();
  void restore_map();

  // What the medium does. on_main: sectors of a block.
  void fill_main();
  void unreadable(std::uint64_t block, unsigned sector, unsigned count = 1,
                  std::uint8_t bad = SimDisk::kReads);
  void refuse_writes(std::uint64_t block, std::uint64_t blocks = 1);
  void mend(std::uint64_t block);
  // Only so many slots are left.
  void leave_slots(std::uint64_t slots);
  // Records in the log until it is full but for so many.
  void fill_log(std::uint64_t room);
  const Layout& layout() const { return layout_; }
  std::uint64_t slot_of(std::uint64_t block) const;  // as of the last request
  std::uint64_t next_slot() const;
  void enlarge_spare();
  void enlarge_main();

  // For the injector.
  struct Outcomes {
    std::vector<bool> ok;
    std::set<BlockNo> known;  // to the map, at any time
  };
  const Outcomes& outcomes() const { return outcomes_; }
  // only_medium: what is going to fail is no medium, so the map comes to know
  // no block without bad sectors but those of the run without faults (C10).
  void expect(const Outcomes* outcomes, bool only_medium) {
    expected_ = outcomes;
    only_medium_ = only_medium;
  }
  bool dead() const { return power.off; }
  // Of all kinds: errors of a disk, and allocations.
  std::uint64_t fired() const;
  // The server is gone and the disks work: what is there is what counts.
  enum class End { killed, lost, kept, mixed };
  void end(End end, std::uint64_t seed);
  // Starts it and compares everything.
  void verify();
  void violate(const std::string& words) {
    if (violation_.empty()) violation_ = words;
  }
  const std::string& violation() const { return violation_; }
  std::uint64_t calls() const { return power.calls; }

  Power power;
  SimDisk main_disk;
  SimDisk spare_disk;
  FaultyBackend main{main_disk};
  FaultyBackend spare{spare_disk};
  VolumeOptions options;
  std::unique_ptr<Volume> volume;

 private:
  // Runs what the product does, with everything that goes with it.
  Status ask(const char* what, const std::function<Status()>& body,
             std::uint64_t offset = 0, std::uint64_t length = 0);
  bool has_excuse(const Status& status, std::uint64_t offset,
                  std::uint64_t length) const;
  void note_faults(const std::vector<RemapEntry>& before);
  void note_slot_fault(const Operation& op,
                       const std::vector<RemapEntry>& entries);
  std::vector<RemapEntry> entries() const;
  bool up();
  bool has_bad_sectors(BlockNo block) const;
  void change(const char* what, std::uint64_t offset, std::uint64_t length,
              SectorModel::Tag tag, bool durable, bool has_content,
              const std::function<Status()>& body);
  Status open();
  void make_startable();
  void look();
  void compare_sector(std::uint64_t offset, const Status& status,
                      ConstBytes data);
  void check_map();

  SectorModel model_{kGrownBytes};
  SectorModel::Tag tag_ = 0;
  Layout layout_;
  Uuid uuid_{};
  std::vector<RemapEntry> last_entries_;
  std::uint64_t retired_ = 0;       // durably
  std::uint64_t main_flushes_ = 0;  // that failed since the last start
  std::uint64_t spare_flushes_ = 0;
  bool formatted_ = false;
  bool not_grown_ = false;
  bool crashed_ = false;
  std::shared_ptr<struct SavedMap> saved_;
  Outcomes outcomes_;
  const Outcomes* expected_ = nullptr;
  bool only_medium_ = false;
  std::string violation_;
};

}  // namespace nbd_remap
