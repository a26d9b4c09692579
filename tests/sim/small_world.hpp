#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SmallWorld: a volume so small that everything that can happen to it is tried:
// each sequence of a few steps, an end at each call of the disks, each subset
// of the sectors that were not flushed, and each of these starts cut in turn.
//
// MAIN has 4 blocks. Sector 1 of blocks 0 and 1 cannot be read until it is
// written; blocks 1 to 3 cannot be written (until the step "unmap" has mended 1
// and 3). SPARE has 2 slots; block 3 lives in one, so the second block that
// needs one finds none. What a start makes of a state of the disks must be what
// the SectorModel allows, and must not depend on how often it was cut before
// (M2a).

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "plugins/volume/volume.hpp"
#include "tests/sim/sector_model.hpp"
#include "tests/sim/sim_disk.hpp"

namespace nbd_remap {

class SmallWorld {
 public:
  static constexpr std::array kSteps{
      "write",       // a sector of block 0
      "write-fua",   // sectors 1 and 2 of block 0: cures the bad one
      "write-bad",   // a sector of block 1, with FUA
      "write-slot",  // a sector of block 3
      "write-many",  // from block 0 into block 2
      "write-part",  // some bytes of block 1
      "flush",
      "read",   // block 0, with its bad sector
      "zero",   // sectors of block 1
      "trim",   // blocks 0 and 1
      "remap",  // block 0
      "unmap",  // all
      "stop",   // in order, and a start
  };
  struct Counts {
    std::uint64_t sequences = 0;
    std::uint64_t ends = 0;     // calls at which the server ended
    std::uint64_t states = 0;   // that these left
    std::uint64_t sampled = 0;  // ends that left too many states for all
    std::uint64_t starts = 0;   // from states that differ
    std::uint64_t cut_starts = 0;
    std::uint64_t unreadable = 0;  // sectors
  };

  // recovery: of every so many different states the starts are cut too.
  explicit SmallWorld(std::uint64_t recovery);
  ~SmallWorld();

  // Ends at each call of the last step. False: violation() tells.
  bool explore(const std::vector<std::size_t>& steps);
  const std::string& violation() const { return violation_; }
  const Counts& counts() const { return counts_; }

 private:
  struct Disks;
  struct Run;
  // What a start finds: of each sector the number of its content in contents_,
  // or kUnreadable.
  static constexpr std::uint32_t kUnreadable = ~std::uint32_t{0};
  struct Found {
    bool starts = false;
    std::string why;
    std::vector<std::uint32_t> sectors;
    friend bool operator==(const Found&, const Found&) = default;
  };

  void leave_two_slots();
  bool at_end(const std::vector<std::size_t>& steps, Run& run);
  Found look(const Disks& disks);
  const Found& start(const Disks& disks);
  bool cut_starts(const Disks& disks, const Found& expected, unsigned depth);
  std::string compare(const SectorModel& model, const Found& found);

  const std::uint64_t recovery_;
  std::unique_ptr<Disks> fresh_;
  std::unordered_map<std::uint64_t, Found> known_;
  std::map<SimDisk::Content, std::uint32_t> numbers_;
  std::vector<SimDisk::Content> contents_;
  std::string violation_;
  Counts counts_;
};

}  // namespace nbd_remap
