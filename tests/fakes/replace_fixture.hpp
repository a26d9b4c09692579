#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A Volume over fakes whose MAIN is to be replaced, step by step. The disks
// outlive the volume; a restart opens it with the disk that SPARE is bound to.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugins/replace/replacer.hpp"
#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {

// Time that stands still until a test moves it.
class ManualClock final : public Clock {
 public:
  std::chrono::steady_clock::time_point now() const override { return now_; }
  std::uint64_t unix_seconds() const override { return 1'000'000; }
  void move(std::chrono::milliseconds time) { now_ += time; }

 private:
  std::chrono::steady_clock::time_point now_{std::chrono::hours(1)};
};

struct ReplaceRigOptions {
  std::uint64_t main_bytes = 4 << 20;
  std::uint64_t next_bytes = 4 << 20;
  std::uint32_t next_logical = 512;
  std::uint64_t spare_slots = 300;
  std::chrono::milliseconds bound{20'000};
};

class ReplaceRig {
 public:
  explicit ReplaceRig(const ReplaceRigOptions& options = {});
  ~ReplaceRig();

  // main: the disk to start with; refused by SPARE's binding if it is another.
  Status open(Backend& disk);
  void stop();
  // As kill -9 does: nothing is closed.
  void kill();

  int write(std::uint64_t offset, std::uint64_t length, std::uint64_t tag,
            Durability durability = Durability::cached);
  bool holds(std::uint64_t offset, std::uint64_t length, std::uint64_t tag);
  int read(std::uint64_t offset, std::uint64_t length);
  RemapEntry entry(std::uint64_t block) const;

  Status start(bool force = false) { return replacer->start("next", force); }
  // Steps until the phase is this, or what it waits for is not empty. False:
  // it did not come to that.
  bool run_to(ReplacePhase phase, std::uint64_t steps = 10'000);
  ReplacePhase phase() const { return replacer->status().phase; }
  // MAIN is written to from end to end, and all of it copied; nothing is
  // switched yet.
  bool copy_all(std::uint64_t tag);
  // All that the volume and the replacer hold is written, noted as in sync.
  void settle();

  const ReplaceRigOptions options;
  ManualClock clock;
  MemoryBackend main_disk;
  MemoryBackend next_disk;
  MemoryBackend spare_disk;
  FaultyBackend main{main_disk};
  FaultyBackend next{next_disk};
  FaultyBackend spare{spare_disk};
  Error no_next;  // errnum not 0: the new disk cannot be opened
  std::vector<std::byte> notes;
  std::uint64_t notes_written = 0;
  std::function<Status()> before_note;  // may refuse
  std::vector<std::string> log;
  std::unique_ptr<Replacer> replacer;
  std::unique_ptr<Volume> volume;
};

}  // namespace nbd_remap
