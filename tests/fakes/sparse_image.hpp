#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SparseImage: the bytes of a fake disk. What was never written reads as
// zeroes and costs nothing.
//
// Bounds   the caller's.
// Threads  one at a time.

#include <array>
#include <cstdint>
#include <map>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

class SparseImage {
 public:
  void read(std::uint64_t offset, Bytes buffer) const;
  void write(std::uint64_t offset, ConstBytes data);
  // punch: whole pages in the range become holes.
  void zero(std::uint64_t offset, std::uint64_t length, bool punch);
  Extent extent(std::uint64_t offset, std::uint64_t length) const;

 private:
  static constexpr std::uint64_t kPage = 4096;
  std::map<std::uint64_t, std::array<std::byte, kPage>> pages_;
};

}  // namespace nbd_remap
