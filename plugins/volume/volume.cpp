// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/volume.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/volume/healer.hpp"
#include "plugins/volume/request_split.hpp"

namespace nbd_remap {
namespace {

// Zero and trim may span 4 GiB; in steps no step holds its regions for long.
constexpr std::uint64_t kStepBytes = 64 << 20;
constexpr std::size_t kZeroBytes = 1 << 20;
constexpr std::size_t kMaxExtents = 1024;

bool is_medium(const Status& status) {
  return !status && status.error().error_class == ErrorClass::medium;
}

void add_extent(std::vector<Extent>& extents, const Extent& extent) {
  if (extent.length == 0) return;
  if (!extents.empty() && extents.back().hole == extent.hole &&
      extents.back().zeroes == extent.zeroes)
    extents.back().length += extent.length;
  else
    extents.push_back(extent);
}

}  // namespace

Volume::Volume(std::unique_ptr<Disk> main, std::unique_ptr<Disk> spare,
               std::unique_ptr<RemapStore> store, bool read_only,
               std::string missing_spare, const VolumeOptions& options,
               const Clock& clock, LogSink log)
    : main_(std::move(main)),
      spare_(std::move(spare)),
      store_(std::move(store)),
      read_only_(read_only || !store_),
      missing_spare_(std::move(missing_spare)),
      options_(options),
      log_(std::move(log)),
      breaker_(options.breaker) {
  if (store_)
    healer_ = std::make_unique<Healer>(*main_, *spare_, *store_, breaker_,
                                       options_, clock, stats_, log_);
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

template <class Body>
Status Volume::request(Op op, VolumeOffset offset, std::uint64_t length,
                       bool writes, Body&& body) {
  stats_.requests[static_cast<std::size_t>(op)].fetch_add(
      1, std::memory_order_relaxed);
  Status status = [&]() -> Status {
    const auto pass = gate_.enter();
    if (!pass)
      return make_error(ErrorClass::transport, ESHUTDOWN,
                        "volume: the server is stopping");
    if (writes && read_only_)
      return make_error(ErrorClass::caller, EROFS, "volume: read-only");
    if (Status in_range = check_range(offset, length); !in_range)
      return in_range;
    if (op == Op::flush) return body();
    if (length == 0) return {};
    if (!store_)
      return make_error(ErrorClass::transport, EIO,
                        "volume: SPARE is missing, so nothing is known of any "
                        "block: " +
                            missing_spare_);
    return body();
  }();
  if (!status)
    ++stats_
          .client_errors[static_cast<std::size_t>(status.error().error_class)];
  return status;
}

template <class Body>
Status Volume::locked(Mode mode, VolumeOffset offset, std::uint64_t length,
                      Body&& body) {
  const auto guard = regions_.lock(mode, offset, length, options_.lock_bound);
  if (guard) return body();
  ++stats_.lock_timeouts;
  return make_error(
      ETIMEDOUT,
      fmt::format("volume: waited {} ms for {} bytes at {}",
                  options_.lock_bound.count(), length, offset.value));
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
    if (heal && !read_only_)
      status = locked(Mode::exclusive, offset, buffer.size(),
                      [&] { return healer_->read(offset, buffer); });
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
    bool heal = !aligned(offset, data.size());
    Status status;
    if (!heal)
      status = locked(Mode::shared, offset, data.size(), [&] {
        return fast_write(offset, data, durability, heal);
      });
    if (heal) status = heal_write(offset, data, durability);
    if (status)
      stats_.bytes_written.fetch_add(data.size(), std::memory_order_relaxed);
    return status;
  });
}

Status Volume::fast_write(VolumeOffset offset, ConstBytes data,
                          Durability durability, bool& heal) {
  if (all_clean(offset, data.size())) {
    if (Status answers = main_answers(); !answers) return answers;
    Status status = main_->write(DeviceOffset{offset.value}, data, durability);
    heal = is_medium(status);
    return status;
  }
  const auto pieces =
      split_request(offset, data.size(), store_->table(), store_->layout());
  for (const Piece& piece : pieces)
    if (piece.place == Piece::Place::unreadable) {
      heal = true;
      return {};
    }
  for (const Piece& piece : pieces) {
    const bool slot = piece.place == Piece::Place::slot;
    if (Status answers = main_answers(); !slot && !answers) return answers;
    Status status = (slot ? *spare_ : *main_)
                        .write(piece.device,
                               data.subspan(piece.offset.value - offset.value,
                                            piece.length),
                               durability);
    heal = is_medium(status);
    if (!status) return status;
  }
  return {};
}

Status Volume::heal_write(VolumeOffset offset, ConstBytes data,
                          Durability durability) {
  return locked(Mode::exclusive, offset, data.size(), [&]() -> Status {
    // With the breaker open only what needs no MAIN can be done.
    if (breaker_.open())
      for (const Piece& piece : split_request(
               offset, data.size(), store_->table(), store_->layout()))
        if (piece.place != Piece::Place::slot) return main_answers();
    return healer_->write(offset, data, durability);
  });
}

