#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What every Backend refuses before it touches its disk, and how it names a
// failed operation.

#include <string>
#include <string_view>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

// "/dev/sdb: read 4096 bytes at 8192".
std::string io_place(const BackendInfo& info, std::string_view operation,
                     DeviceOffset offset, std::uint64_t length);

// A range that ends beyond the disk (or wraps past 2^64) is class bug, EINVAL.
// size_bytes: of a disk that has grown since it was opened.
Status check_range(const BackendInfo& info, std::string_view operation,
                   DeviceOffset offset, std::uint64_t length,
                   std::uint64_t size_bytes);
Status check_range(const BackendInfo& info, std::string_view operation,
                   DeviceOffset offset, std::uint64_t length);

// As check_range; and EROFS for a read-only disk, and class bug, EINVAL for a
// range that is not whole logical blocks.
Status check_change(const BackendInfo& info, std::string_view operation,
                    DeviceOffset offset, std::uint64_t length,
                    std::uint64_t size_bytes);
Status check_change(const BackendInfo& info, std::string_view operation,
                    DeviceOffset offset, std::uint64_t length);

}  // namespace nbd_remap
