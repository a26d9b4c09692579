// SPDX-License-Identifier: BSD-3-Clause
// What an owner asks of the map, in steps that clients hardly notice.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "plugins/volume/healer.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {
namespace {
// Blocks that are read, copied and mapped together, and kept from clients.
constexpr std::uint64_t kGroup = 16;
constexpr std::string_view kTestedAgain = "it was tested again";
}  // namespace

MapStep Volume::map_step(MapAction action, VolumeOffset offset,
                         std::uint64_t length, std::chrono::milliseconds slice,
                         std::string_view why) {
  MapStep step{{}, offset, check_range(offset, length)};
  if (step.status && read_only_)
    step.status = make_error(ErrorClass::caller, EROFS, "volume: read-only");
  if (step.status && action == MapAction::clear &&
      (offset.value % kSectorBytes != 0 || length % kSectorBytes != 0))
    step.status = make_error(ErrorClass::caller, EINVAL,
                             "volume: only whole sectors of 512 bytes can be "
                             "cleared");
  const auto until = std::chrono::steady_clock::now() + slice;
  const std::uint64_t end = offset.value + length;
  std::uint64_t group = kGroup;
  while (step.status && step.next.value < end) {
    const auto pass = gate_.enter();
    step.status = pass ? map_group(action, end, group, step, why)
                       : make_error(ErrorClass::transport, ESHUTDOWN,
                                    "volume: the server is stopping");
    if (std::chrono::steady_clock::now() >= until) break;
  }
  return step;
}

// group: how many blocks to try at once; less after an error, so that a bad
// block is met alone and its neighbours are not read again and again.
Status Volume::map_group(MapAction action, std::uint64_t end,
                         std::uint64_t& group, MapStep& step,
                         std::string_view why) {
  const std::uint64_t bytes = block_bytes();
  BlockNo at{step.next.value / bytes};
  const BlockNo last{(end - 1) / bytes + 1};
  const auto entry = store_->table().find_first(at, last);
  const bool copies = action == MapAction::remap;
  if (!copies && action != MapAction::check) {
    if (!entry) {
      step.next = VolumeOffset{end};
      return {};
    }
    at = entry->block;
  }
  const std::uint64_t from = std::max(step.next.value, at.value * bytes);
  std::uint64_t blocks = 1;
  bool alone = entry && entry->block == at;
  if (!alone) {
    blocks = std::min(group, (entry ? entry->block : last).value - at.value);
    Status status = healer_->probe(at, blocks);
    alone = is_medium(status) && blocks == 1;
    bool smaller = is_medium(status) && blocks > 1;
    if (status && copies) {
      status = locked(
          Mode::exclusive, VolumeOffset{at.value * bytes}, blocks * bytes, [&] {
            return healer_->remap(at, blocks, store_->all_valid(), step.counts,
                                  why.empty() ? Healer::kAsked : why);
          });
      smaller = !status && blocks > 1 &&
                status.error().error_class == ErrorClass::full;
    }
    if (smaller) {
      group = blocks / 2;
      return {};
    }
    if (!status && !alone) return status;
    group = alone ? 1 : std::min(kGroup, group * 2);
  }
  if (alone)
    if (Status one = map_block(action, at, from, end, step.counts, why); !one)
      return one;
  step.counts.looked_at += blocks;
  step.next = VolumeOffset{std::min(end, (at.value + blocks) * bytes)};
  return {};
}

Status Volume::map_block(MapAction action, BlockNo block, std::uint64_t from,
                         std::uint64_t to, MapCounts& counts,
                         std::string_view why) {
  if (why.empty())
    why = action == MapAction::remap ? Healer::kAsked : kTestedAgain;
  const std::uint64_t bytes = block_bytes();
  const auto entry =
      store_->table().find_first(block, BlockNo{block.value + 1});
  std::uint64_t readable = 0;
  if ((!entry || !entry->remapped()) && action != MapAction::unmap &&
      action != MapAction::clear) {
    auto probed = healer_->probe_sectors(block);
    if (!probed) return std::move(probed).error();
    readable = *probed;
  }
  return locked(
      Mode::exclusive, VolumeOffset{block.value * bytes}, bytes,
      [&]() -> Status {
        switch (action) {
          case MapAction::remap:
            return healer_->remap(block, 1, readable, counts, why);
          case MapAction::unmap:
            return healer_->unmap(block, counts);
          case MapAction::retest:
            return healer_->retest(block, false, readable, counts, why);
          case MapAction::check:
            return healer_->retest(block, true, readable, counts, why);
          case MapAction::clear:
            break;
        }
        return healer_->clear(from, std::min(to, (block.value + 1) * bytes),
                              counts);
      });
}

}  // namespace nbd_remap
