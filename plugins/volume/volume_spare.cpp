// SPDX-License-Identifier: BSD-3-Clause
// What a Volume offers to a disk that is to take SPARE's place.
#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/volume/healer.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {

Result<std::optional<BlockNo>> Volume::with_slot(
    BlockNo from, const WantedSlot& wanted,
    const std::function<Status(const SlotContent&)>& body) {
  const std::uint64_t bytes = block_bytes();
  const BlockNo end{size() / bytes + 1};
  auto entry = store_->table().find_first(from, end);
  while (entry && !(entry->remapped() && wanted(entry->slot())))
    entry = store_->table().find_first(BlockNo{entry->block.value + 1}, end);
  if (!entry) return std::optional<BlockNo>();
  const BlockNo block = entry->block;
  const BlockNo next{block.value + 1};
  Status status =
      alone_in(VolumeOffset{block.value * bytes}, bytes, [&]() -> Status {
        const auto now = store_->table().find_first(block, next);
        if (!now || !now->remapped()) return {};
        AlignedBuffer content(bytes);
        const auto known = healer_->read_slot(*now, content.bytes());
        if (!known) return known.error();
        return body({*now, content.bytes(), *known});
      });
  if (!status) return std::move(status).error();
  return std::optional<BlockNo>(next);
}

Status Volume::alone_with_spare(
    std::chrono::milliseconds drain,
    const std::function<Status(Disk& spare, RemapStore& store)>& change) {
  if (Status held = hold_gate(drain); !held) return held;
  const HeldGate release{gate_};
  // Those who leave notes there are no requests.
  StateArea* const notes = store_->state_area();
  if (notes != nullptr && !notes->hold(drain))
    return make_error(ETIMEDOUT, "spare: a note is being written");
  struct Release {
    StateArea* area;
    ~Release() {
      if (area != nullptr) area->release();
    }
  } const held_notes{notes};
  try {
    return change(*spare_, *store_);
  } catch (const std::bad_alloc&) {
    return make_error(ErrorClass::caller, ENOMEM, "volume");
  }
}

}  // namespace nbd_remap