Status Volume::zero(VolumeOffset offset, std::uint64_t length, ZeroMode mode,
                    Durability durability) {
  return request(Op::zero, offset, length, true, [&]() -> Status {
    const std::uint64_t unit = std::max(main_->info().logical_block_bytes,
                                        spare_->info().logical_block_bytes);
    const std::uint64_t end = offset.value + length;
    if (mode == ZeroMode::fast_only &&
        (!can_fast_zero() || !aligned(offset, length) ||
         !all_clean(offset, length)))
      return make_error(ErrorClass::caller, ENOTSUP,
                        "volume: zeroing here is not faster than writing");
    const AlignedBuffer zeroes(unit);
    std::uint64_t at = offset.value;
    while (at < end) {
      std::uint64_t next = std::min(end, round_up(at + 1, unit));
      Status status;
      if (at % unit != 0 || end - at < unit) {
        status =
            heal_write(VolumeOffset{at}, zeroes.first(next - at), durability);
      } else {
        next = std::min(round_down(end, unit), at + kStepBytes);
        status = zero_chunk(VolumeOffset{at}, next - at, mode, durability);
      }
      if (!status) return status;
      at = next;
    }
    return {};
  });
}

Status Volume::zero_chunk(VolumeOffset offset, std::uint64_t length,
                          ZeroMode mode, Durability durability) {
  bool heal = false;
  Status status = locked(Mode::shared, offset, length, [&]() -> Status {
    for (const Piece& piece :
         split_request(offset, length, store_->table(), store_->layout())) {
      if (piece.place == Piece::Place::unreadable) {
        heal = true;
        return {};
      }
      const bool slot = piece.place == Piece::Place::slot;
      if (Status answers = main_answers(); !slot && !answers) return answers;
      // A slot stays allocated: a mapping must not fail for lack of space.
      Status one =
          slot ? spare_->zero(piece.device, piece.length,
                              ZeroMode::keep_allocated, durability)
               : main_->zero(piece.device, piece.length, mode, durability);
      heal = is_medium(one);
      if (!one) return one;
    }
    return {};
  });
  if (!heal) return status;
  const AlignedBuffer zeroes(std::min<std::uint64_t>(kZeroBytes, length));
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t n =
        std::min<std::uint64_t>(zeroes.size(), length - done);
    status = heal_write(VolumeOffset{offset.value + done}, zeroes.first(n),
                        durability);
    if (!status) return status;
    done += n;
  }
  return {};
}

// Blocks that the table knows keep their content: unspecified is allowed, and
// a mapping is not dropped for a hint.
Status Volume::trim(VolumeOffset offset, std::uint64_t length,
                    Durability durability) {
  return request(Op::trim, offset, length, true, [&]() -> Status {
    const std::uint64_t unit = main_->info().logical_block_bytes;
    for (std::uint64_t done = 0; done < length; done += kStepBytes) {
      const VolumeOffset at{offset.value + done};
      const std::uint64_t n = std::min(kStepBytes, length - done);
      Status status = locked(Mode::shared, at, n, [&]() -> Status {
        for (const Piece& piece :
             split_request(at, n, store_->table(), store_->layout())) {
          if (piece.place != Piece::Place::clean) continue;
          if (Status answers = main_answers(); !answers) return answers;
          const std::uint64_t from = round_up(piece.device.value, unit);
          const std::uint64_t to =
              round_down(piece.device.value + piece.length, unit);
          if (from >= to) continue;
          Status one = main_->trim(DeviceOffset{from}, to - from);
          if (!one) return one;
        }
        return {};
      });
      if (!status) return status;
    }
    return durability == Durability::fua ? flush_disks() : Status();
  });
}

Result<std::vector<Extent>> Volume::extents(VolumeOffset offset,
                                            std::uint64_t length) {
  std::vector<Extent> extents;
  Status status = request(Op::extents, offset, length, false, [&]() -> Status {
    const std::uint64_t block = store_->layout().block_bytes;
    const std::uint64_t end = offset.value + length;
    const BlockNo last{(end - 1) / block + 1};
    std::uint64_t at = offset.value;
    while (at < end && extents.size() < kMaxExtents) {
      const auto entry = store_->table().find_first(BlockNo{at / block}, last);
      const std::uint64_t clean_end =
          entry ? std::max(at, entry->block.value * block) : end;
      if (clean_end > at) {
        auto of_main = main_->extents(DeviceOffset{at}, clean_end - at);
        if (!of_main) return std::move(of_main).error();
        for (Extent extent : *of_main) {
          extent.length = std::min(extent.length, clean_end - at);
          add_extent(extents, extent);
          at += extent.length;
        }
        if (of_main->empty() || at < clean_end) return {};
        continue;
      }
      // Remapped or pending: never a hole, whatever MAIN says (C8).
      const std::uint64_t block_end =
          std::min(end, (entry->block.value + 1) * block);
      add_extent(extents, {block_end - at, false, false});
      at = block_end;
    }
    return {};
  });
  if (!status) return std::move(status).error();
  if (extents.empty() && length != 0) extents.push_back({length, false, false});
  return extents;
}

Status Volume::cache(VolumeOffset offset, std::uint64_t length) {
  return request(Op::cache, offset, length, false, [&]() -> Status {
    for (const Piece& piece :
         split_request(offset, length, store_->table(), store_->layout()))
      if (piece.place == Piece::Place::clean)
        if (Status status = main_->cache(piece.device, piece.length); !status)
          return status;
    return {};
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

VolumeStatus Volume::status() const {
  VolumeStatus out;
  out.size = size();
  out.read_only = read_only_;
  out.stopping = gate_.closed();
  out.breaker_open = breaker_.open();
  out.missing_spare = missing_spare_;
  out.main = {main_->info(), main_->errors(), main_->in_doubt()};
  if (store_) {
    out.spare = {spare_->info(), spare_->errors(), spare_->in_doubt()};
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
