// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/slot_pool.hpp"

#include <algorithm>
#include <cassert>

namespace nbd_remap {

SlotPool::SlotPool(const Layout& layout)
    : layout_(layout), busy_(layout.slot_end()) {
  for (std::uint64_t n = 0; n < busy_.size(); ++n)
    busy_[n] = !layout_.has_slot(SlotNo{n});
}

// The numbers that the old head copy of an enlarged SPARE covered become slots.
void SlotPool::grow(const Layout& layout) {
  MutexLock lock(mu_);
  busy_.resize(layout.slot_end());
  for (std::uint64_t n = 0; n < busy_.size(); ++n)
    if (!layout.has_slot(SlotNo{n}))
      busy_[n] = true;
    else if (!layout_.has_slot(SlotNo{n}))
      busy_[n] = false;
  layout_ = layout;
}

bool SlotPool::has(SlotNo slot) const {
  MutexLock lock(mu_);
  return layout_.has_slot(slot);
}

std::optional<SlotNo> SlotPool::take() {
  MutexLock lock(mu_);
  if (used_ + retired_.size() >= layout_.slots) return std::nullopt;
  while (busy_[next_]) next_ = (next_ + 1) % busy_.size();
  const SlotNo slot{next_};
  busy_[next_] = true;
  ++used_;
  next_ = (next_ + 1) % busy_.size();
  return slot;
}

void SlotPool::free(SlotNo slot) {
  MutexLock lock(mu_);
  assert(busy_[slot.value] && used_ > 0);
  busy_[slot.value] = false;
  --used_;
}

void SlotPool::retire(SlotNo slot) {
  MutexLock lock(mu_);
  assert(busy_[slot.value] && used_ > 0);
  retired_.insert(std::lower_bound(retired_.begin(), retired_.end(), slot),
                  slot);
  --used_;
}

void SlotPool::revive() {
  MutexLock lock(mu_);
  for (const SlotNo slot : retired_) busy_[slot.value] = false;
  retired_.clear();
}

bool SlotPool::mark_taken(SlotNo slot) {
  MutexLock lock(mu_);
  if (slot.value >= busy_.size() || busy_[slot.value]) return false;
  busy_[slot.value] = true;
  ++used_;
  return true;
}

SlotPool::Counts SlotPool::counts() const {
  MutexLock lock(mu_);
  return {layout_.slots, used_, retired_.size()};
}

std::vector<SlotNo> SlotPool::retired() const {
  MutexLock lock(mu_);
  return retired_;
}

}  // namespace nbd_remap
