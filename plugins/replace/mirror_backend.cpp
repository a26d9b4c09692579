// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/mirror_backend.hpp"

#include <cerrno>
#include <utility>

namespace nbd_remap {

MirrorBackend::MirrorBackend(std::unique_ptr<Backend>&& present,
                             std::shared_ptr<BoundedBackend> next,
                             std::shared_ptr<CopyMap> map,
                             std::function<void()> on_loss)
    : next_(std::move(next), "MAIN", std::move(on_loss)),
      map_(std::move(map)),
      info_(present->info()),
      present_(std::move(present)) {
  next_.narrow(info_);
}

Status MirrorBackend::on_both(
    DeviceOffset offset, std::uint64_t length,
    const std::function<Status()>& here,
    const std::function<BoundedBackend::CallPtr(BoundedBackend&)>& there) {
  if (length == 0) return {};
  const auto turn = turns_.take(offset.value, length);
  if (!turn)
    return make_error(ETIMEDOUT,
                      info_.name + ": another write there has not ended");
  // Whatever comes: what began ends. As it stands neither disk was written.
  struct Noted {
    ~Noted() { map.end(offset, length, both); }
    CopyMap& map;
    const std::uint64_t offset;
    const std::uint64_t length;
    bool both;
  } noted{*map_, offset.value, length, true};
  if (const Status status = map_->begin(offset.value, length); !status)
    // Never class medium: it is not MAIN that is bad there.
    return make_error(ErrorClass::full, EIO,
                      "the replacement of MAIN cannot be noted on SPARE: " +
                          status.error().text());
  auto written = next_.along(here, there);
  // Where the old disk is bad the healer has the last word; should it fail,
  // what was written is on the new disk alone.
  noted.both = written.both;
  return next_.answer(std::move(written));
}

Status MirrorBackend::write(DeviceOffset offset, ConstBytes data,
                            Durability durability) {
  return on_both(
      offset, data.size(),
      [&] { return present_->write(offset, data, durability); },
      [&](BoundedBackend& next) {
        return next.start_write(offset, data, durability);
      });
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
      [&](BoundedBackend& next) {
        return next.start_zero(offset, length, mode, durability);
      });
}

Status MirrorBackend::trim(DeviceOffset offset, std::uint64_t length) {
  return on_both(
      offset, length, [&] { return present_->trim(offset, length); },
      [&](BoundedBackend& next) { return next.start_trim(offset, length); });
}

Status MirrorBackend::flush() {
  Status status = present_->flush();
  Status next = next_.flush();
  if (status && !next && next_.needed()) return next;
  return status;
}

Result<std::uint64_t> MirrorBackend::grow() {
  return make_error(ErrorClass::caller, EBUSY,
                    info_.name + ": is being replaced; grow afterwards");
}

}  // namespace nbd_remap
