#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// HealthKeeper: the memory of one volume's health while it is served: takes a
// point of it every hour, hears what its drive said and what its owner has
// acknowledged, and keeps all that where the next server finds it.
//
// Threads  report(), memory(), note_smart(), acknowledge(): any, at once; they
//          wait for no disk. Its own: one, named "health", which alone reads
//          and writes the store. Without it (as in tests) tick() is called.
// Waits    wait_saved() as long as it is told. stop() for a write under way:
//          as long as SPARE takes.

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "plugins/base/clock.hpp"
#include "plugins/base/log.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/base/units.hpp"
#include "plugins/health/health_report.hpp"

namespace nbd_remap {

// Where a memory is kept. Both empty: nowhere, it ends with the server.
struct HealthStore {
  std::size_t max_bytes = 0;
  std::function<Result<std::vector<std::byte>>()> read;
  std::function<Status(ConstBytes)> write;
};

class HealthKeeper {
 public:
  // A look at the volume; a point is taken of every hour only.
  static constexpr std::chrono::seconds kEvery{60};

  // Reads the store. status: must not wait for a disk, and not call back.
  HealthKeeper(std::function<VolumeStatus()> status, HealthStore store,
               const Clock& clock, LogSink log);
  ~HealthKeeper();
  HealthKeeper(const HealthKeeper&) = delete;
  HealthKeeper& operator=(const HealthKeeper&) = delete;

  void start();  // its thread; throws std::system_error
  // Saves what is not yet, and joins. May be called again.
  void stop();

  HealthReport report() const;
  HealthMemory memory() const;
  void note_smart(SmartCounts counts);
  // Refused (caller, EBUSY) while the volume fails requests.
  Status acknowledge();

  enum class Saved { yes, not_yet, nowhere, failed };
  // Of all that was noted before.
  Saved wait_saved(std::chrono::milliseconds bound);

  // What the thread does every minute.
  void tick();

 private:
  void run();
  void save();
  HealthMemory now_locked(const VolumeStatus& status) const REQUIRES(mu_);

  const std::function<VolumeStatus()> status_;
  const HealthStore store_;
  const Clock& clock_;
  const LogSink log_;
  mutable Mutex mu_;
  CondVar changed_;
  HealthMemory memory_ GUARDED_BY(mu_);
  const std::uint64_t errors_before_;  // of earlier servers
  std::uint64_t noted_ GUARDED_BY(mu_) = 0;
  std::uint64_t saved_ GUARDED_BY(mu_) = 0;
  bool failed_ GUARDED_BY(mu_) = false;  // the last write
  bool ending_ GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace nbd_remap
