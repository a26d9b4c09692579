// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/mirror_backend.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace nbd_remap {

MirrorBackend::MirrorBackend(std::unique_ptr<Backend>&& present,
                             std::shared_ptr<BoundedBackend> next,
                             std::shared_ptr<CopyMap> map,
                             std::function<void()> on_loss)
    : next_(std::move(next)),
      map_(std::move(map)),
      on_loss_(std::move(on_loss)),
      info_(present->info()),
      present_(std::move(present)) {
  if (!next_) {
    lost_ = true;
    return;
  }
  // What the volume sends must fit both.
  info_.logical_block_bytes =
      std::max(info_.logical_block_bytes, next_->info().logical_block_bytes);
  info_.fast_zero = info_.fast_zero && next_->info().fast_zero;
}

void MirrorBackend::lose(const Error& error) {
  {
    MutexLock lock(mu_);
    if (lost_) return;
    why_ = error;
    lost_ = true;
  }
  on_loss_();
}

Error MirrorBackend::why_lost() const {
  MutexLock lock(mu_);
  return why_;
}

Status MirrorBackend::on_both(
    DeviceOffset offset, std::uint64_t length,
    const std::function<Status()>& here,
    const std::function<BoundedBackend::CallPtr()>& there) {
  if (length == 0) return {};
  const auto turn = turns_.take(offset.value, length);
  if (!turn)
    return make_error(ETIMEDOUT,
                      info_.name + ": another write there has not ended");
  Status status = map_->begin(offset.value, length);
  if (!status) {
    map_->end(offset.value, length, true);  // neither disk was written
    // Never class medium: it is not MAIN that is bad there.
    return make_error(ErrorClass::full, EIO,
                      "the replacement of MAIN cannot be noted on SPARE: " +
                          status.error().text());
  }
  BoundedBackend::CallPtr call;
  if (!lost_) call = there();
  status = here();
  bool both = false;
  if (call) {
    const Status next = next_->wait(call);
    both = next.ok();
    if (!next) lose(next.error());
  }
  // Where the old disk is bad the healer has the last word; should it fail, what
  // was written is on the new disk alone.
  map_->end(offset.value, length, both && status.ok());
  if (status && !both && both_)
    return make_error(ErrorClass::transport, EIO,
                      "the new MAIN failed, and a restart might find it in "
                      "use: " +
                          why_lost().text());
  return status;
}

Status MirrorBackend::write(DeviceOffset offset, ConstBytes data,
                            Durability durability) {
  return on_both(
      offset, data.size(),
      [&] { return present_->write(offset, data, durability); },
      [&] { return next_->start_write(offset, data, durability); });
}

Status MirrorBackend::zero(DeviceOffset offset, std::uint64_t length,
                           ZeroMode mode, Durability durability) {
  if (mode == ZeroMode::fast_only) {
    if (!info_.fast_zero)
      return make_error(ErrorClass::caller, ENOTSUP,
                        info_.name + ": zeroing is not fast");
    mode = ZeroMode::may_punch;
  }
  return on_both(
      offset, length,
      [&] { return present_->zero(offset, length, mode, durability); },
      [&] { return next_->start_zero(offset, length, mode, durability); });
}

Status MirrorBackend::trim(DeviceOffset offset, std::uint64_t length) {
  return on_both(
      offset, length, [&] { return present_->trim(offset, length); },
      [&] { return next_->start_trim(offset, length); });
}

Status MirrorBackend::flush_next() {
  if (lost_) return why_lost();
  Status status = next_->flush();
  if (!status) lose(status.error());
  return status;
}

Status MirrorBackend::flush() {
  Status status = present_->flush();
  Status next = flush_next();
  if (status && !next && both_) return next;
  return status;
}

Result<std::uint64_t> MirrorBackend::grow() {
  return make_error(ErrorClass::caller, EBUSY,
                    info_.name + ": is being replaced; grow afterwards");
}

}  // namespace nbd_remap
