#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Allocations that fail. A program that links alloc_fault_new.cpp gets an
// operator new that counts what is allocated while it is armed, and throws
// std::bad_alloc at the chosen one; in others these do nothing.
//
// Counted are only allocations of the product: the fakes shield theirs.
// Threads  all of them count, while a thread is shielded its own do not.

#include <atomic>
#include <cstdint>

namespace nbd_remap {

class AllocFault {
 public:
  static constexpr std::uint64_t kNever = 0;

  // nth: from 1, counted while armed. sticky: and every one after it, until
  // the next pause(): a request meets it whole, the next one does not.
  static void set(std::uint64_t nth, bool sticky);
  static void arm();
  // Only what this thread allocates counts and fails.
  static void arm_this_thread();
  static void pause();
  static std::uint64_t counted() { return counted_; }
  static std::uint64_t fired() { return fired_; }

  // Whether this one fails.
  static bool strikes();

  // Of the fakes, and of the test.
  struct Shield {
    Shield() { ++shields_; }
    ~Shield() { --shields_; }
    Shield(const Shield&) = delete;
    Shield& operator=(const Shield&) = delete;
  };

 private:
  // operator new has no other way to know.
  static inline std::atomic<bool> armed_{false};
  static inline std::atomic<bool> sticky_{false};
  static inline std::atomic<bool> failing_{false};
  static inline std::atomic<std::uint64_t> nth_{kNever};
  static inline std::atomic<std::uint64_t> counted_{0};
  static inline std::atomic<std::uint64_t> fired_{0};
  static inline std::atomic<bool> one_thread_{false};
  static inline thread_local bool this_one_ = false;
  static inline thread_local unsigned shields_ = 0;
};

}  // namespace nbd_remap
