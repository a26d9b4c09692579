// SPDX-License-Identifier: BSD-3-Clause
// The map's actions, block by block. What is slow on a dying disk (finding out
// which sectors can be read) comes first and without a lock; under the lock
// only what was readable then is read with patience.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "plugins/volume/healer.hpp"

namespace nbd_remap {
std::uint64_t Healer::in_volume(BlockNo block) const {
  const std::uint64_t start = block.value * block_bytes_;
  return sector_masks(start, static_cast<std::uint32_t>(block_bytes_), start,
                      std::min(start + block_bytes_, main_.size()))
      .covered;
}

Status Healer::same_on(Disk& disk, DeviceOffset at, ConstBytes expected) {
  AlignedBuffer back(expected.size());
  Status status = disk.read(at, back.bytes());
  if (status && std::memcmp(back.data(), expected.data(), expected.size()) != 0)
    status = make_error(
        EIO, fmt::format("{}: {} bytes at {} read back "
                         "different",
                         disk.info().name, expected.size(), at.value));
  return status;
}

Status Healer::probe(BlockNo first, std::uint64_t blocks) {
  if (Status answers = main_answers(); !answers) return answers;
  const std::uint64_t start = first.value * block_bytes_;
  AlignedBuffer all(std::min(blocks * block_bytes_, main_.size() - start));
  return main_.read(DeviceOffset{start}, all.bytes());
}

Result<std::uint64_t> Healer::probe_sectors(BlockNo block) {
  AlignedBuffer content(block_bytes_);
  return read_sectors(block, content.bytes());
}

Result<std::uint64_t> Healer::read_sectors(BlockNo block, Bytes content) {
  if (Status answers = main_answers(); !answers)
    return std::move(answers).error();
  RemapEntry entry;  // as if it were on MAIN, whole
  entry.block = block;
  Part part = make_part(entry, block.value * block_bytes_,
                        block.value * block_bytes_, {});
  part.content = AlignedBuffer(block_bytes_);
  if (Status status = read_sectors(part, store_.all_valid()); !status)
    return std::move(status).error();
  if (part.known != store_.all_valid())
    if (Status answers = main_failed(block); !answers)
      return std::move(answers).error();
  std::copy_n(part.content.data(), block_bytes_, content.data());
  return part.known;
}

Result<std::uint64_t> Healer::read_slot(const RemapEntry& entry,
                                        Bytes content) {
  const std::uint64_t start = entry.block.value * block_bytes_;
  Part part = make_part(entry, start, start, {});
  part.content = AlignedBuffer(block_bytes_);
  std::fill_n(part.content.data(), block_bytes_, std::byte{});
  if (Status status = read_sectors(part, entry.valid); !status)
    return std::move(status).error();
  std::copy_n(part.content.data(), block_bytes_, content.data());
  return part.known & entry.valid;
}

Status Healer::read_again(Part& part, std::uint64_t wanted,
                          std::uint64_t likely) {
  // Nothing is to be read beyond the end; a block that was remapped when it was
  // looked at has no sectors that are likely.
  part.known |= wanted & ~in_volume(part.entry.block);
  Status status = read_sectors(part, wanted & likely);
  for (std::uint64_t s = 0; status && s < block_bytes_ / kSectorBytes; ++s) {
    const std::uint64_t bit = std::uint64_t{1} << s;
    if (!(wanted & ~likely & ~part.known & bit)) continue;
    const std::uint64_t at = s * kSectorBytes;
    Status one = main_.read(DeviceOffset{part.start + at},
                            part.content.bytes().subspan(at, 512));
    if (one)
      part.known |= bit;
    else if (one.error().error_class == ErrorClass::medium)
      part.errnum = one.error().errnum;
    else
      return one;
  }
  return status;
}

Status Healer::remap(BlockNo first, std::uint64_t blocks,
                     std::uint64_t readable, MapCounts& counts,
                     std::string_view why, bool even_empty) {
  if (Status answers = main_answers(); !answers) return answers;
  Batch batch;
  batch.verified = true;
  for (BlockNo block = first; block.value < first.value + blocks;
       ++block.value) {
    RemapEntry entry = entry_of(block);
    if (entry.remapped()) {
      ++counts.already;
      continue;
    }
    const std::uint64_t start = block.value * block_bytes_;
    Part part = make_part(entry, start, start, {});
    part.content = AlignedBuffer(block_bytes_);
    if (Status status = read_again(part, store_.all_valid(), readable); !status)
      return status;
    if (part.known != store_.all_valid())
      if (Status answers = main_failed(block); !answers) return answers;
    if (even_empty || part.known & in_volume(block)) {
      Item item;
      item.entry.block = block;
      item.entry.valid = part.known;
      item.content = std::move(part.content);
      item.why = why;
      batch.items.push_back(std::move(item));
      continue;
    }
    ++counts.pending;
    if (entry.valid == part.known) continue;
    entry.valid = part.known;
    if (Status status = commit_place({entry}, {}); !status) return status;
    tell(MapEvent::What::pending, entry, why, part.errnum);
  }
  Status status = place(batch);
  counts.remapped += batch.placed;
  return status;
}

// Contract C3: write MAIN, flush, verify, durable un-map, then free the slot.
// Until the last step the slot is what counts, whatever MAIN holds.
Status Healer::unmap(BlockNo block, MapCounts& counts) {
  const RemapEntry entry = entry_of(block);
  if (!entry.remapped()) return {};
  if (entry.valid != store_.all_valid()) {
    ++counts.incomplete;
    return {};
  }
  if (Status answers = main_answers(); !answers) return answers;
  const DeviceOffset start{block.value * block_bytes_};
  AlignedBuffer content(std::min(block_bytes_, main_.size() - start.value));
  const auto is_medium = [](const Status& status) {
    return !status && status.error().error_class == ErrorClass::medium;
  };
  Status status = spare_.read(layout_.slot(entry.slot()), content.bytes());
  if (is_medium(status)) ++counts.incomplete;
  if (!status) return is_medium(status) ? Status() : status;
  status = main_.write(start, content.bytes(), Durability::cached);
  if (status) {
    // Whose writes a flush loses nobody knows: it is not this block's error.
    if (Status flushed = main_.flush(); !flushed) return flushed;
    status = same_on(main_, start, content.bytes());
  }
  if (is_medium(status)) {
    ++counts.main_bad;
    log_(LogLevel::info, fmt::format("block {} stays remapped: {}", block.value,
                                     status.error().text()));
    return main_failed(block);
  }
  if (!status) return status;
  RemapEntry clean = entry;
  clean.slot_or_none = RemapEntry::kNoSlot;
  if (status = commit_place({clean}, {}); !status) return status;
  ++counts.unmapped;
  tell(MapEvent::What::unmapped, entry, kAsked, 0);
  log_(LogLevel::info, fmt::format("block {} is back on MAIN, slot {} is free",
                                   block.value, entry.slot_or_none));
  return {};
}

Status Healer::retest(BlockNo block, bool clean_too, std::uint64_t readable,
                      MapCounts& counts, std::string_view why) {
  RemapEntry entry = entry_of(block);
  const bool pending = entry.valid != store_.all_valid();
  if (entry.remapped() || (!pending && !clean_too)) return {};
  if (Status answers = main_answers(); !answers) return answers;
  const std::uint64_t start = block.value * block_bytes_;
  Part part = make_part(entry, start, start, {});
  part.content = AlignedBuffer(block_bytes_);
  // A write may have come since the sectors were probed, either way.
  const std::uint64_t back = ~entry.valid & readable & store_.all_valid();
  const std::uint64_t gone = clean_too ? entry.valid & ~readable : 0;
  if (Status status = read_again(part, back | gone, readable); !status)
    return status;
  std::uint64_t valid = entry.valid | (part.known & back);
  if (gone & ~part.known) {
    if (Status answers = main_failed(block); !answers) return answers;
    valid &= ~(gone & ~part.known);
  }
  const bool changed = valid != entry.valid;
  entry.valid = valid;
  if (changed)
    if (Status status = commit_place({entry}, {}); !status) return status;
  if (valid != store_.all_valid()) {
    ++counts.pending;
    if (changed) tell(MapEvent::What::pending, entry, why, part.errnum);
  } else if (pending) {
    ++counts.readable;
    tell(MapEvent::What::readable, entry, why, 0);
  }
  return {};
}

Status Healer::clear(std::uint64_t from, std::uint64_t to, MapCounts& counts) {
  const BlockNo block{from / block_bytes_};
  const std::uint64_t start = block.value * block_bytes_;
  const RemapEntry entry = entry_of(block);
  const std::uint64_t missing =
      sector_masks(start, static_cast<std::uint32_t>(block_bytes_), from, to)
          .covered &
      ~entry.valid & in_volume(block);
  const AlignedBuffer zeroes(block_bytes_);
  for (std::uint64_t rest = missing; rest != 0;) {
    const auto first = static_cast<unsigned>(std::countr_zero(rest));
    const auto run = static_cast<unsigned>(std::countr_one(rest >> first));
    Status status =
        write(VolumeOffset{start + std::uint64_t{first} * kSectorBytes},
              zeroes.first(std::size_t{run} * kSectorBytes), Durability::fua);
    if (!status) return status;
    counts.cleared_sectors += run;
    rest = first + run == 64 ? 0 : rest >> (first + run) << (first + run);
  }
  const RemapEntry now = entry_of(block);
  if (missing != 0) tell(MapEvent::What::cleared, now, kAsked, 0);
  if (!now.remapped() && now.valid != store_.all_valid()) ++counts.pending;
  return {};
}

}  // namespace nbd_remap
