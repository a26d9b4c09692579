#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The images that are kept, and the disks that they are of.

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap::golden {

inline constexpr char kUuid[] = "6e62642d-7265-4d61-b001-676f6c64656e";
inline constexpr std::uint64_t kMainBytes = 1 << 30;
inline constexpr std::uint64_t kLastBlock = kMainBytes / 4096 - 1;
inline constexpr std::uint64_t kGrownSpareBytes = 3 * kSmallSpareBytes;

inline BackendInfo disk(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.name = name;
  info.identity = std::string("golden ") + name;
  return info;
}
inline BackendInfo main_disk() { return disk("main", kMainBytes); }
inline BackendInfo spare_disk(std::uint64_t bytes = kSmallSpareBytes) {
  return disk("spare", bytes);
}

// The map that is in v1-small.
inline MapState small_map() {
  MapState map;
  map.entries = {remapped(0, {1}),        pending(5, 0x7f),
                 remapped(7, {2}, 0x01),  pending(100, 0),
                 remapped(101, {4}, 0x0), remapped(5000, {5}, 0xf0)};
  for (std::uint64_t i = 0; i < 70; ++i)
    map.entries.push_back(remapped(10000 + i * 3, {10 + i}));
  map.entries.push_back(remapped(kLastBlock, {0}));
  map.retired = {{3}, {6}};
  return map;
}

// Empty, and a failure, if it cannot be read.
inline std::vector<std::byte> unpacked(const std::string& name) {
  std::vector<std::byte> all;
  const std::string path = GOLDEN_DIR "/" + name + ".img.xz";
  std::FILE* xz = ::popen(("xz -dc '" + path + "'").c_str(), "r");
  EXPECT_NE(xz, nullptr);
  if (!xz) return all;
  std::vector<std::byte> some(1 << 16);
  while (const std::size_t n = std::fread(some.data(), 1, some.size(), xz))
    all.insert(all.end(), some.begin(), some.begin() + static_cast<long>(n));
  EXPECT_EQ(::pclose(xz), 0);
  return all;
}

// The disk that holds it.
inline std::unique_ptr<MemoryBackend> disk_of(ConstBytes image) {
  auto spare = std::make_unique<MemoryBackend>(spare_disk(image.size()));
  EXPECT_TRUE(spare->write({0}, image, Durability::cached));
  return spare;
}

}  // namespace nbd_remap::golden
