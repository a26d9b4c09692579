// SPDX-License-Identifier: BSD-3-Clause
// The requests of a Volume that carry no data: zero, trim, extents, cache.
#include <algorithm>
#include <cerrno>
#include <optional>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/volume/healer.hpp"
#include "plugins/volume/request_split.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {
namespace {

// Zero and trim may span 4 GiB; in steps no step holds its regions for long.
constexpr std::uint64_t kStepBytes = 64 << 20;
constexpr std::size_t kZeroBytes = 1 << 20;

// False: what comes next is of another kind.
bool continues(Extent& extent, const Extent& next) {
  if (extent.length != 0 &&
      (extent.hole != next.hole || extent.zeroes != next.zeroes))
    return false;
  extent = {extent.length + next.length, next.hole, next.zeroes};
  return true;
}

}  // namespace

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
  std::optional<std::uint64_t> heal_from;  // as of fast_write()
  Status status = locked(Mode::shared, offset, length, [&]() -> Status {
    if (Status sure = healer_->check_doubt(offset, length); !sure) return sure;
    const auto pieces =
        split_request(offset, length, store_->table(), store_->layout());
    // Looked at first: beside such a piece others are no whole logical blocks.
    for (const Piece& piece : pieces)
      if (piece.place == Piece::Place::unreadable) {
        heal_from = 0;
        return {};
      }
    for (const Piece& piece : pieces) {
      const bool slot = piece.place == Piece::Place::slot;
      if (Status answers = main_answers(); !slot && !answers) return answers;
      // A slot stays allocated: a mapping must not fail for lack of space.
      Status one =
          slot ? spare_->zero(piece.device, piece.length,
                              ZeroMode::keep_allocated, durability)
               : main_->zero(piece.device, piece.length, mode, durability);
      if (is_medium(one)) heal_from = piece.offset.value - offset.value;
      if (!one) return one;
    }
    return {};
  });
  if (!heal_from) return status;
  const AlignedBuffer zeroes(std::min<std::uint64_t>(kZeroBytes, length));
  for (std::uint64_t done = *heal_from; done < length;) {
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
// a mapping is not dropped for a hint. So do those whose place is in doubt:
// what a trim made zeroes must not be there again after a restart.
Status Volume::trim(VolumeOffset offset, std::uint64_t length,
                    Durability durability) {
  return request(Op::trim, offset, length, true, [&]() -> Status {
    const std::uint64_t unit = main_->info().logical_block_bytes;
    bool trimmed = false;
    for (std::uint64_t done = 0; done < length; done += kStepBytes) {
      const VolumeOffset at{offset.value + done};
      const std::uint64_t n = std::min(kStepBytes, length - done);
      Status status = locked(Mode::shared, at, n, [&]() -> Status {
        if (!healer_->check_doubt(at, n)) return {};
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
          trimmed = true;
        }
        return {};
      });
      if (!status) return status;
    }
    return trimmed && durability == Durability::fua ? main_->flush() : Status();
  });
}

Result<Extent> Volume::extent(VolumeOffset offset, std::uint64_t length) {
  Extent extent;
  Status status = request(Op::extents, offset, length, false, [&]() -> Status {
    const std::uint64_t block = store_->layout().block_bytes;
    const std::uint64_t end = offset.value + length;
    const BlockNo last{(end - 1) / block + 1};
    std::uint64_t at = offset.value;
    while (at < end) {
      const auto entry = store_->table().find_first(BlockNo{at / block}, last);
      const std::uint64_t clean_end =
          entry ? std::max(at, entry->block.value * block) : end;
      if (clean_end > at) {
        auto of_main = main_->extent(DeviceOffset{at}, clean_end - at);
        if (!of_main) return std::move(of_main).error();
        of_main->length = std::min(of_main->length, clean_end - at);
        if (of_main->length == 0 || !continues(extent, *of_main)) return {};
        at += of_main->length;
        if (at < clean_end) return {};  // most likely of another kind
        continue;
      }
      // Remapped or pending: never a hole, whatever MAIN says (C8).
      const std::uint64_t block_end =
          std::min(end, (entry->block.value + 1) * block);
      if (!continues(extent, {block_end - at, false, false})) return {};
      at = block_end;
    }
    return {};
  });
  if (!status) return std::move(status).error();
  if (extent.length == 0) extent.length = length;
  return extent;
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

}  // namespace nbd_remap
