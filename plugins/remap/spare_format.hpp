#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Makes a SPARE: an empty map, bound to one MAIN. For the tool, and for tests.

#include <cstdint>
#include <optional>
#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

struct FormatRequest {
  std::optional<std::uint32_t> block_bytes;  // else what the disks ask for
  std::optional<Uuid> replace;  // the SPARE that may be overwritten
  std::optional<Uuid> uuid;     // of the new one; else random
  std::uint64_t now_unix_seconds = 0;
};

// 4 KiB, or the larger physical block of the two if that is more. Error: more
// than kMaxBlockBytes.
Result<std::uint32_t> natural_block_bytes(const Backend& main,
                                          const Backend& spare);

// Refuses, with nothing written: SPARE equal to MAIN, an empty MAIN, too small
// (and says what would fit), without flush, a valid superblock whose UUID is
// not in replace, superblocks that cannot be read, a block size that is no
// power of two from 4096 to 32768 or smaller than a physical block. Old
// superblocks are erased first, new ones written last: cut in between, SPARE is
// as it was or holds no map, never half of one.
Result<Superblock> format_spare(Backend& spare, const Backend& main,
                                const FormatRequest& request);

}  // namespace nbd_remap
