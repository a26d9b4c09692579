#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SpottyBackend: another disk, of which each sector may be bad by itself, and
// a test can ask which. For models that must know what a disk can do.
//
// Threads  one at a time.

#include <cstdint>
#include <random>
#include <vector>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

class SpottyBackend final : public Backend {
 public:
  // Bits of a sector.
  static constexpr std::uint8_t kReadBad = 1;
  static constexpr std::uint8_t kWriteBad = 2;
  static constexpr std::uint8_t kHeals = 4;  // a write ends kReadBad

  // The inner disk outlives this one. A write that fails stores a seeded
  // choice of the logical blocks that are not bad.
  SpottyBackend(Backend& inner, std::uint64_t seed);

  void spoil(std::uint64_t sector, std::uint8_t bits) {
    spots_.at(sector) |= bits;
  }
  bool read_bad(std::uint64_t sector) const {
    return (spots_[sector] & kReadBad) != 0;
  }
  std::uint64_t failed_reads() const { return failed_reads_; }
  std::uint64_t failed_writes() const { return failed_writes_; }

  const BackendInfo& info() const override { return inner_.info(); }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override {
    return inner_.trim(offset, length);
  }
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override {
    return inner_.extent(offset, length);
  }
  Status cache(DeviceOffset offset, std::uint64_t length) override {
    return inner_.cache(offset, length);
  }
  Status flush() override { return inner_.flush(); }

 private:
  bool any(std::uint64_t offset, std::uint64_t length, std::uint8_t bit) const;
  void heal(std::uint64_t offset, std::uint64_t length);
  // data: null for zeroes.
  Status fail_change(const char* what, std::uint64_t offset,
                     std::uint64_t length, const std::byte* data);

  Backend& inner_;
  std::vector<std::uint8_t> spots_;
  std::mt19937_64 random_;
  std::uint64_t failed_reads_ = 0;
  std::uint64_t failed_writes_ = 0;
};

}  // namespace nbd_remap
