#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A Volume whose SPARE is to be replaced, step by step, over disks that a test
// owns and that outlive it. Opened as a server opens it: with a SPARE that is
// bound to MAIN and is not refused.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugins/replace/replace_notes.hpp"
#include "plugins/replace/spare_replacer.hpp"
#include "tests/fakes/replace_fixture.hpp"

namespace nbd_remap {

// The three disks as a server sees them.
struct SpareReplaceDisks {
  Backend& main;
  Backend& spare;  // "spare"
  Backend& next;   // "next"
};

class SpareReplaceWorld {
 public:
  explicit SpareReplaceWorld(
      SpareReplaceDisks disks,
      std::chrono::milliseconds bound = std::chrono::milliseconds(20'000))
      : disks_(disks), bound_(bound) {}
  ~SpareReplaceWorld() { kill(); }

  // with: one of the two that may be SPARE, under its name.
  Status open(const std::string& name);
  // As kill -9 does: nothing is closed.
  void kill();
  void stop();

  int write(std::uint64_t offset, std::uint64_t length, std::uint64_t tag,
            Durability durability = Durability::cached);
  int read(std::uint64_t offset, std::uint64_t length);
  bool holds(std::uint64_t offset, std::uint64_t length, std::uint64_t tag);
  RemapEntry entry(std::uint64_t block) const;
  bool remap(std::uint64_t first_block, std::uint64_t blocks);
  // Steps until the phase is this, or what it waits for is not empty.
  bool run_to(ReplacePhase phase, std::uint64_t steps = 10'000);
  ReplacePhase phase() const { return replacer->status().phase; }
  bool logged(const std::string& words) const;

  ManualClock clock;
  std::vector<std::string> log;
  // Called when all is copied, before requests are kept out.
  std::function<void()> before_switch = [] {};
  Error no_next;  // errnum not 0: the new disk cannot be opened
  // Declared so that the volume goes first.
  std::unique_ptr<Replacer> main_replacer;
  std::unique_ptr<SpareReplacer> replacer;
  std::unique_ptr<Volume> volume;

 private:
  Backend* disk(const std::string& name) const;

  const SpareReplaceDisks disks_;
  const std::chrono::milliseconds bound_;
};

}  // namespace nbd_remap
