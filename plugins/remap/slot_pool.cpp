// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/slot_pool.hpp"

#include <algorithm>
#include <cassert>

namespace nbd_remap {

SlotPool::SlotPool(std::uint64_t slots) : slots_(slots), busy_(slots) {}

std::optional<SlotNo> SlotPool::take() {
  MutexLock lock(mu_);
  if (used_ + retired_.size() >= slots_) return std::nullopt;
  while (busy_[next_]) next_ = (next_ + 1) % slots_;
  const SlotNo slot{next_};
  busy_[next_] = true;
  ++used_;
  next_ = (next_ + 1) % slots_;
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

bool SlotPool::mark_taken(SlotNo slot) {
  MutexLock lock(mu_);
  if (slot.value >= slots_ || busy_[slot.value]) return false;
  busy_[slot.value] = true;
  ++used_;
  return true;
}

SlotPool::Counts SlotPool::counts() const {
  MutexLock lock(mu_);
  return {slots_, used_, retired_.size()};
}

std::vector<SlotNo> SlotPool::retired() const {
  MutexLock lock(mu_);
  return retired_;
}

}  // namespace nbd_remap
