// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/owner_check.hpp"

#include <cerrno>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/remap/spare_owner.hpp"

namespace nbd_remap {

void OwnerCheck::own(Backend& spare, const Superblock& superblock) {
  MutexLock reading(reading_);
  spare_ = &spare;
  MutexLock lock(mu_);
  owned_ = true;
  superblock_ = superblock;
}

void OwnerCheck::forget_spare() {
  MutexLock reading(reading_);
  spare_ = nullptr;
}

Status OwnerCheck::spare_is_back(Backend& fresh) {
  {
    MutexLock lock(mu_);
    if (!owned_)
      return make_error(ErrorClass::caller, ESHUTDOWN,
                        fresh.info().name + ": was lost during the start");
  }
  return check(fresh);
}

// A SPARE that is no remote cannot be taken over while we hold its lock.
Status OwnerCheck::main_is_back() {
  MutexLock reading(reading_);
  if (spare_ == nullptr || !spare_->info().remote) return {};
  return check(*spare_);
}

Status OwnerCheck::check(Backend& spare) {
  Superblock mine;
  {
    MutexLock lock(mu_);
    mine = superblock_;
  }
  AlignedBuffer scratch(kSuperblockBytes);
  const auto owner = find_owner(spare, mine, scratch.bytes());
  if (!owner) return owner.error();
  if (*owner != Owner::another) return {};
  on_loss_();
  return make_error(
      ErrorClass::caller, ESHUTDOWN,
      spare.info().name + ": another server took the volume over");
}

}  // namespace nbd_remap
