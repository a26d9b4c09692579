// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/volume.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/volume/healer.hpp"
#include "plugins/volume/request_split.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {

namespace {

DiskStatus status_of(const Disk& disk) {
  DiskStatus out;
  out.info = disk.info();
  out.errors = disk.errors();
  out.in_doubt = disk.in_doubt();
  if (const RemoteCounters* link = disk.link())
    out.link = {link->connected, link->reconnects, link->replayed_bytes};
  return out;
}

}  // namespace

Volume::Volume(std::unique_ptr<Disk> main, std::unique_ptr<Disk> spare,
               std::unique_ptr<RemapStore> store, bool read_only,
               std::string missing_spare, const VolumeOptions& options,
               const Clock& clock, LogSink log)
    : main_(std::move(main)),
      spare_(std::move(spare)),
      store_(std::move(store)),
      size_(main_->size()),
      read_only_(read_only || !store_),
      missing_spare_(std::move(missing_spare)),
      options_(options),
      log_(std::move(log)),
      region_counts_(main_->size()),
      breaker_(options.breaker) {
  if (store_)
    healer_ = std::make_unique<Healer>(*main_, *spare_, *store_, breaker_,
                                       options_, clock, stats_, events_, log_);
}

Volume::~Volume() = default;

std::uint32_t Volume::block_bytes() const {
  return store_ ? store_->layout().block_bytes : kMinBlockBytes;
}

Status Volume::check_range(VolumeOffset offset, std::uint64_t length) const {
  const auto end = checked_add(offset.value, length);
  if (end && *end <= size()) return {};
  return make_error(ErrorClass::caller, EINVAL,
                    fmt::format("volume: {} bytes at {} reach beyond its {}",
                                length, offset.value, size()));
}

bool Volume::aligned(VolumeOffset offset, std::uint64_t length) const {
  const std::uint64_t unit = std::max(main_->info().logical_block_bytes,
                                      spare_->info().logical_block_bytes);
  return offset.value % unit == 0 && length % unit == 0;
}

bool Volume::all_clean(VolumeOffset offset, std::uint64_t length) const {
  const std::uint64_t block = store_->layout().block_bytes;
  return !store_->table().find_first(
      BlockNo{offset.value / block},
      BlockNo{(offset.value + length - 1) / block + 1});
}

Status Volume::main_answers() const {
  if (!breaker_.open()) return {};
  return make_error(ErrorClass::transport, EIO,
                    main_->info().name + ": failed, the breaker is open");
}

Status Volume::read(VolumeOffset offset, Bytes buffer) {
  return request(Op::read, offset, buffer.size(), false, [&]() -> Status {
    bool heal = false;
    Status status = locked(Mode::shared, offset, buffer.size(),
                           [&] { return fast_read(offset, buffer, heal); });
    std::vector<std::uint64_t> unreadable;
    if (heal && !read_only_)
      status = locked(Mode::shared, offset, buffer.size(), [&] {
        return healer_->read(offset, buffer, unreadable);
      });
    if (heal && (status || !unreadable.empty()))
      region_counts_.count(offset,
                           status ? RegionCounts::retry : RegionCounts::error);
    if (!unreadable.empty()) {
      // The client's error is EIO whether or not its reason can be remembered.
      const Status marked = locked(Mode::exclusive, offset, buffer.size(), [&] {
        return healer_->mark_pending(unreadable);
      });
      if (!marked) log_(LogLevel::warning, marked.error().text());
    }
    if (status)
      stats_.bytes_read.fetch_add(buffer.size(), std::memory_order_relaxed);
    return status;
  });
}

// heal: a medium error that the slow way may get around.
Status Volume::fast_read(VolumeOffset offset, Bytes buffer, bool& heal) {
  if (all_clean(offset, buffer.size())) {
    if (Status answers = main_answers(); !answers) return answers;
    Status status = main_->read(DeviceOffset{offset.value}, buffer);
    heal = is_medium(status);
    return status;
  }
  const auto pieces =
      split_request(offset, buffer.size(), store_->table(), store_->layout());
  for (const Piece& piece : pieces)
    if (piece.place == Piece::Place::unreadable)
      return make_error(EIO, fmt::format("volume: bytes from {} are pending",
                                         piece.offset.value));
  for (const Piece& piece : pieces) {
    const bool slot = piece.place == Piece::Place::slot;
    if (Status answers = main_answers(); !slot && !answers) return answers;
    Status status = (slot ? *spare_ : *main_)
                        .read(piece.device,
                              buffer.subspan(piece.offset.value - offset.value,
                                             piece.length));
    heal = is_medium(status);
    if (!status) return status;
  }
  return {};
}

