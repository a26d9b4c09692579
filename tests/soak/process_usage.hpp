#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What a process holds, out of /proc, and whether that grows.
//
// Descriptors and threads are compared exactly: with no client connected a
// server holds as many as it did before the first one came. Memory is not
// exact (the allocator keeps what it may need), so it gets kSlackKib, however
// long the run: in an hour that is some bytes for each request.

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nbd_remap {

struct Usage {
  std::uint64_t rss_kib = 0;
  std::uint64_t descriptors = 0;
  std::uint64_t threads = 0;
};

// Throws if there is no such process.
Usage usage_of(pid_t pid);
// As soon as it has no more descriptors and threads than `idle` (what served a
// client goes after the client), or what it has when the bound is over.
Usage usage_when_idle(pid_t pid, const Usage& idle);
std::string text_of(const Usage& usage);

inline constexpr std::uint64_t kSlackKib = 4096;
// KiB by which the median of the last third of the samples is above that of
// the middle third; the first third is warming up. 0 of less than 6 samples.
std::uint64_t growth_kib(const std::vector<Usage>& samples);

}  // namespace nbd_remap
