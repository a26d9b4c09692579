#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// MapWorker: runs the steps of map actions, and what else waits for disks
// (growing, quiescing), on a thread of its own, one at a time, so that a disk
// that hangs holds up neither the control socket nor its questions. A step is
// short (kSlice) unless a disk is slow.
//
// Threads  start and wait: any. Its own: one, named "map".
// Waits    wait() as long as it is told; the destructor for the step that is
//          running: once the volume has drained there is none.

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "plugins/base/mutex.hpp"
#include "plugins/volume/volume.hpp"

namespace nbd_remap {

class MapWorker {
 public:
  static constexpr std::chrono::milliseconds kSlice{250};
  // For requests under way to end before a quiesce.
  static constexpr std::chrono::seconds kDrain{10};

  struct Job {
    std::uint64_t id = 0;
    std::string name;  // of the action
    VolumeOffset offset;
    std::uint64_t length = 0;
    std::chrono::steady_clock::time_point began;
    bool done = false;
    MapStep step;                // once done
    std::uint64_t grown_to = 0;  // the same, of growing: bytes
  };

  enum class Grow { main, spare };

  explicit MapWorker(Volume& volume);  // throws std::system_error
  ~MapWorker();
  MapWorker(const MapWorker&) = delete;
  MapWorker& operator=(const MapWorker&) = delete;

  // Its number; empty while another one is running.
  std::optional<std::uint64_t> start(MapAction action, VolumeOffset offset,
                                     std::uint64_t length);
  std::optional<std::uint64_t> start(Grow disk);
  std::optional<std::uint64_t> quiesce(std::chrono::seconds longest);
  // Anything else that waits for disks.
  std::optional<std::uint64_t> start(const std::string& name,
                                     std::function<Status()> work);
  // As it is when done, or after the bound. Empty: only the last job is known.
  std::optional<Job> wait(std::uint64_t id, std::chrono::milliseconds bound);

 private:
  using Work = std::function<void(Job&)>;
  std::optional<std::uint64_t> start(Job job, Work work);
  void run();

  Volume& volume_;
  Mutex mu_;
  CondVar changed_;
  Job job_ GUARDED_BY(mu_);  // id 0: none yet
  Work work_ GUARDED_BY(mu_);
  bool ending_ GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace nbd_remap
