// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/memory_backend.hpp"

#include <algorithm>
#include <atomic>

#include "plugins/backend/range_check.hpp"

namespace nbd_remap {

BackendInfo fake_disk_info(const std::string& name, std::uint64_t size_bytes,
                           std::uint32_t logical_block_bytes,
                           std::uint32_t physical_block_bytes) {
  static std::atomic<int> count = 0;
  BackendInfo info;
  info.name = name + " " + std::to_string(++count);
  info.size_bytes = size_bytes;
  info.logical_block_bytes = logical_block_bytes;
  info.physical_block_bytes = physical_block_bytes;
  info.direct = true;
  info.fast_zero = true;
  info.identity = info.name;
  return info;
}

MemoryBackend::MemoryBackend(std::uint64_t size_bytes,
                             std::uint32_t logical_block_bytes,
                             std::uint32_t physical_block_bytes)
    : info_(fake_disk_info("memory", size_bytes, logical_block_bytes,
                           physical_block_bytes)),
      size_(size_bytes) {}

Status MemoryBackend::read(DeviceOffset offset, Bytes buffer) {
  MutexLock lock(mu_);
  ++calls_.read;
  if (Status s = check_range(info_, "read", offset, buffer.size(), size_); !s)
    return s;
  image_.read(offset.value, buffer);
  return {};
}

Status MemoryBackend::write(DeviceOffset offset, ConstBytes data, Durability) {
  MutexLock lock(mu_);
  ++calls_.write;
  if (Status s = check_change(info_, "write", offset, data.size(), size_); !s)
    return s;
  image_.write(offset.value, data);
  return {};
}

Status MemoryBackend::zero(DeviceOffset offset, std::uint64_t length,
                           ZeroMode mode, Durability) {
  MutexLock lock(mu_);
  ++calls_.zero;
  if (Status s = check_change(info_, "zero", offset, length, size_); !s)
    return s;
  if (mode == ZeroMode::fast_only && !info_.fast_zero)
    return make_error(ENOTSUP, io_place(info_, "zero", offset, length));
  image_.zero(offset.value, length, mode != ZeroMode::keep_allocated);
  return {};
}

Status MemoryBackend::trim(DeviceOffset offset, std::uint64_t length) {
  MutexLock lock(mu_);
  ++calls_.trim;
  if (Status s = check_change(info_, "trim", offset, length, size_); !s)
    return s;
  image_.zero(offset.value, length, true);
  return {};
}

Result<Extent> MemoryBackend::extent(DeviceOffset offset,
                                     std::uint64_t length) {
  MutexLock lock(mu_);
  ++calls_.extents;
  if (Status s = check_range(info_, "extents", offset, length, size_); !s)
    return s.error();
  return image_.extent(offset.value, length);
}

Status MemoryBackend::cache(DeviceOffset offset, std::uint64_t length) {
  MutexLock lock(mu_);
  ++calls_.cache;
  return check_range(info_, "cache", offset, length, size_);
}

Status MemoryBackend::flush() {
  MutexLock lock(mu_);
  ++calls_.flush;
  return {};
}

Result<std::uint64_t> MemoryBackend::grow() {
  size_ = std::max<std::uint64_t>(size_, enlarged_);
  return size_.load();
}

MemoryBackend::Calls MemoryBackend::calls() const {
  MutexLock lock(mu_);
  return calls_;
}

}  // namespace nbd_remap
