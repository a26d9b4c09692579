// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_layout.hpp"

#include <algorithm>

namespace nbd_remap {
namespace {

std::uint64_t log_records_for(std::uint64_t slots) {
  return std::clamp<std::uint64_t>(slots / 64, 64, 2048);
}

std::uint64_t copy_bytes(const Layout& l) {
  return 2 * l.checkpoint_bytes + l.log_records * l.block_bytes;
}

Layout layout_for(std::uint64_t spare_bytes, std::uint32_t block_bytes,
                  std::uint64_t slots) {
  Layout layout;
  layout.spare_bytes = spare_bytes;
  layout.block_bytes = block_bytes;
  layout.slots = slots;
  layout.log_records = log_records_for(slots);
  layout.checkpoint_bytes =
      block_bytes + round_up((2 * slots + 64) * kEntryBytes, block_bytes);
  layout.head_at = kSuperblockPlaceBytes;
  layout.slots_at = layout.head_at + copy_bytes(layout);
  return layout;
}

// The numbers over the head copy that are no slots: [first, end). Empty if it
// lies before slot 0.
struct Hole {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
};
Hole hole_of(const Layout& l) {
  if (!l.grown()) return {};
  return {(l.head_at - l.slots_at) / l.block_bytes,
          (l.head_at + copy_bytes(l) - l.slots_at + l.block_bytes - 1) /
              l.block_bytes};
}

// How many numbers below end are slots.
std::uint64_t slots_below(std::uint64_t end, const Hole& hole) {
  if (end <= hole.first) return end;
  return end - std::min(end, hole.end) + hole.first;
}

// The most slots for which fits() is true, which it is up to some number.
template <class Fits>
std::uint64_t most_slots(std::uint64_t limit, Fits&& fits) {
  std::uint64_t low = 0;
  std::uint64_t high = limit + 1;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

std::uint64_t bytes_needed(const Layout& l) {
  return 2 * (kSuperblockPlaceBytes + copy_bytes(l)) + l.slots * l.block_bytes;
}

}  // namespace

const char* copy_name(CopyIndex copy) {
  return copy == CopyIndex::head ? "head copy" : "tail copy";
}

std::uint64_t Layout::entry_capacity() const {
  return (checkpoint_bytes - block_bytes) / kEntryBytes;
}

std::size_t Layout::entries_per_record() const {
  return (block_bytes - kRecordHeaderBytes) / kEntryBytes;
}

DeviceOffset superblock_place(std::uint64_t spare_bytes, CopyIndex copy) {
  if (copy == CopyIndex::head) return DeviceOffset{0};
  return DeviceOffset{round_down(spare_bytes, kSuperblockPlaceBytes) -
                      kSuperblockPlaceBytes};
}

DeviceOffset Layout::superblock(CopyIndex copy) const {
  return superblock_place(spare_bytes, copy);
}

DeviceOffset Layout::checkpoint(CopyIndex copy, unsigned area) const {
  const std::uint64_t base =
      copy == CopyIndex::head
          ? head_at
          : superblock_place(spare_bytes, copy).value - copy_bytes(*this);
  return DeviceOffset{base + area * checkpoint_bytes};
}

DeviceOffset Layout::record(CopyIndex copy, std::uint64_t position) const {
  return DeviceOffset{checkpoint(copy, 2).value + position * block_bytes};
}

DeviceOffset Layout::slot(SlotNo slot) const {
  return DeviceOffset{slots_at + slot.value * block_bytes};
}

std::uint64_t Layout::slot_end() const {
  const Hole hole = hole_of(*this);
  return slots <= hole.first ? slots : slots + (hole.end - hole.first);
}

bool Layout::has_slot(SlotNo slot) const {
  const Hole hole = hole_of(*this);
  return slot.value < slot_end() &&
         (slot.value < hole.first || slot.value >= hole.end);
}

std::optional<Layout> compute_layout(std::uint64_t spare_bytes,
                                     std::uint32_t block_bytes) {
  if (spare_bytes > kMaxSpareBytes) return std::nullopt;
  const std::uint64_t usable = round_down(spare_bytes, kSuperblockPlaceBytes);
  const std::uint64_t slots =
      most_slots(usable / block_bytes, [&](std::uint64_t n) {
        return bytes_needed(layout_for(spare_bytes, block_bytes, n)) <= usable;
      });
  if (slots == 0) return std::nullopt;
  return layout_for(spare_bytes, block_bytes, slots);
}

std::optional<Layout> compute_layout(std::uint64_t spare_bytes,
                                     std::uint32_t block_bytes,
                                     std::uint64_t slots_at,
                                     std::uint64_t head_at) {
  if (slots_at % block_bytes != 0 || head_at % kSuperblockPlaceBytes != 0 ||
      slots_at <= kSuperblockPlaceBytes || head_at <= slots_at ||
      head_at >= spare_bytes || spare_bytes > kMaxSpareBytes)
    return std::nullopt;
  const auto with = [&](std::uint64_t slots) {
    Layout l = layout_for(spare_bytes, block_bytes, slots);
    l.head_at = head_at;
    l.slots_at = slots_at;
    return l;
  };
  const std::uint64_t end =
      superblock_place(spare_bytes, CopyIndex::tail).value;
  const std::uint64_t slots =
      most_slots(spare_bytes / block_bytes, [&](std::uint64_t n) {
        const Layout l = with(n);
        const std::uint64_t copy = copy_bytes(l);
        return head_at + 2 * copy <= end &&
               slots_below((end - copy - slots_at) / block_bytes, hole_of(l)) >=
                   n;
      });
  if (slots == 0) return std::nullopt;
  return with(slots);
}

// The head copy stands one superblock place behind the area, as if SPARE had
// been enlarged before it was used: so every build that knows enlarged ones
// finds all that it needs.
std::optional<Layout> fresh_layout(std::uint64_t spare_bytes,
                                   std::uint32_t block_bytes) {
  if (spare_bytes < kLeastBytesWithStateArea)
    return compute_layout(spare_bytes, block_bytes);
  const std::uint64_t slots_at = kSuperblockPlaceBytes + kStateAreaBytes;
  auto layout = compute_layout(spare_bytes, block_bytes, slots_at,
                               slots_at + kSuperblockPlaceBytes);
  if (layout) layout->state_at = kSuperblockPlaceBytes;
  return layout;
}

bool state_area_fits(const Layout& l) {
  return l.state_at >= kSuperblockPlaceBytes &&
         l.state_at % kSuperblockPlaceBytes == 0 && l.grown() &&
         l.state_at <= l.slots_at && l.slots_at - l.state_at >= kStateAreaBytes;
}

bool is_possible(const Layout& l) {
  if (!is_power_of_two(l.block_bytes) || l.block_bytes < kMinBlockBytes ||
      l.block_bytes > kMaxBlockBytes || l.spare_bytes > kMaxSpareBytes ||
      l.spare_bytes < 2 * kSuperblockPlaceBytes)
    return false;
  if (l.state_at != 0 && !state_area_fits(l)) return false;
  auto layout = l.grown() ? compute_layout(l.spare_bytes, l.block_bytes,
                                           l.slots_at, l.head_at)
                          : compute_layout(l.spare_bytes, l.block_bytes);
  if (layout) layout->state_at = l.state_at;
  return layout == l;
}

std::optional<Layout> grow_layout(const Layout& old,
                                  std::uint64_t spare_bytes) {
  if (spare_bytes <= old.spare_bytes) return std::nullopt;
  auto grown = compute_layout(spare_bytes, old.block_bytes, old.slots_at,
                              round_up(old.spare_bytes, kSuperblockPlaceBytes));
  if (!grown || grown->slots <= old.slots) return std::nullopt;
  grown->state_at = old.state_at;
  return grown;
}

std::uint64_t least_grown_bytes(const Layout& old) {
  std::uint64_t low = old.spare_bytes;
  std::uint64_t high = 2 * old.spare_bytes + bytes_needed(old);
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (grow_layout(old, middle) ? high : low) = middle;
  }
  return high;
}

std::uint64_t spare_bytes_for(std::uint64_t slots, std::uint32_t block_bytes) {
  return round_up(bytes_needed(layout_for(0, block_bytes, slots)),
                  kSuperblockPlaceBytes);
}

std::uint64_t fresh_bytes_for(std::uint64_t slots, std::uint32_t block_bytes) {
  std::uint64_t bytes = spare_bytes_for(slots, block_bytes);
  while (bytes <= kMaxSpareBytes &&
         fresh_layout(bytes, block_bytes).value_or(Layout{}).slots < slots)
    bytes += kSuperblockPlaceBytes;
  return bytes;
}

}  // namespace nbd_remap
