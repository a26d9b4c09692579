// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/scanner/scan_volume.hpp"

#include <cerrno>

namespace nbd_remap {
namespace {

class RealScanVolume final : public ScanVolume {
 public:
  explicit RealScanVolume(Volume& volume) : volume_(volume) {}

  std::uint64_t size() const override { return volume_.size(); }
  std::uint32_t block_bytes() const override { return volume_.block_bytes(); }
  ClientLoad load() const override {
    ClientLoad load;
    for (const auto& n : volume_.stats().requests)
      load.requests += n.load(std::memory_order_relaxed);
    load.in_flight = volume_.in_flight();
    return load;
  }
  ScanStep scan_main(VolumeOffset at, Bytes buffer) override {
    return volume_.scan_main(at, buffer);
  }
  SlotStep scan_slot(BlockNo from) override { return volume_.scan_slot(from); }
  Status rescue(BlockNo block, std::string_view why) override {
    const MapStep step = volume_.rescue(block, why);
    if (!step.status) return step.status;
    if (step.counts.remapped + step.counts.already != 0) return {};
    return make_error(ErrorClass::medium, EIO, "MAIN can no longer read it");
  }
  Result<bool> retest(BlockNo block, std::string_view why) override {
    MapStep step = volume_.retest(block, why);
    if (!step.status) return std::move(step.status).error();
    return step.counts.readable != 0;
  }
  std::optional<BlockNo> next_pending(BlockNo from) const override {
    return volume_.next_pending(from);
  }
  void note(const MapEvent& event) override { volume_.note(event); }
  const RegionCounts& region_counts() const override {
    return volume_.region_counts();
  }

 private:
  Volume& volume_;
};

}  // namespace

std::unique_ptr<ScanVolume> scan_volume_of(Volume& volume) {
  return std::make_unique<RealScanVolume>(volume);
}

}  // namespace nbd_remap
