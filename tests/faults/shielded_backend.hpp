#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A disk that somebody else owns, whose own allocations do not count: only the
// product's are to fail.

#include "tests/fakes/volume_fixture.hpp"
#include "tests/faults/alloc_fault.hpp"

namespace nbd_remap {

class ShieldedBackend final : public Backend {
 public:
  explicit ShieldedBackend(Backend& disk) : disk_(disk) {}
  const BackendInfo& info() const override { return disk_.info(); }
  Status read(DeviceOffset offset, Bytes buffer) override {
    const AllocFault::Shield shield;
    return disk_.read(offset, buffer);
  }
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override {
    const AllocFault::Shield shield;
    return disk_.write(offset, data, durability);
  }
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override {
    const AllocFault::Shield shield;
    return disk_.zero(offset, length, mode, durability);
  }
  Status trim(DeviceOffset offset, std::uint64_t length) override {
    const AllocFault::Shield shield;
    return disk_.trim(offset, length);
  }
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override {
    const AllocFault::Shield shield;
    return disk_.extent(offset, length);
  }
  Status cache(DeviceOffset offset, std::uint64_t length) override {
    const AllocFault::Shield shield;
    return disk_.cache(offset, length);
  }
  Status flush() override {
    const AllocFault::Shield shield;
    return disk_.flush();
  }
  Result<std::uint64_t> grow() override { return disk_.grow(); }

 private:
  Backend& disk_;
};

}  // namespace nbd_remap
