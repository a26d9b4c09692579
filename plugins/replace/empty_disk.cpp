// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/empty_disk.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kEndBytes = 1 << 20;

}  // namespace

Status check_disk_is_empty(Backend& disk) {
  const std::uint64_t size = disk.info().size_bytes;
  AlignedBuffer buffer(std::min(size, kEndBytes));
  for (const std::uint64_t at : {std::uint64_t{0}, size - buffer.size()}) {
    if (Status status = disk.read(DeviceOffset{at}, buffer.bytes()); !status)
      return status;
    const auto found =
        std::find_if(buffer.bytes().begin(), buffer.bytes().end(),
                     [](std::byte b) { return b != std::byte{}; });
    if (found != buffer.bytes().end())
      return make_error(
          ErrorClass::caller, EEXIST,
          fmt::format(
              "{}: is not empty, there is something at byte {}; to "
              "overwrite all of it, use --force",
              disk.info().name,
              at + static_cast<std::uint64_t>(found - buffer.bytes().begin())));
  }
  return {};
}

}  // namespace nbd_remap
