// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/next_disk.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

namespace nbd_remap {
namespace {

// So short that it needs none.
Error no_memory() { return make_error(ENOMEM, "memory"); }

}  // namespace

NextDisk::NextDisk(std::shared_ptr<BoundedBackend> disk, std::string name,
                   std::function<void()> on_loss)
    : disk_(std::move(disk)),
      name_(std::move(name)),
      on_loss_(std::move(on_loss)),
      lost_(disk_ == nullptr) {}

void NextDisk::lose(Error error) {
  {
    MutexLock lock(mu_);
    if (lost_) return;
    why_ = std::move(error);
    lost_ = true;
  }
  on_loss_();
}

Error NextDisk::why_lost() const {
  MutexLock lock(mu_);
  return why_;
}

void NextDisk::narrow(BackendInfo& info) const {
  if (!disk_) return;
  info.logical_block_bytes =
      std::max(info.logical_block_bytes, disk_->info().logical_block_bytes);
  info.fast_zero = info.fast_zero && disk_->info().fast_zero;
}

NextDisk::Written NextDisk::along(
    const std::function<Status()>& here,
    const std::function<BoundedBackend::CallPtr(BoundedBackend&)>&
        there) noexcept {
  Written written;
  BoundedBackend::CallPtr call;
  try {
    if (!lost_) call = there(*disk_);
    written.here = here();
  } catch (const std::bad_alloc&) {
    written.here = no_memory();
  }
  if (!call) return written;
  Status next;
  try {
    next = disk_->wait(call);
  } catch (const std::bad_alloc&) {
    next = no_memory();
  }
  written.both = next.ok() && written.here.ok();
  if (!next) lose(std::move(next).error());
  return written;
}

Status NextDisk::answer(Written written) const {
  if (!written.here || written.both || !must_have_)
    return std::move(written.here);
  return make_error(
      ErrorClass::transport, EIO,
      "the new " + name_ +
          " failed, and a restart might find it in use: " + why_lost().text());
}

Status NextDisk::flush() {
  if (lost_) return why_lost();
  Status status = disk_->flush();
  if (!status) lose(status.error());
  return status;
}

}  // namespace nbd_remap
