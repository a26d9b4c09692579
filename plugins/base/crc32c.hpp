#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// CRC-32C (Castagnoli), RFC 3720 appendix B.4: reflected, polynomial
// 0x1EDC6F41, start and final xor 0xFFFFFFFF. crc32c("123456789") = 0xE3069283.
// Computed by ISA-L, which uses the CPU's own instructions where there are any.

#include <cstdint>

#include "plugins/base/units.hpp"

namespace nbd_remap {

std::uint32_t crc32c(ConstBytes data);

}  // namespace nbd_remap
