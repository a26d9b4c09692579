#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the tests of the NBD backend have in common.

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "plugins/backend/nbd_backend.hpp"

namespace nbd_remap {

inline Result<std::unique_ptr<Backend>> try_open(
    const std::string& uri,
    std::chrono::milliseconds deadline = std::chrono::seconds(20)) {
  OpenOptions options;
  options.deadline = deadline;
  return open_nbd_backend(uri, options);
}

// Throws, which ends the test, when it cannot be opened.
inline std::unique_ptr<Backend> open_nbd(
    const std::string& uri,
    std::chrono::milliseconds deadline = std::chrono::seconds(20)) {
  auto disk = try_open(uri, deadline);
  if (!disk) throw std::runtime_error(disk.error().text());
  return *std::move(disk);
}

// Bytes that differ from place to place and from seed to seed.
inline std::vector<std::byte> pattern(std::size_t size, std::uint64_t seed) {
  std::vector<std::byte> out(size);
  std::uint64_t x = seed * 2654435761U + 1;
  for (std::byte& b : out) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    b = static_cast<std::byte>(x >> 56);
  }
  return out;
}

inline bool reads_as(Backend& disk, std::uint64_t offset, ConstBytes expected) {
  std::vector<std::byte> buffer(expected.size(), std::byte{0xEE});
  return disk.read({offset}, buffer).ok() &&
         std::equal(buffer.begin(), buffer.end(), expected.begin());
}

inline int count_entries(const std::string& directory) {
  const std::filesystem::directory_iterator all(directory);
  return static_cast<int>(std::distance(begin(all), end(all)));
}

}  // namespace nbd_remap
