// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/disk.hpp"

#include <cerrno>
#include <new>
#include <utility>

namespace nbd_remap {

Disk::Disk(std::unique_ptr<Backend> backend,
           std::shared_ptr<const RemoteCounters> counters)
    : backend_(std::move(backend)), size_(backend_->info().size_bytes) {
  faces_.push_back(std::make_unique<const Face>(
      Face{backend_->info(), std::move(counters)}));
  face_ = faces_.back().get();
}

void Disk::exchange(const std::function<std::unique_ptr<Backend>(
                        std::unique_ptr<Backend>& present)>& make,
                    bool afresh,
                    std::shared_ptr<const RemoteCounters> counters) {
  backend_ = make(backend_);
  if (!afresh) counters = faces_.back()->counters;
  try {
    faces_.push_back(std::make_unique<const Face>(
        Face{backend_->info(), std::move(counters)}));
    face_ = faces_.back().get();
  } catch (const std::bad_alloc&) {
    // The disk is exchanged, whatever it is called.
  }
  dirty_ = true;
  if (!afresh) return;
  size_ = backend_->info().size_bytes;
  in_doubt_ = false;
  for (auto& errors : errors_) errors = 0;
}

Result<std::uint64_t> Disk::grow() {
  auto size = backend_->grow();
  if (size) size_ = *size;
  return size;
}

template <class Call>
Status Disk::answer(Call&& call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return make_error(ENOMEM, "disk");
  }
}

Status Disk::note(Status status) {
  if (!status) ++errors_[static_cast<std::size_t>(status.error().error_class)];
  return status;
}

Status Disk::note_data(Status status) {
  if (status) successes_.fetch_add(1, std::memory_order_relaxed);
  return note(std::move(status));
}

bool Disk::cached_here() const { return !info().direct && !info().remote; }

Status Disk::refuse_in_doubt() const {
  return make_error(ErrorClass::transport, EIO,
                    info().name +
                        ": an earlier flush failed; what was written since "
                        "the last good one is in doubt until a restart");
}

Status Disk::read(DeviceOffset offset, Bytes buffer) {
  return note_data(backend_->read(offset, buffer));
}

Status Disk::write(DeviceOffset offset, ConstBytes data,
                   Durability durability) {
  if (durability == Durability::fua && in_doubt_) return refuse_in_doubt();
  Status status = note_data(
      answer([&] { return backend_->write(offset, data, durability); }));
  if (durability == Durability::cached || !status) dirty_ = true;
  if (!status && durability == Durability::fua && cached_here())
    in_doubt_ = true;
  return status;
}

Status Disk::zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
                  Durability durability) {
  if (durability == Durability::fua && in_doubt_) return refuse_in_doubt();
  Status status =
      answer([&] { return backend_->zero(offset, length, mode, durability); });
  if (mode == ZeroMode::fast_only && !status &&
      status.error().errnum == ENOTSUP)
    return status;  // an answer, not a failure: nothing was changed
  status = note_data(std::move(status));
  if (durability == Durability::cached || !status) dirty_ = true;
  if (!status && durability == Durability::fua && cached_here())
    in_doubt_ = true;
  return status;
}

Status Disk::trim(DeviceOffset offset, std::uint64_t length) {
  Status status = note(backend_->trim(offset, length));
  dirty_ = true;
  return status;
}

Result<Extent> Disk::extent(DeviceOffset offset, std::uint64_t length) {
  return backend_->extent(offset, length);
}

Status Disk::cache(DeviceOffset offset, std::uint64_t length) {
  return backend_->cache(offset, length);
}

Status Disk::flush() {
  {
    MutexLock lock(mu_);
    // The first round to begin from here on covers the caller.
    const std::uint64_t mine = rounds_begun_ + 1;
    while (flushing_ && rounds_ended_ < mine) round_over_.wait(mu_);
    if (rounds_ended_ >= mine) {
      if (in_doubt_) return refuse_in_doubt();
      if (last_good_round_ >= mine) return {};
      return make_error(ErrorClass::transport, EIO,
                        info().name + ": flush: the one under way failed");
    }
    flushing_ = true;
    ++rounds_begun_;
  }
  // Others wait for this round, however it ends.
  Status status = answer([&]() -> Status {
    if (in_doubt_) return refuse_in_doubt();
    return dirty_.exchange(false) ? note(backend_->flush()) : Status();
  });
  if (!status) {
    dirty_ = true;
    if (!info().flush_covers_failed) in_doubt_ = true;
  }
  MutexLock lock(mu_);
  flushing_ = false;
  ++rounds_ended_;
  if (status) last_good_round_ = rounds_ended_;
  round_over_.notify_all();
  return status;
}

std::array<std::uint64_t, kErrorClassCount> Disk::errors() const {
  std::array<std::uint64_t, kErrorClassCount> out{};
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = errors_[i];
  return out;
}

}  // namespace nbd_remap
