// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/range_check.hpp"

#include <fmt/format.h>

#include <cerrno>

namespace nbd_remap {

std::string io_place(const BackendInfo& info, std::string_view operation,
                     DeviceOffset offset, std::uint64_t length) {
  return fmt::format("{}: {} {} bytes at {}", info.name, operation, length,
                     offset.value);
}

Status check_range(const BackendInfo& info, std::string_view operation,
                   DeviceOffset offset, std::uint64_t length) {
  return check_range(info, operation, offset, length, info.size_bytes);
}

Status check_range(const BackendInfo& info, std::string_view operation,
                   DeviceOffset offset, std::uint64_t length,
                   std::uint64_t size_bytes) {
  const auto end = checked_add(offset.value, length);
  if (end && *end <= size_bytes) return {};
  return make_error(
      ErrorClass::bug, EINVAL,
      fmt::format("{}: beyond the end ({})",
                  io_place(info, operation, offset, length), size_bytes));
}

Status check_change(const BackendInfo& info, std::string_view operation,
                    DeviceOffset offset, std::uint64_t length) {
  return check_change(info, operation, offset, length, info.size_bytes);
}

Status check_change(const BackendInfo& info, std::string_view operation,
                    DeviceOffset offset, std::uint64_t length,
                    std::uint64_t size_bytes) {
  if (Status in_range =
          check_range(info, operation, offset, length, size_bytes);
      !in_range)
    return in_range;
  if (info.read_only)
    return make_error(EROFS, io_place(info, operation, offset, length));
  if (length == 0 || (offset.value | length) % info.logical_block_bytes == 0)
    return {};
  return make_error(ErrorClass::bug, EINVAL,
                    fmt::format("{}: not whole blocks of {}",
                                io_place(info, operation, offset, length),
                                info.logical_block_bytes));
}

}  // namespace nbd_remap
