// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/spare_mirror.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace nbd_remap {

SpareMirror::SpareMirror(std::unique_ptr<Backend>&& present,
                         std::shared_ptr<BoundedBackend> next,
                         const Layout& layout, std::function<void()> on_loss)
    : next_(std::move(next), "SPARE", std::move(on_loss)),
      layout_(layout),
      info_(present->info()),
      holds_(layout.slot_end()),
      present_(std::move(present)) {
  next_.narrow(info_);
}

bool SpareMirror::holds(SlotNo slot) const {
  MutexLock lock(mu_);
  return slot.value < holds_.size() && holds_[slot.value];
}

std::uint64_t SpareMirror::lost_sectors(SlotNo slot) const {
  MutexLock lock(mu_);
  const auto it = lost_sectors_.find(slot.value);
  return it == lost_sectors_.end() ? 0 : it->second;
}

void SpareMirror::copied(SlotNo slot, std::uint64_t lost) {
  MutexLock lock(mu_);
  if (lost != 0)
    lost_sectors_[slot.value] = lost;
  else
    lost_sectors_.erase(slot.value);
  holds_[slot.value] = true;
}

bool SpareMirror::is_slot(DeviceOffset offset) const {
  return offset.value >= layout_.slots_at &&
         layout_.has_slot(
             SlotNo{(offset.value - layout_.slots_at) / layout_.block_bytes});
}

// What is written is slots from end to end, or none at all.
void SpareMirror::note(std::uint64_t offset, std::uint64_t length, bool both) {
  const std::uint64_t bytes = layout_.block_bytes;
  const std::uint64_t from = offset - layout_.slots_at;
  const std::uint64_t to = from + length;
  MutexLock lock(mu_);
  for (std::uint64_t n = from / bytes; n <= (to - 1) / bytes; ++n) {
    if (n >= holds_.size()) return;
    if (!both) {
      holds_[n] = false;
      continue;
    }
    const std::uint64_t a = std::max(from, n * bytes) - n * bytes;
    const std::uint64_t b = std::min(to, (n + 1) * bytes) - n * bytes;
    if (a == 0 && b == bytes) {
      lost_sectors_.erase(n);
      holds_[n] = true;
      continue;
    }
    const auto it = lost_sectors_.find(n);
    if (it == lost_sectors_.end()) continue;
    for (std::uint64_t s = (a + kSectorBytes - 1) / kSectorBytes;
         s < b / kSectorBytes; ++s)
      it->second &= ~(std::uint64_t{1} << s);
  }
}

Status SpareMirror::on_both(
    DeviceOffset offset, std::uint64_t length,
    const std::function<Status()>& here,
    const std::function<BoundedBackend::CallPtr(BoundedBackend&)>& there) {
  if (length == 0 || !is_slot(offset)) return here();
  const auto turn = turns_.take(offset.value, length);
  if (!turn)
    return make_error(ETIMEDOUT,
                      info_.name + ": an earlier write there has not ended");
  auto written = next_.along(here, there);
  note(offset.value, length, written.both);
  return next_.answer(std::move(written));
}

Status SpareMirror::write(DeviceOffset offset, ConstBytes data,
                          Durability durability) {
  return on_both(
      offset, data.size(),
      [&] { return present_->write(offset, data, durability); },
      [&](BoundedBackend& next) {
        return next.start_write(offset, data, durability);
      });
}

Status SpareMirror::zero(DeviceOffset offset, std::uint64_t length,
                         ZeroMode mode, Durability durability) {
  if (mode == ZeroMode::fast_only && is_slot(offset)) {
    if (!info_.fast_zero)
      return make_error(ErrorClass::caller, ENOTSUP,
                        info_.name + ": zeroing is not fast");
    mode = ZeroMode::may_punch;
  }
  return on_both(
      offset, length,
      [&] { return present_->zero(offset, length, mode, durability); },
      [&](BoundedBackend& next) {
        return next.start_zero(offset, length, mode, durability);
      });
}

// What is there afterwards may differ: it is copied again.
Status SpareMirror::trim(DeviceOffset offset, std::uint64_t length) {
  Status status = present_->trim(offset, length);
  if (length != 0 && is_slot(offset)) note(offset.value, length, false);
  return status;
}

Status SpareMirror::flush() {
  Status status = present_->flush();
  if (!status || !next_.needed()) return status;
  return next_.flush();
}

Result<std::uint64_t> SpareMirror::grow() {
  return make_error(ErrorClass::caller, EBUSY,
                    info_.name + ": is being replaced; grow afterwards");
}

}  // namespace nbd_remap
