#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Mutex, MutexLock and CondVar with clang's thread-safety annotations, which
// libstdc++'s own types lack. With clang, -Wthread-safety -Werror checks them.
// Attributes: https://clang.llvm.org/docs/ThreadSafetyAnalysis.html

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define NBD_REMAP_ATTRIBUTE(x) __attribute__((x))
#else
#define NBD_REMAP_ATTRIBUTE(x)
#endif

#define CAPABILITY(x) NBD_REMAP_ATTRIBUTE(capability(x))
#define SCOPED_CAPABILITY NBD_REMAP_ATTRIBUTE(scoped_lockable)
#define GUARDED_BY(x) NBD_REMAP_ATTRIBUTE(guarded_by(x))
#define ACQUIRED_AFTER(...) NBD_REMAP_ATTRIBUTE(acquired_after(__VA_ARGS__))
#define REQUIRES(...) NBD_REMAP_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) NBD_REMAP_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) NBD_REMAP_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) NBD_REMAP_ATTRIBUTE(release_capability(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS NBD_REMAP_ATTRIBUTE(no_thread_safety_analysis)

namespace nbd_remap {

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { mu_.lock(); }
  void unlock() RELEASE() { mu_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mu_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mu) ACQUIRE(mu) : mu_(mu) { mu_.lock(); }
  ~MutexLock() RELEASE() { mu_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

// Waits may wake for no reason: call in a loop over the condition.
class CondVar {
 public:
  void wait(Mutex& mu) REQUIRES(mu) NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // False when the deadline has passed.
  bool wait_until(Mutex& mu, std::chrono::steady_clock::time_point deadline)
      REQUIRES(mu) NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    const bool in_time =
        cv_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    lock.release();
    return in_time;
  }
  void notify_one() { cv_.notify_one(); }
  void notify_all() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace nbd_remap
