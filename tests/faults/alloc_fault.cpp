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

void AllocFault::arm() { armed_ = true; }

void AllocFault::pause() {
  armed_ = false;
  failing_ = false;
}

bool AllocFault::strikes() {
  if (!armed_ || shields_ != 0) return false;
  const bool now = ++counted_ == nth_;
  if (now && sticky_) failing_ = true;
  if (!now && !failing_) return false;
  ++fired_;
  return true;
}

}  // namespace nbd_remap
