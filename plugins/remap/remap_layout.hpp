#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Where things are on SPARE; nbd-remap-format(5) says the same in prose.
//
//   offset 0                                                     size of SPARE
//   | superblock | checkpoints A B | log | slots ... | A B | log | superblock |
//   \------------- head copy -----------/            \------ tail copy -------/
//
// A SPARE that was enlarged (see grow_layout) has its head copy further on:
//
//   | superblock | unused | slots ... | head copy | slots ... | tail copy |
//
// One that is formatted with room for it (see fresh_layout) is made like that
// too, with the state area (state_area.hpp) in what is unused otherwise; it
// stays there when SPARE is enlarged.
//
// Pure.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "plugins/base/units.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kSuperblockPlaceBytes = kMaxBlockBytes;
inline constexpr std::size_t kRecordHeaderBytes = 64;
inline constexpr std::size_t kEntryBytes = 24;
// The number of a slot has 56 bits.
inline constexpr std::uint64_t kMaxSpareBytes = (std::uint64_t{1} << 56) - 1;
inline constexpr std::uint64_t kStateAreaBytes = 576 << 10;
// A smaller SPARE is formatted without one: slots are what it is for.
inline constexpr std::uint64_t kLeastBytesWithStateArea = 64 << 20;

enum class CopyIndex : std::uint32_t { head = 0, tail = 1 };
inline constexpr std::array kCopies{CopyIndex::head, CopyIndex::tail};
constexpr std::uint32_t copy_bit(CopyIndex copy) {
  return 1U << static_cast<std::uint32_t>(copy);
}
constexpr CopyIndex other_copy(CopyIndex copy) {
  return copy == CopyIndex::head ? CopyIndex::tail : CopyIndex::head;
}
const char* copy_name(CopyIndex copy);

// Where everything is; a function of the sizes, and once it was enlarged of
// head_at and slots_at too. Kept in the superblock.
struct Layout {
  std::uint64_t spare_bytes = 0;
  std::uint32_t block_bytes = 0;
  std::uint64_t slots = 0;                        // how many there are
  std::uint64_t checkpoint_bytes = 0;             // header block and entries
  std::uint64_t log_records = 0;                  // each of block_bytes
  std::uint64_t head_at = kSuperblockPlaceBytes;  // of the head copy
  std::uint64_t slots_at = 0;                     // of slot 0
  std::uint64_t state_at = 0;  // of the state area; 0: there is none

  bool grown() const { return head_at != kSuperblockPlaceBytes; }
  // Slots are numbered by their place; the numbers over the head copy of a
  // SPARE that was enlarged are no slots. One past the highest number:
  std::uint64_t slot_end() const;
  bool has_slot(SlotNo slot) const;
  // Mapped and retired slots together are at most slots; the rest of the
  // capacity is for pending blocks.
  std::uint64_t entry_capacity() const;
  std::uint64_t pending_capacity() const { return entry_capacity() - slots; }
  std::size_t entries_per_record() const;
  DeviceOffset superblock(CopyIndex copy) const;
  DeviceOffset checkpoint(CopyIndex copy, unsigned area) const;
  DeviceOffset record(CopyIndex copy, std::uint64_t position) const;
  DeviceOffset slot(SlotNo slot) const;
  friend bool operator==(const Layout&, const Layout&) = default;
};

// The place of a superblock, known before anything else is.
// REQUIRES: spare_bytes >= 2 * kSuperblockPlaceBytes.
DeviceOffset superblock_place(std::uint64_t spare_bytes, CopyIndex copy);

// Empty when SPARE is too small for a single slot, or above kMaxSpareBytes.
std::optional<Layout> compute_layout(std::uint64_t spare_bytes,
                                     std::uint32_t block_bytes);
// That of an enlarged SPARE. Empty: they do not fit.
std::optional<Layout> compute_layout(std::uint64_t spare_bytes,
                                     std::uint32_t block_bytes,
                                     std::uint64_t slots_at,
                                     std::uint64_t head_at);
// What a SPARE is formatted with: with a state area if it is large enough.
std::optional<Layout> fresh_layout(std::uint64_t spare_bytes,
                                   std::uint32_t block_bytes);
// Whether a state area fits where the layout says it is.
bool state_area_fits(const Layout& layout);
// Whether the numbers of a layout follow from its sizes; takes hostile ones.
bool is_possible(const Layout& layout);
// The layout after SPARE was enlarged to spare_bytes: every slot stays where it
// is, and both copies, which must be larger now, lie in what is new, so that
// the old ones are whole until the superblocks speak of the new. Empty when
// what is new does not hold them and a slot more.
std::optional<Layout> grow_layout(const Layout& old, std::uint64_t spare_bytes);
// The least size for which grow_layout() has an answer.
std::uint64_t least_grown_bytes(const Layout& old);
// The smallest SPARE that holds so many slots, without a state area.
std::uint64_t spare_bytes_for(std::uint64_t slots, std::uint32_t block_bytes);
// The same, of one that is formatted now.
std::uint64_t fresh_bytes_for(std::uint64_t slots, std::uint32_t block_bytes);

}  // namespace nbd_remap
