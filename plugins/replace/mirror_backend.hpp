#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// MirrorBackend: MAIN while another disk is to take its place. Reads come from
// the old disk, changes go to both, and what a caller hears is what the old one
// says: an error of the new one ends the mirroring, not the request.
//
// Order       Of changes that overlap one goes first, on both disks: else each
//             disk might keep another one's bytes, and what a client reads
//             would change at the switch.
// Lost        After the new disk failed once nothing more is sent to it; the
//             CopyMap goes on noting what it lacks.
// Both        After NextDisk::must_have() an error of the new one is one of the
//             request: for the time when a restart might find either disk.
// Errors      The old disk's. EIO (class full) when a write had to be noted on
//             SPARE first and could not be.
// Threads     any, at once.
// Waits       a change for those that overlap it, at most the bound of
//             WriteTurns (ETIMEDOUT).

#include <functional>
#include <memory>

#include "plugins/backend/backend.hpp"
#include "plugins/replace/copy_map.hpp"
#include "plugins/replace/next_disk.hpp"
#include "plugins/replace/write_turns.hpp"

namespace nbd_remap {

class MirrorBackend final : public Backend {
 public:
  // present: left alone if this throws.
  // on_loss: called once, from any thread; does not block. next: null where
  // it cannot be had; then it is lost from the beginning.
  MirrorBackend(std::unique_ptr<Backend>&& present,
                std::shared_ptr<BoundedBackend> next,
                std::shared_ptr<CopyMap> map, std::function<void()> on_loss);

  NextDisk& next() { return next_; }
  // To be taken out, when this is to be destroyed.
  std::unique_ptr<Backend>& present() { return present_; }

  const BackendInfo& info() const override { return info_; }
  Status read(DeviceOffset offset, Bytes buffer) override {
    return present_->read(offset, buffer);
  }
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override {
    return present_->extent(offset, length);
  }
  Status cache(DeviceOffset offset, std::uint64_t length) override {
    return present_->cache(offset, length);
  }
  Status flush() override;
  // A volume does not grow while its disk is being replaced.
  Result<std::uint64_t> grow() override;

 private:
  Status on_both(
      DeviceOffset offset, std::uint64_t length,
      const std::function<Status()>& here,
      const std::function<BoundedBackend::CallPtr(BoundedBackend&)>& there);

  NextDisk next_;
  const std::shared_ptr<CopyMap> map_;
  BackendInfo info_;
  WriteTurns turns_;
  std::unique_ptr<Backend> present_;
};

}  // namespace nbd_remap
