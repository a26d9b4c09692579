#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// BoundedBackend: a disk that nobody waits for longer than a bound, whatever
// the kernel does with it. For a disk that others can go on without.
//
// Shape       Each call runs on a thread of a small pool, with a copy of its
//             data. A call that has not ended within the bound is answered
//             ETIMEDOUT (class transport), and so is every later one, at once:
//             what the late call still does nobody may build upon.
// Threads     as of Backend; its own: up to kThreads, started when needed.
// Waits       every call at most the bound. The destructor as long as the
//             slowest call takes: as a disk that hangs may never end, its
//             owner keeps it until it may wait, see hangs().

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/mutex.hpp"

namespace nbd_remap {

class BoundedBackend final : public Backend {
 public:
  static constexpr std::size_t kThreads = 16;

  BoundedBackend(std::unique_ptr<Backend> disk,
                 std::chrono::milliseconds bound);
  ~BoundedBackend() override;

  // A call under way; wait() is its answer.
  class Call;
  using CallPtr = std::shared_ptr<Call>;
  CallPtr start_write(DeviceOffset offset, ConstBytes data,
                      Durability durability);
  CallPtr start_zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
                     Durability durability);
  CallPtr start_trim(DeviceOffset offset, std::uint64_t length);
  Status wait(const CallPtr& call);
  // A call is still under way that was answered already.
  bool hangs() const;
  // The disk, for an owner who will wait for it. Nothing but the destructor
  // may be called afterwards. REQUIRES: no call is under way.
  std::unique_ptr<Backend> release() { return std::move(disk_); }

  const BackendInfo& info() const override { return disk_->info(); }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;
  Result<std::uint64_t> grow() override;

 private:
  CallPtr start(std::function<Status(Call&)> work);
  void run();
  Error given_up() const;

  std::unique_ptr<Backend> disk_;
  const std::chrono::milliseconds bound_;
  mutable Mutex mu_;
  CondVar work_;
  CondVar done_;
  std::deque<CallPtr> queue_ GUARDED_BY(mu_);
  std::vector<std::thread> threads_ GUARDED_BY(mu_);
  std::size_t idle_ GUARDED_BY(mu_) = 0;
  std::size_t late_ GUARDED_BY(mu_) = 0;
  bool lost_ GUARDED_BY(mu_) = false;
  bool ending_ GUARDED_BY(mu_) = false;
};

}  // namespace nbd_remap
