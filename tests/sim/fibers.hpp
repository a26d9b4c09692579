#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Fibers: concurrent requests, one step at a time, in an order that a seed
// decides. All of them run on the calling thread; one goes on until it calls
// a disk (SimDisk yields before and after each call) or waits, and then the
// seed chooses the next. So the same seed is the same run, byte by byte.
//
// Why fibers  The product blocks in one place only, CondVar; its mutexes are
//             never held across a call of a disk. On one thread a mutex then is
//             never contended, so only the waits need to hand over. This file's
//             pthread_cond_* take the place of libc's for the whole test
//             program, hence the product needs no seam for it, and is the same
//             code that is shipped.
// Threads     that the product starts are fibers too, which may outlive a
//             run(): they go on in the next, and while the caller of run()
//             itself waits or joins.
// Checks      A call of a disk while a fiber holds a mutex, and a wait that
//             nobody can end, are faults(): both would hang somewhere else.
// Waits       notified in the order that the seed says, and sometimes for no
//             reason. Time stands still, for std::chrono::steady_clock too: a
//             timed wait is over only when nothing else can run, which is a
//             fault as well.
// Chance      std::random_device answers from a counter (seed_random_device).

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace nbd_remap {

class Fibers {
 public:
  static constexpr unsigned kMost = 8;
  static constexpr unsigned kThreads = 32;  // that the product has at once

  // stay_percent: how often the one that runs goes on.
  Fibers(std::uint64_t seed, unsigned stay_percent);
  ~Fibers();
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  // Returns when all have ended. REQUIRES: at most kMost, not in a fiber.
  void run(const std::vector<std::function<void()>>& bodies);

  // What went wrong that should be impossible; empty: nothing.
  const std::string& faults() const { return faults_; }
  std::uint64_t switches() const { return switches_; }
  std::uint64_t waits() const { return waits_; }

  // Lets another fiber run. Outside of fibers it does nothing.
  static void yield();
  // The fiber that runs, from 1; 0: none.
  static unsigned current();
  // The one that runs may hold so many mutexes across calls of disks, as
  // nobody else will want them.
  static void may_hold(int mutexes);

  // For the functions that stand in for libc's.
  int wait(const void* condition, const std::function<void()>& unlock,
           const std::function<void()>& lock, bool timed);
  void notify(const void* condition, bool all);
  void mutex_taken() { ++fiber().mutexes; }
  void mutex_given() { --fiber().mutexes; }
  unsigned start_thread(std::function<void()> body);
  void join_thread(unsigned thread);
  static Fibers* existing();

 private:
  enum class State { ready, waiting, ended };
  // Below it lies a page that nobody can touch.
  class Stack;
  struct Fiber {
    ucontext_t context{};
    std::function<void()> body;
    State state = State::ended;
    const void* condition = nullptr;
    bool timed = false;
    bool timed_out = false;
    bool taken = false;  // a thread that nobody has joined
    int mutexes = 0;
    int may_hold = 0;
    std::unique_ptr<Stack> stack;
    void* shadow = nullptr;  // the sanitizer's
  };

  static void entry();
  Fiber& fiber();
  void make(Fiber& fiber, std::function<void()> body);
  unsigned nobody_can_run();
  void hand_over();
  void switch_to(unsigned to);
  void arrived(unsigned self);
  void fault(const std::string& words);

  const std::uint64_t seed_;
  std::mt19937_64 random_;
  const unsigned stay_percent_;
  std::vector<Fiber> fibers_;  // 0 is the caller of run()
  unsigned current_ = 0;
  unsigned from_ = 0;
  std::size_t left_ = 0;  // of run()'s
  Fibers* const before_;
  std::string faults_;
  std::uint64_t switches_ = 0;
  std::uint64_t waits_ = 0;
};

// What std::random_device answers in this program from now on.
void seed_random_device(std::uint64_t seed);

}  // namespace nbd_remap
