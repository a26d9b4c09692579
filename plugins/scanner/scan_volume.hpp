#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ScanVolume: what the scanner needs of a volume, so that its policy can be
// tested without disks. See Volume for what each does.

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "plugins/volume/volume.hpp"

namespace nbd_remap {

// What clients ask at this moment.
struct ClientLoad {
  std::uint64_t requests = 0;  // since the start
  std::uint64_t in_flight = 0;
};

class ScanVolume {
 public:
  virtual ~ScanVolume() = default;
  virtual std::uint64_t size() const = 0;
  virtual std::uint32_t block_bytes() const = 0;
  // REQUIRES: the scanner has no step under way.
  virtual ClientLoad load() const = 0;
  virtual ScanStep scan_main(VolumeOffset at, Bytes buffer) = 0;
  virtual SlotStep scan_slot(BlockNo from) = 0;
  // OK: the block is on SPARE now, or was.
  virtual Status rescue(BlockNo block, std::string_view why) = 0;
  // True: all of it can be read on MAIN.
  virtual Result<bool> retest(BlockNo block, std::string_view why) = 0;
  virtual std::optional<BlockNo> next_pending(BlockNo from) const = 0;
  virtual void note(const MapEvent& event) = 0;
  virtual const RegionCounts& region_counts() const = 0;
};

// volume outlives it.
std::unique_ptr<ScanVolume> scan_volume_of(Volume& volume);

}  // namespace nbd_remap
