// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/bounded_backend.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace nbd_remap {

class BoundedBackend::Call {
 public:
  explicit Call(std::function<Status(Call&)> w) : work(std::move(w)) {}
  std::function<Status(Call&)> work;
  AlignedBuffer data;
  Extent extent;
  std::uint64_t size = 0;
  std::chrono::steady_clock::time_point until;
  // By mu_ of the backend.
  Status status;
  bool done = false;
  bool given_up = false;
};

BoundedBackend::BoundedBackend(std::unique_ptr<Backend> disk,
                               std::chrono::milliseconds bound)
    : disk_(std::move(disk)), bound_(bound) {}

BoundedBackend::~BoundedBackend() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mu_);
    ending_ = true;
    work_.notify_all();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

bool BoundedBackend::hangs() const {
  MutexLock lock(mu_);
  return late_ != 0;
}

Error BoundedBackend::given_up() const {
  return make_error(ETIMEDOUT,
                    info().name + ": did not answer in time, and is given up");
}

BoundedBackend::CallPtr BoundedBackend::start(
    std::function<Status(Call&)> work) {
  auto call = std::make_shared<Call>(std::move(work));
  call->until = std::chrono::steady_clock::now() + bound_;
  MutexLock lock(mu_);
  if (lost_) {
    call->done = true;
    call->status = given_up();
    return call;
  }
  if (idle_ <= queue_.size() && threads_.size() < kThreads) {
    try {
      threads_.emplace_back([this] { run(); });
    } catch (const std::system_error& e) {
      // Those there are may do; with none nobody ever would.
      if (threads_.empty()) {
        call->done = true;
        call->status =
            make_error(ENOMEM, info().name + ": no thread: " + e.what());
        return call;
      }
    }
  }
  queue_.push_back(call);
  work_.notify_one();
  return call;
}

Status BoundedBackend::wait(const CallPtr& call) {
  MutexLock lock(mu_);
  while (!call->done)
    if (!done_.wait_until(mu_, call->until) && !call->done) {
      lost_ = true;
      call->given_up = true;
      ++late_;
      return make_error(ETIMEDOUT, info().name + ": no answer within " +
                                       std::to_string(bound_.count()) + " ms");
    }
  return call->status;
}

void BoundedBackend::run() {
  // Signals are for the host's own threads.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "bounded-disk");
  mu_.lock();
  for (;;) {
    ++idle_;
    while (queue_.empty() && !ending_) work_.wait(mu_);
    --idle_;
    if (queue_.empty()) break;
    const CallPtr call = std::move(queue_.front());
    queue_.pop_front();
    // One that nobody waits for any more must not begin.
    const bool begins = !call->given_up && !lost_;
    mu_.unlock();
    Status status;
    try {
      status = begins ? call->work(*call) : given_up();
    } catch (const std::bad_alloc&) {
      status = make_error(ENOMEM, "memory");  // too short to need some
    }
    mu_.lock();
    call->status = std::move(status);
    call->done = true;
    if (call->given_up) --late_;
    done_.notify_all();
  }
  mu_.unlock();
}

BoundedBackend::CallPtr BoundedBackend::start_write(DeviceOffset offset,
                                                    ConstBytes data,
                                                    Durability durability) {
  auto copy = std::make_shared<AlignedBuffer>(data.size());
  std::copy(data.begin(), data.end(), copy->data());
  return start([this, copy, offset, durability](Call&) {
    return disk_->write(offset, copy->bytes(), durability);
  });
}

BoundedBackend::CallPtr BoundedBackend::start_zero(DeviceOffset offset,
                                                   std::uint64_t length,
                                                   ZeroMode mode,
                                                   Durability durability) {
  return start([=, this](Call&) {
    return disk_->zero(offset, length, mode, durability);
  });
}

BoundedBackend::CallPtr BoundedBackend::start_trim(DeviceOffset offset,
                                                   std::uint64_t length) {
  return start([=, this](Call&) { return disk_->trim(offset, length); });
}

Status BoundedBackend::read(DeviceOffset offset, Bytes buffer) {
  const CallPtr call = start([this, offset, n = buffer.size()](Call& c) {
    c.data = AlignedBuffer(n);
    return disk_->read(offset, c.data.bytes());
  });
  Status status = wait(call);
  if (status) std::copy_n(call->data.data(), buffer.size(), buffer.data());
  return status;
}

Status BoundedBackend::write(DeviceOffset offset, ConstBytes data,
                             Durability durability) {
  return wait(start_write(offset, data, durability));
}

Status BoundedBackend::zero(DeviceOffset offset, std::uint64_t length,
                            ZeroMode mode, Durability durability) {
  return wait(start_zero(offset, length, mode, durability));
}

Status BoundedBackend::trim(DeviceOffset offset, std::uint64_t length) {
  return wait(start_trim(offset, length));
}

Result<Extent> BoundedBackend::extent(DeviceOffset offset,
                                      std::uint64_t length) {
  const CallPtr call = start([=, this](Call& c) -> Status {
    auto found = disk_->extent(offset, length);
    if (!found) return std::move(found).error();
    c.extent = *found;
    return {};
  });
  if (Status status = wait(call); !status) return std::move(status).error();
  return call->extent;
}

Status BoundedBackend::cache(DeviceOffset offset, std::uint64_t length) {
  return wait(start([=, this](Call&) { return disk_->cache(offset, length); }));
}

Status BoundedBackend::flush() {
  return wait(start([this](Call&) { return disk_->flush(); }));
}

Result<std::uint64_t> BoundedBackend::grow() {
  const CallPtr call = start([this](Call& c) -> Status {
    const auto size = disk_->grow();
    if (!size) return size.error();
    c.size = *size;
    return {};
  });
  if (Status status = wait(call); !status) return std::move(status).error();
  return call->size;
}

}  // namespace nbd_remap
