// SPDX-License-Identifier: BSD-3-Clause
#include "tests/faults/alloc_fault.hpp"

namespace nbd_remap {

void AllocFault::set(std::uint64_t nth, bool sticky) {
  nth_ = nth;
  sticky_ = sticky;
  counted_ = 0;
  fired_ = 0;
  failing_ = false;
  armed_ = false;
}

void AllocFault::arm() {
  one_thread_ = false;
  armed_ = true;
}

void AllocFault::arm_this_thread() {
  one_thread_ = true;
  this_one_ = true;
  armed_ = true;
}

void AllocFault::pause() {
  armed_ = false;
  failing_ = false;
}

bool AllocFault::strikes() {
  if (!armed_ || shields_ != 0 || (one_thread_ && !this_one_)) return false;
  const bool now = ++counted_ == nth_;
  if (now && sticky_) failing_ = true;
  if (!now && !failing_) return false;
  ++fired_;
  return true;
}

}  // namespace nbd_remap
