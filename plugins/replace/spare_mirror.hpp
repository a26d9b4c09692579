#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SpareMirror: SPARE while another disk is to take its place. Reads come from
// the old disk; changes of slots go to both, those of metadata to the old one
// alone. What a caller hears is what the old disk says: an error of the new one
// ends the mirroring, not the request.
//
// Invariants  (1) holds(slot): the slot of the new disk has what the one of the
//                 old disk has, but for the sectors that lost() names. So it
//                 must never be said while a change of it is under way.
//             (2) No sector is lost that was written to both since.
// Both        After NextDisk::must_have() an error of the new one is one of the
//             request, and a flush is one of both: for the time when a restart
//             might find either disk.
// Threads     any, at once. copied(): nobody writes to that slot.

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/remap/remap_layout.hpp"
#include "plugins/replace/next_disk.hpp"
#include "plugins/replace/write_turns.hpp"

namespace nbd_remap {

class SpareMirror final : public Backend {
 public:
  // present: left alone if this throws.
  // on_loss: called once, from any thread; does not block.
  SpareMirror(std::unique_ptr<Backend>&& present,
              std::shared_ptr<BoundedBackend> next, const Layout& layout,
              std::function<void()> on_loss);

  bool holds(SlotNo slot) const;
  std::uint64_t lost_sectors(SlotNo slot) const;
  void copied(SlotNo slot, std::uint64_t lost);

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
  // A SPARE does not grow while it is being replaced.
  Result<std::uint64_t> grow() override;

 private:
  bool is_slot(DeviceOffset offset) const;
  Status on_both(
      DeviceOffset offset, std::uint64_t length,
      const std::function<Status()>& here,
      const std::function<BoundedBackend::CallPtr(BoundedBackend&)>& there);
  void note(std::uint64_t offset, std::uint64_t length, bool both);

  NextDisk next_;
  const Layout layout_;
  BackendInfo info_;
  WriteTurns turns_;
  mutable Mutex mu_;
  std::vector<bool> holds_ GUARDED_BY(mu_);
  std::map<std::uint64_t, std::uint64_t> lost_sectors_ GUARDED_BY(mu_);
  std::unique_ptr<Backend> present_;
};

}  // namespace nbd_remap
