// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/clipped_backend.hpp"

#include <utility>

#include "plugins/backend/range_check.hpp"

namespace nbd_remap {

ClippedBackend::ClippedBackend(std::unique_ptr<Backend> disk,
                               std::uint64_t size_bytes)
    : disk_(std::move(disk)), info_(disk_->info()), size_(size_bytes) {
  info_.size_bytes = size_bytes;
}

Status ClippedBackend::check(const char* what, DeviceOffset offset,
                             std::uint64_t length) const {
  return check_range(info_, what, offset, length, size_);
}

Status ClippedBackend::read(DeviceOffset offset, Bytes buffer) {
  Status status = check("read", offset, buffer.size());
  return status ? disk_->read(offset, buffer) : status;
}

Status ClippedBackend::write(DeviceOffset offset, ConstBytes data,
                             Durability durability) {
  Status status = check("write", offset, data.size());
  return status ? disk_->write(offset, data, durability) : status;
}

Status ClippedBackend::zero(DeviceOffset offset, std::uint64_t length,
                            ZeroMode mode, Durability durability) {
  Status status = check("zero", offset, length);
  return status ? disk_->zero(offset, length, mode, durability) : status;
}

Status ClippedBackend::trim(DeviceOffset offset, std::uint64_t length) {
  Status status = check("trim", offset, length);
  return status ? disk_->trim(offset, length) : status;
}

Result<Extent> ClippedBackend::extent(DeviceOffset offset,
                                      std::uint64_t length) {
  if (Status status = check("extents", offset, length); !status)
    return std::move(status).error();
  return disk_->extent(offset, length);
}

Status ClippedBackend::cache(DeviceOffset offset, std::uint64_t length) {
  Status status = check("cache", offset, length);
  return status ? disk_->cache(offset, length) : status;
}

Result<std::uint64_t> ClippedBackend::grow() {
  auto size = disk_->grow();
  if (size) size_ = *size;
  return size;
}

std::unique_ptr<Backend> clip(std::unique_ptr<Backend> disk,
                              std::uint64_t size_bytes) {
  if (disk->info().size_bytes == size_bytes) return disk;
  return std::make_unique<ClippedBackend>(std::move(disk), size_bytes);
}

}  // namespace nbd_remap
