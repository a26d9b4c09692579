// SPDX-License-Identifier: BSD-3-Clause
// What the scanner does to a volume, a step at a time.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/volume/healer.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;

}  // namespace

ScanStep Volume::scan_main(VolumeOffset at, Bytes buffer,
                           std::chrono::milliseconds slice) {
  ScanStep step;
  step.next = at;
  step.status = check_range(at, 1);
  if (step.status && read_only_)
    step.status = make_error(ErrorClass::caller, EROFS, "volume: read-only");
  if (step.status) step.status = main_answers();
  if (!step.status) return step;
  const std::uint64_t bytes = block_bytes();
  const std::uint64_t end = std::min(size(), at.value + buffer.size());
  const BlockNo first{at.value / bytes};
  const auto entry =
      store_->table().find_first(first, BlockNo{(end + bytes - 1) / bytes});
  if (entry && entry->block == first) {
    step.next = VolumeOffset{std::min(size(), at.value + bytes)};
    return step;
  }
  const std::uint64_t to = entry ? entry->block.value * bytes : end;
  const auto pass = gate_.enter();
  if (!pass) {
    step.status = stopping_error();
    return step;
  }
  const Bytes into = buffer.first(to - at.value);
  const auto began = steady_clock::now();
  Status status = main_->read(DeviceOffset{at.value}, into);
  if (status) {
    step.took = steady_clock::now() - began;
    step.bytes = into.size();
    step.next = VolumeOffset{to};
  } else if (is_medium(status)) {
    status = scan_halves(at.value, into, step, steady_clock::now() + slice);
  }
  step.status = std::move(status);
  return step;
}

// The run failed as a whole. Goes on in the order of the volume, so that
// step.next tells how far it came; at least one block.
Status Volume::scan_halves(std::uint64_t from, Bytes buffer, ScanStep& step,
                           steady_clock::time_point until) {
  const std::uint64_t bytes = block_bytes();
  const std::uint64_t end = from + buffer.size();
  const std::uint64_t blocks = (buffer.size() + bytes - 1) / bytes;
  if (blocks == 1) return scan_bad_block(BlockNo{from / bytes}, step);
  const std::uint64_t middle = from + blocks / 2 * bytes;
  bool good = true;
  for (const auto& [a, b] : {std::pair{from, middle}, std::pair{middle, end}}) {
    if (gate_.closed()) return stopping_error();
    // The first block of the step is always reached.
    if (a != from && steady_clock::now() >= until) return {};
    const Bytes into = buffer.subspan(a - from, b - a);
    Status status = main_->read(DeviceOffset{a}, into);
    if (status) {
      step.bytes += into.size();
      step.next = VolumeOffset{b};
      continue;
    }
    if (!is_medium(status)) return status;
    good = false;
    status = scan_halves(a, into, step, until);
    if (!status || step.next.value < b) return status;
  }
  if (good) {
    step.trouble_from = from;
    step.trouble_to = end;
  }
  return {};
}

Status Volume::scan_bad_block(BlockNo block, ScanStep& step) {
  const std::uint64_t bytes = block_bytes();
  const auto probed = healer_->probe_sectors(block);
  if (!probed) return probed.error();
  MapCounts counts;
  if (*probed != store_->all_valid()) {
    Status status =
        locked(Mode::exclusive, VolumeOffset{block.value * bytes}, bytes, [&] {
          return healer_->retest(block, true, *probed, counts,
                                 "the scanner could not read it");
        });
    if (!status) return status;
  }
  if (counts.pending != 0) {
    step.pending.push_back(block);
    step.unreadable_sectors += static_cast<std::uint64_t>(
        std::popcount(store_->all_valid() & ~*probed));
  } else {
    step.retried.push_back(block);
  }
  step.bytes += bytes;
  step.next = VolumeOffset{std::min(size(), (block.value + 1) * bytes)};
  return {};
}

SlotStep Volume::scan_slot(BlockNo from) {
  SlotStep step;
  const auto pass = gate_.enter();
  if (!pass || !store_) {
    step.status = stopping_error();
    return step;
  }
  const BlockNo end{size() / block_bytes() + 1};
  auto entry = store_->table().find_first(from, end);
  while (entry && !entry->remapped())
    entry = store_->table().find_first(BlockNo{entry->block.value + 1}, end);
  if (!entry) return step;
  step.block = entry->block;
  // Only what holds data: other sectors of a slot may never have been written.
  AlignedBuffer buffer(block_bytes());
  const std::uint64_t at = store_->layout().slot(entry->slot()).value;
  for (std::uint64_t rest = entry->valid & store_->all_valid(); rest != 0;) {
    const auto first = static_cast<unsigned>(std::countr_zero(rest));
    const auto run = static_cast<unsigned>(std::countr_one(rest >> first));
    Status status;
    for (unsigned tries = 0; tries <= options_.retries; ++tries) {
      status =
          spare_->read(DeviceOffset{at + first * std::uint64_t{kSectorBytes}},
                       buffer.first(std::size_t{run} * kSectorBytes));
      if (!is_medium(status)) break;
    }
    if (!status && !is_medium(status)) {
      step.status = std::move(status);
      return step;
    }
    step.failed |= !status;
    step.bytes += std::uint64_t{run} * kSectorBytes;
    rest = first + run == 64 ? 0 : rest >> (first + run) << (first + run);
  }
  // A slot that the block has left since says nothing about the block.
  if (step.failed) {
    const auto now = store_->table().find_first(
        entry->block, BlockNo{entry->block.value + 1});
    step.failed = now && now->slot_or_none == entry->slot_or_none;
  }
  return step;
}

MapStep Volume::rescue(BlockNo block, std::string_view why) {
  const std::uint64_t at = block.value * block_bytes();
  return map_step(MapAction::remap, VolumeOffset{at},
                  std::min<std::uint64_t>(block_bytes(), size() - at), {}, why);
}

MapStep Volume::retest(BlockNo block, std::string_view why) {
  const std::uint64_t at = block.value * block_bytes();
  return map_step(MapAction::retest, VolumeOffset{at},
                  std::min<std::uint64_t>(block_bytes(), size() - at), {}, why);
}

std::optional<BlockNo> Volume::next_pending(BlockNo from) const {
  if (!store_ || store_->table().pending_count() == 0) return std::nullopt;
  const BlockNo end{size() / block_bytes() + 1};
  auto entry = store_->table().find_first(from, end);
  while (entry && entry->remapped())
    entry = store_->table().find_first(BlockNo{entry->block.value + 1}, end);
  if (!entry) return std::nullopt;
  return entry->block;
}

}  // namespace nbd_remap
