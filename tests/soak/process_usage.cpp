// SPDX-License-Identifier: BSD-3-Clause
#include "tests/soak/process_usage.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {

Usage usage_of(pid_t pid) {
  const std::string process = fmt::format("/proc/{}", pid);
  Usage usage;
  std::ifstream status(process + "/status");
  std::string word;
  while (status >> word) {
    if (word == "VmRSS:") status >> usage.rss_kib;
    if (word == "Threads:") status >> usage.threads;
  }
  if (usage.rss_kib == 0 || usage.threads == 0)
    throw std::runtime_error(process + ": no such process");
  usage.descriptors = count_entries(process + "/fd");
  return usage;
}

Usage usage_when_idle(pid_t pid, const Usage& idle) {
  Usage now;
  eventually(
      [&] {
        now = usage_of(pid);
        return now.descriptors <= idle.descriptors &&
               now.threads <= idle.threads;
      },
      30s);
  return now;
}

std::string text_of(const Usage& usage) {
  return fmt::format("{} KiB, {} descriptors, {} threads", usage.rss_kib,
                     usage.descriptors, usage.threads);
}

std::uint64_t growth_kib(const std::vector<Usage>& samples) {
  const std::size_t third = samples.size() / 3;
  if (third < 2) return 0;
  const auto median = [&](std::size_t from) {
    std::vector<std::uint64_t> part;
    for (std::size_t i = from; i < from + third; ++i)
      part.push_back(samples[i].rss_kib);
    std::sort(part.begin(), part.end());
    return part[part.size() / 2];
  };
  const std::uint64_t middle = median(third);
  const std::uint64_t last = median(samples.size() - third);
  return last > middle ? last - middle : 0;
}

}  // namespace nbd_remap
