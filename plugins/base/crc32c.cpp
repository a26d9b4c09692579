// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/crc32c.hpp"

#include <isa-l/crc.h>

#include <algorithm>

namespace nbd_remap {
namespace {
constexpr std::size_t kStepBytes = std::size_t{1} << 30;  // it takes an int
}  // namespace

std::uint32_t crc32c(ConstBytes data) {
  std::uint32_t crc = 0xFFFFFFFF;
  while (!data.empty()) {
    const std::size_t n = std::min(data.size(), kStepBytes);
    // It reads only, whatever its signature says.
    auto* bytes =
        reinterpret_cast<unsigned char*>(const_cast<std::byte*>(data.data()));
    crc = crc32_iscsi(bytes, static_cast<int>(n), crc);
    data = data.subspan(n);
  }
  return crc ^ 0xFFFFFFFF;
}

}  // namespace nbd_remap
