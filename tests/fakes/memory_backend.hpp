#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// MemoryBackend: a perfect disk in memory that counts its calls.
//
// Threads  any, at once; one operation at a time inside.

#include <atomic>

#include "plugins/backend/backend.hpp"
#include "plugins/base/mutex.hpp"
#include "tests/fakes/sparse_image.hpp"

namespace nbd_remap {

class MemoryBackend final : public Backend {
 public:
  struct Calls {
    std::uint64_t read = 0, write = 0, zero = 0, trim = 0, extents = 0,
                  cache = 0, flush = 0;
  };

  // Each one gets an identity of its own.
  explicit MemoryBackend(std::uint64_t size_bytes,
                         std::uint32_t logical_block_bytes = 512,
                         std::uint32_t physical_block_bytes = 4096);
  // For tests that need a disk with other properties.
  explicit MemoryBackend(BackendInfo info)
      : info_(std::move(info)), size_(info_.size_bytes) {}
  // What grow() will find.
  void enlarge(std::uint64_t size_bytes) { enlarged_ = size_bytes; }

  const BackendInfo& info() const override { return info_; }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;
  Result<std::uint64_t> grow() override;

  Calls calls() const;

 private:
  const BackendInfo info_;
  std::atomic<std::uint64_t> size_;
  std::atomic<std::uint64_t> enlarged_{0};
  mutable Mutex mu_;
  SparseImage image_ GUARDED_BY(mu_);
  Calls calls_ GUARDED_BY(mu_);
};

// What the fakes say of themselves: name and identity are "NAME N".
BackendInfo fake_disk_info(const std::string& name, std::uint64_t size_bytes,
                           std::uint32_t logical_block_bytes,
                           std::uint32_t physical_block_bytes);

}  // namespace nbd_remap
