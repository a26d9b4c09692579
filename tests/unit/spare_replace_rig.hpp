#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A volume of 4 MiB, fifty of whose blocks live on SPARE, and a disk that may
// take SPARE's place.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "tests/fakes/spare_replace_fixture.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kMiB = 1 << 20;
inline constexpr std::uint64_t kBlock = 4096;
inline constexpr std::uint64_t kSpareBytes = kLeastBytesWithStateArea;

inline BackendInfo spare_disk(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.direct = true;
  return info;
}

inline std::string text_of(const Status& status) {
  return status ? "" : status.error().text();
}

inline bool has(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

struct SpareRig {
  explicit SpareRig(
      std::uint64_t next_bytes = kSpareBytes,
      std::chrono::milliseconds bound = std::chrono::milliseconds(20'000))
      : next_disk(spare_disk("next", next_bytes)),
        world({main, spare, next}, bound) {
    format_for(spare_disk_, main_disk, kBlock);
    EXPECT_TRUE(world.open("spare"));
    EXPECT_EQ(world.write(0, 4 * kMiB, 1), 0);
    EXPECT_TRUE(world.remap(10, 50));
    EXPECT_EQ(world.write(20 * kBlock, kBlock, 2), 0);
  }
  std::uint64_t place(std::uint64_t block) const {
    return world.volume->status()
        .store.superblock.layout.slot(world.entry(block).slot())
        .value;
  }

  MemoryBackend main_disk{spare_disk("main", 4 * kMiB)};
  MemoryBackend spare_disk_{spare_disk("spare", kSpareBytes)};
  MemoryBackend next_disk;
  FaultyBackend main{main_disk};
  FaultyBackend spare{spare_disk_};
  FaultyBackend next{next_disk};
  SpareReplaceWorld world;
};

inline bool same_as_written(SpareReplaceWorld& world) {
  const std::vector<std::byte> right = pattern(1, 4 * kMiB);
  std::vector<std::byte> now(kBlock);
  for (std::uint64_t b = 0; b < 4 * kMiB / kBlock; ++b) {
    if (b == 20) continue;
    if (!world.volume->read(VolumeOffset{b * kBlock}, now)) return false;
    if (!std::equal(now.begin(), now.end(),
                    right.begin() + static_cast<long>(b * kBlock)))
      return false;
  }
  return world.holds(20 * kBlock, kBlock, 2);
}

}  // namespace nbd_remap
