#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Makes a system call fail in this process, for good: only for a child that
// a test forks (run_in_child). The kernel's seccomp filter does it, so that
// the code under test runs as it is.

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace nbd_remap {

struct SyscallFault {
  long number = 0;
  int errnum = 0;
  // Only calls whose argument (0 to 5) has this value in its low 32 bits; -1:
  // all calls.
  int argument = -1;
  std::uint32_t value = 0;
};

// False where the kernel does not allow it.
inline bool fail_syscall(const SyscallFault& fault) {
  const auto load = [](std::size_t offset) {
    return sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                static_cast<std::uint32_t>(offset));
  };
  const auto unless_skip = [](std::uint32_t value, std::uint8_t skip) {
    return sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip);
  };
  std::vector<sock_filter> program;
  const bool by_argument = fault.argument >= 0;
  program.push_back(load(offsetof(seccomp_data, nr)));
  program.push_back(unless_skip(static_cast<std::uint32_t>(fault.number),
                                by_argument ? 3 : 1));
  if (by_argument) {
    // Little-endian: the low half of the argument comes first.
    program.push_back(load(offsetof(seccomp_data, args) +
                           8U * static_cast<unsigned>(fault.argument)));
    program.push_back(unless_skip(fault.value, 1));
  }
  program.push_back(
      BPF_STMT(BPF_RET | BPF_K,
               SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(fault.errnum)));
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()),
                          program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0;
}

// Runs body in a forked child and fails the test if an EXPECT in it failed.
// The body says "done" by returning; a child that dies is a failure.
template <class Body>
void run_in_child(Body body) {
  EXPECT_EXIT(
      {
        body();
        static_cast<void>(std::fflush(stdout));
        std::_Exit(::testing::Test::HasFailure() ? 1 : 0);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace nbd_remap
