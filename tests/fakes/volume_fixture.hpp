#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A Volume over fakes: MAIN and SPARE in memory, faults in front of each, and
// a restart whenever a test wants one. The disks outlive the volume.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plugins/base/clock.hpp"
#include "plugins/remap/spare_format.hpp"
#include "plugins/volume/volume.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {

// A Backend that somebody else owns.
class BorrowedBackend final : public Backend {
 public:
  explicit BorrowedBackend(Backend& disk) : disk_(disk) {}
  const BackendInfo& info() const override { return disk_.info(); }
  Status read(DeviceOffset offset, Bytes buffer) override {
    return disk_.read(offset, buffer);
  }
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override {
    return disk_.write(offset, data, durability);
  }
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override {
    return disk_.zero(offset, length, mode, durability);
  }
  Status trim(DeviceOffset offset, std::uint64_t length) override {
    return disk_.trim(offset, length);
  }
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override {
    return disk_.extent(offset, length);
  }
  Status cache(DeviceOffset offset, std::uint64_t length) override {
    return disk_.cache(offset, length);
  }
  Status flush() override { return disk_.flush(); }
  Result<std::uint64_t> grow() override { return disk_.grow(); }

 private:
  Backend& disk_;
};

// Throws std::runtime_error with the reason.
std::unique_ptr<Volume> open_volume(Backend& main, Backend& spare,
                                    const VolumeOptions& options,
                                    const Clock& clock, LogSink log);
void format_for(Backend& spare, Backend& main,
                std::optional<std::uint32_t> block_bytes);

// Bytes that only this tag has: a later test sees what it reads is whose.
std::vector<std::byte> pattern(std::uint64_t tag, std::size_t length);

// 0, or what the NBD client would be told.
inline int told(const Status& status) {
  return status ? 0 : nbd_errno(status.error());
}

struct RigOptions {
  std::uint64_t main_bytes = 4 << 20;
  std::uint64_t spare_slots = 200;
  std::uint32_t logical = 512;  // of both
  std::uint32_t block_bytes = 4096;
  bool direct = true;
  VolumeOptions volume{};
};

class Rig {
 public:
  explicit Rig(const RigOptions& options = {});
  ~Rig();

  void open();
  // The ordered stop. False if requests were still under way after the bound.
  bool stop();
  void reopen();

  int write(std::uint64_t offset, ConstBytes data,
            Durability durability = Durability::cached) {
    return told(volume->write(VolumeOffset{offset}, data, durability));
  }
  // Writes pattern(tag, length).
  int write(std::uint64_t offset, std::uint64_t length, std::uint64_t tag,
            Durability durability = Durability::cached) {
    return write(offset, pattern(tag, length), durability);
  }
  int read(std::uint64_t offset, std::uint64_t length) {
    std::vector<std::byte> buffer(length);
    return told(volume->read(VolumeOffset{offset}, buffer));
  }
  // The volume reads pattern(tag, length) there.
  bool holds(std::uint64_t offset, std::uint64_t length, std::uint64_t tag) {
    return holds(offset, pattern(tag, length));
  }
  bool holds(std::uint64_t offset, ConstBytes data);
  bool zeroes(std::uint64_t offset, std::uint64_t length);

  std::vector<RemapEntry> entries() const {
    return volume->entries(BlockNo{0}, ~std::size_t{0});
  }
  RemapEntry entry(std::uint64_t block) const;
  StoreStatus store() const { return volume->status().store; }
  // Where the n-th slot is on SPARE.
  std::uint64_t slot(std::uint64_t n) const {
    return store().superblock.layout.slot(SlotNo{n}).value;
  }
  std::uint64_t last_block() const {
    return (options.main_bytes - 1) / options.block_bytes;
  }
  std::uint64_t at(std::uint64_t block) const {
    return block * options.block_bytes;
  }
  // Writes to MAIN in these blocks fail; reads too if wanted.
  FaultyBackend::Rule spoil(OpSet ops, std::uint64_t block,
                            std::uint64_t count = 1);

  const RigOptions options;
  SystemClock clock;
  MemoryBackend main_disk;
  MemoryBackend spare_disk;
  FaultyBackend main{main_disk};
  FaultyBackend spare{spare_disk};
  std::unique_ptr<Volume> volume;
};

// A place where threads wait until the test lets them go. Every wait ends.
class Barrier {
 public:
  // For the thread to be held.
  void arrive_and_wait();
  // True when somebody has arrived.
  bool wait_for_arrival();
  void open();

 private:
  Mutex mu_;
  CondVar changed_;
  int arrived_ GUARDED_BY(mu_) = 0;
  bool open_ GUARDED_BY(mu_) = false;
};

}  // namespace nbd_remap