Status Volume::write(VolumeOffset offset, ConstBytes data,
                     Durability durability) {
  return request(Op::write, offset, data.size(), true, [&]() -> Status {
    std::optional<std::uint64_t> heal_from;
    if (!aligned(offset, data.size())) heal_from = 0;
    Status status;
    if (!heal_from)
      status = locked(Mode::shared, offset, data.size(), [&] {
        return fast_write(offset, data, durability, heal_from);
      });
    if (is_medium(status)) region_counts_.count(offset, RegionCounts::error);
    if (heal_from)
      status = heal_write(VolumeOffset{offset.value + *heal_from},
                          data.subspan(*heal_from), durability);
    if (status)
      stats_.bytes_written.fetch_add(data.size(), std::memory_order_relaxed);
    return status;
  });
}

// heal_from: from there on it is for the slow way. What was done before it must
// not be done again: somebody may have read it, and written anew since.
Status Volume::fast_write(VolumeOffset offset, ConstBytes data,
                          Durability durability,
                          std::optional<std::uint64_t>& heal_from) {
  if (Status sure = healer_->check_doubt(offset, data.size()); !sure)
    return sure;
  if (all_clean(offset, data.size())) {
    if (Status answers = main_answers(); !answers) return answers;
    Status status = main_->write(DeviceOffset{offset.value}, data, durability);
    if (is_medium(status)) heal_from = 0;
    return status;
  }
  const auto pieces =
      split_request(offset, data.size(), store_->table(), store_->layout());
  for (const Piece& piece : pieces)
    if (piece.place == Piece::Place::unreadable) {
      heal_from = 0;
      return {};
    }
  for (const Piece& piece : pieces) {
    const bool slot = piece.place == Piece::Place::slot;
    if (Status answers = main_answers(); !slot && !answers) return answers;
    const std::uint64_t done = piece.offset.value - offset.value;
    Status status =
        (slot ? *spare_ : *main_)
            .write(piece.device, data.subspan(done, piece.length), durability);
    if (is_medium(status)) heal_from = done;
    if (!status) return status;
  }
  return {};
}

Status Volume::heal_write(VolumeOffset offset, ConstBytes data,
                          Durability durability) {
  return locked(Mode::exclusive, offset, data.size(), [&] {
    Status sure = healer_->check_doubt(offset, data.size());
    return sure ? healer_->write(offset, data, durability) : sure;
  });
}

Status Volume::flush() {
  return request(Op::flush, VolumeOffset{0}, 0, false,
                 [&] { return flush_disks(); });
}

// Both are asked even if one fails, and both must succeed.
Status Volume::flush_disks() {
  if (read_only_) return {};
  Status spare = spare_->flush();
  Status main = main_->flush();
  return main ? spare : main;
}

Status Volume::quiesce(std::chrono::milliseconds drain,
                       std::chrono::milliseconds longest) {
  gate_.pause(drain + longest);
  Status status;
  // Held, so that no disk takes another one's place meanwhile.
  if (gate_.hold(drain)) {
    const HeldGate release{gate_};
    if (!read_only_) status = flush_disks();
  } else {
    status =
        make_error(ETIMEDOUT, fmt::format("volume: {} requests have not ended "
                                          "within {} ms; a disk hangs",
                                          gate_.inside(), drain.count()));
  }
  if (!status) gate_.resume();
  return status;
}

VolumeStatus Volume::status() const {
  VolumeStatus out;
  out.size = size();
  out.read_only = read_only_;
  out.stopping = gate_.closed();
  out.quiesced = gate_.paused();
  out.breaker_open = breaker_.open();
  out.missing_spare = missing_spare_;
  out.main = status_of(*main_);
  if (store_) {
    out.spare = status_of(*spare_);
    out.store = store_->status();
  }
  out.in_flight = gate_.inside();
  return out;
}

std::vector<RemapEntry> Volume::entries(BlockNo from, std::size_t limit) const {
  std::vector<RemapEntry> out;
  if (!store_) return out;
  const BlockNo end{size() / store_->layout().block_bytes + 1};
  while (out.size() < limit) {
    const auto entry = store_->table().find_first(from, end);
    if (!entry) break;
    out.push_back(*entry);
    from = BlockNo{entry->block.value + 1};
  }
  return out;
}

Status Volume::close() { return store_ ? store_->close() : Status(); }

}  // namespace nbd_remap
