#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ClippedBackend: the first bytes of a larger disk, as a disk. What lies beyond
// is used after grow().
//
// Threads  as of Backend.

#include <atomic>
#include <memory>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

class ClippedBackend final : public Backend {
 public:
  // REQUIRES: size_bytes is a multiple of the disk's logical block, and not
  // more than it has.
  ClippedBackend(std::unique_ptr<Backend> disk, std::uint64_t size_bytes);

  const BackendInfo& info() const override { return info_; }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override { return disk_->flush(); }
  Result<std::uint64_t> grow() override;

 private:
  Status check(const char* what, DeviceOffset offset,
               std::uint64_t length) const;

  const std::unique_ptr<Backend> disk_;
  BackendInfo info_;
  std::atomic<std::uint64_t> size_;
};

// The disk itself if it has this size.
std::unique_ptr<Backend> clip(std::unique_ptr<Backend> disk,
                              std::uint64_t size_bytes);

}  // namespace nbd_remap
