// SPDX-License-Identifier: BSD-3-Clause
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "plugins/volume/healer.hpp"

namespace nbd_remap {
namespace {

// Slots tried for one batch before the request gives up; each is retired.
constexpr std::size_t kMaxBadSlots = 32;

// The sectors of a block that [from, to) touches.
std::uint64_t touched(std::uint64_t start, std::uint64_t block_bytes,
                      std::uint64_t from, std::uint64_t to) {
  return sector_masks(start, static_cast<std::uint32_t>(block_bytes), from, to)
      .touched;
}

}  // namespace

Status Healer::write(VolumeOffset offset, ConstBytes data,
                     Durability durability) {
  Batch batch;
  const std::uint64_t end = offset.value + data.size();
  auto part_of_data = [&](std::uint64_t from, std::uint64_t to) {
    return data.subspan(from - offset.value, to - from);
  };
  for (std::uint64_t at = offset.value; at < end;) {
    const auto entry = store_.table().find_first(
        BlockNo{at / block_bytes_}, BlockNo{(end - 1) / block_bytes_ + 1});
    const std::uint64_t clean_end =
        entry ? std::max(at, entry->block.value * block_bytes_) : end;
    if (clean_end > at) {
      Status status =
          write_clean(at, clean_end, part_of_data(at, clean_end), batch);
      if (!status) return status;
    }
    if (!entry) break;
    const std::uint64_t block_end =
        std::min(end, (entry->block.value + 1) * block_bytes_);
    Status status = write_block(make_part(*entry, clean_end, block_end,
                                          part_of_data(clean_end, block_end)),
                                batch);
    if (!status) return status;
    at = block_end;
  }
  if (Status status = place(batch); !status) return status;
  if (batch.placed != 0) ++stats_.healed_writes;
  if (durability == Durability::cached) return {};
  // A disk that the request did not need may be dead.
  Status status;
  if (batch.on_main) status = main_.flush();
  if (status && batch.on_spare) status = spare_.flush();
  return status;
}

Healer::Part Healer::make_part(const RemapEntry& entry, std::uint64_t from,
                               std::uint64_t to, ConstBytes data) const {
  Part part;
  part.entry = entry;
  part.start = entry.block.value * block_bytes_;
  part.from = from;
  part.to = to;
  part.data = data;
  part.sectors = sector_masks(
      part.start, static_cast<std::uint32_t>(block_bytes_), from, to);
  return part;
}

// Blocks at the ends that MAIN cannot take without read-modify-write are done
// by themselves, what lies between in one go.
Status Healer::write_clean(std::uint64_t from, std::uint64_t to,
                           ConstBytes data, Batch& batch) {
  const std::uint64_t logical = main_.info().logical_block_bytes;
  const std::uint64_t base = from;
  auto by_itself = [&](std::uint64_t a, std::uint64_t b) {
    return write_block(make_part(entry_of(BlockNo{a / block_bytes_}), a, b,
                                 data.subspan(a - base, b - a)),
                       batch);
  };
  if (from % logical != 0 || to - from < logical) {
    const std::uint64_t head_end =
        std::min(to, round_down(from, block_bytes_) + block_bytes_);
    if (Status status = by_itself(from, head_end); !status) return status;
    from = head_end;
  }
  if (from == to) return {};
  std::uint64_t middle_end = to;
  if (to % logical != 0)
    middle_end = std::max(from, round_down(to - 1, block_bytes_));
  if (middle_end > from) {
    Status status =
        halve_write(from, data.subspan(from - base, middle_end - from), batch);
    if (!status) return status;
  }
  return middle_end < to ? by_itself(middle_end, to) : Status();
}

// REQUIRES: clean blocks, aligned to MAIN's logical blocks.
Status Healer::halve_write(std::uint64_t from, ConstBytes data, Batch& batch) {
  if (Status answers = main_answers(); !answers) return answers;
  Status status = main_.write(DeviceOffset{from}, data, Durability::cached);
  if (status) batch.on_main = true;
  if (status || status.error().error_class != ErrorClass::medium) return status;
  const std::uint64_t first = from / block_bytes_;
  const std::uint64_t last = (from + data.size() - 1) / block_bytes_;
  if (first == last) {
    if (Status answers = main_failed(BlockNo{first}); !answers) return answers;
    Part part =
        make_part(entry_of(BlockNo{first}), from, from + data.size(), data);
    part.errnum = status.error().errnum;
    return to_slot(part, false, batch);
  }
  const std::uint64_t middle = (first + last + 1) / 2 * block_bytes_ - from;
  status = halve_write(from, data.first(middle), batch);
  if (!status) return status;
  return halve_write(from + middle, data.subspan(middle), batch);
}

Status Healer::write_block(Part part, Batch& batch) {
  bool bad = false;
  if (part.entry.remapped()) {
    Status status = write_in_slot(part, bad);
    if (status && !bad) batch.on_spare = true;
    return bad ? to_slot(part, true, batch) : status;
  }
  if (Status answers = main_answers(); !answers) return answers;
  const bool pending = part.entry.valid != store_.all_valid();
  if (!pending || options_.on_pending_write == PendingWrite::main_first) {
    Status status = write_on_main(part, bad);
    if (status && !bad) batch.on_main = true;
    if (!bad) return status;
    if (Status answers = main_failed(part.entry.block); !answers)
      return answers;
  } else {
    part.why = "a write came while sectors could not be read";
  }
  return to_slot(part, false, batch);
}

// bad: MAIN cannot hold it. A sector that was unreadable counts as cured only
// once it has been written durably and read back (C5).
Status Healer::write_on_main(Part& part, bool& bad) {
  const std::uint64_t logical = main_.info().logical_block_bytes;
  const std::uint64_t from = round_down(part.from, logical);
  const std::uint64_t to = round_up(part.to, logical);
  const std::uint64_t written = touched(part.start, block_bytes_, from, to);
  if (Status status = compose(part, from, to); !status) return status;
  if (written & ~part.known) {
    bad = true;
    part.why = "sectors beside a write could not be read";
    part.errnum = EIO;
    return {};
  }
  const Bytes bytes =
      part.content.bytes().subspan(from - part.start, to - from);
  const bool cures = (written & ~part.entry.valid) != 0;
  Status status = main_.write(DeviceOffset{from}, bytes,
                              cures ? Durability::fua : Durability::cached);
  if (status && !cures) return status;
  if (status) status = same_on(main_, DeviceOffset{from}, bytes);
  if (!status) {
    bad = status.error().error_class == ErrorClass::medium;
    part.errnum = status.error().errnum;
    return status;
  }
  RemapEntry entry = part.entry;
  entry.valid |= written;
  if (status = store_.commit({entry}); !status) return status;
  if (entry.valid == store_.all_valid())
    tell(MapEvent::What::readable, entry, "a write cured it", 0);
  return {};
}

// bad: the slot cannot hold it.
Status Healer::write_in_slot(Part& part, bool& bad) {
  const std::uint64_t logical = spare_.info().logical_block_bytes;
  const std::uint64_t slot = layout_.slot(part.entry.slot()).value;
  const std::uint64_t from = round_down(part.from, logical);
  const std::uint64_t to = round_up(part.to, logical);
  if (Status status = compose(part, from, to); !status) return status;
  const std::uint64_t written = touched(part.start, block_bytes_, from, to);
  if (written & part.entry.valid & ~part.known) {
    bad = true;  // a sector beside the part can no longer be read
    part.errnum = EIO;
    return {};
  }
  Status status =
      spare_.write(DeviceOffset{slot + (from - part.start)},
                   part.content.bytes().subspan(from - part.start, to - from),
                   Durability::cached);
  if (!status) {
    bad = status.error().error_class == ErrorClass::medium;
    part.errnum = status.error().errnum;
    return status;
  }
  RemapEntry entry = part.entry;
  entry.valid |= part.sectors.covered;
  if (entry.valid == part.entry.valid) return {};
  if (status = spare_.flush(); !status) return status;
  return store_.commit({entry});
}

// An error if the part covers only some bytes of a sector whose rest cannot be
// read: nothing is invented.
Status Healer::compose(Part& part, std::uint64_t from, std::uint64_t to) {
  if (part.content.size() == 0) part.content = AlignedBuffer(block_bytes_);
  const std::uint64_t wanted = touched(part.start, block_bytes_, from, to) &
                               ~part.sectors.covered & part.entry.valid &
                               ~part.known;
  if (Status status = read_sectors(part, wanted); !status) return status;
  const std::uint64_t partial = part.sectors.touched & ~part.sectors.covered;
  if (partial & ~part.known)
    return make_error(
        EIO, fmt::format("bytes {} to {} are part of a sector that cannot be "
                         "read; write the whole sector",
                         part.from, part.to));
  std::copy(part.data.begin(), part.data.end(),
            part.content.data() + (part.from - part.start));
  part.known |= part.sectors.covered;
  return {};
}

// Into content and known, as far as they can be read.
Status Healer::read_sectors(Part& part, std::uint64_t wanted) {
  Disk& disk = part.entry.remapped() ? spare_ : main_;
  const std::uint64_t base = part.entry.remapped()
                                 ? layout_.slot(part.entry.slot()).value
                                 : part.start;
  const std::uint64_t end = std::min(block_bytes_, main_.size() - part.start);
  auto bit = [](std::uint64_t s) { return std::uint64_t{1} << s; };
  const std::uint64_t sectors = block_bytes_ / kSectorBytes;
  for (std::uint64_t s = 0; s < sectors;) {
    if (!(wanted & bit(s))) {
      ++s;
      continue;
    }
    if (s * kSectorBytes >= end) {  // beyond the end of the volume
      part.known |= bit(s++);
      continue;
    }
    std::uint64_t run = 1;
    while (s + run < sectors && (s + run) * kSectorBytes < end &&
           (wanted & bit(s + run)))
      ++run;
    Search search{*this, part.start + s * kSectorBytes, false, {}, {}};
    Status status = search.run(
        disk, DeviceOffset{base + s * kSectorBytes},
        part.content.bytes().subspan(s * kSectorBytes, run * kSectorBytes));
    if (!status) return status;
    for (std::uint64_t i = s; i < s + run; ++i)
      if (!search.is_bad(part.start / kSectorBytes + i)) part.known |= bit(i);
    s += run;
  }
  return {};
}

// The whole block, as it will be in its slot.
Status Healer::to_slot(Part& part, bool slot_failed, Batch& batch) {
  Status status = compose(part, part.start, part.start + block_bytes_);
  if (!status) return status;
  Item item;
  item.entry.block = part.entry.block;
  item.entry.valid = part.known;
  item.content = std::move(part.content);
  item.why = slot_failed ? "its slot failed" : part.why;
  item.errnum = part.errnum;
  if (slot_failed) item.bad_slot = part.entry.slot();
  batch.items.push_back(std::move(item));
  // Each item may also retire a slot.
  return batch.items.size() * 2 + kMaxBadSlots >= store_.max_entries()
             ? place(batch)
             : Status();
}

Status Healer::place(Batch& batch) {
  std::vector<Item>& items = batch.items;
  if (items.empty()) return {};
  std::vector<SlotNo> retire;  // those that refused their content
  std::vector<RemapEntry> entries;
  std::vector<SlotNo> leave;  // and those that blocks of the batch leave
  Status status;
  try {
    status = fill_slots(batch, retire);
    if (status) status = spare_.flush();
    leave = retire;
    for (const Item& item : items) {
      entries.push_back(item.entry);
      if (item.bad_slot) leave.push_back(*item.bad_slot);
    }
  } catch (const std::bad_alloc&) {
    status = make_error(ENOMEM, "spare: slot");
  }
  if (!status) {
    for (const Item& item : items)
      if (item.entry.remapped()) store_.give_back(item.entry.slot());
    if (retire.empty()) return status;
    stats_.slots_retired += retire.size();
    // The request fails for its own reason, whatever this answers.
    if (const Status retired = store_.commit({}, retire); !retired)
      log_(LogLevel::error, retired.error().text());
    return status;
  }
  status = commit_place(entries, leave);
  if (!status) return status;
  batch.placed += items.size();
  stats_.healed_blocks += items.size();
  stats_.slots_retired += leave.size();
  for (const Item& item : items) {
    RemapEntry left = item.entry;
    if (item.bad_slot) {
      left.slot_or_none = item.bad_slot->value;
      tell(MapEvent::What::slot_retired, left, item.why, item.errnum);
    }
    tell(MapEvent::What::remapped, item.entry, item.why, item.errnum);
    log_(LogLevel::info,
         fmt::format("block {} is remapped to slot {}", item.entry.block.value,
                     item.entry.slot_or_none));
  }
  items.clear();
  return {};
}

// A slot that is free again unless it was kept: nothing that fails on the way,
// memory included, may cost SPARE a slot.
class Healer::Taken {
 public:
  explicit Taken(RemapStore& store) : store_(store), slot_(store.take_slot()) {}
  ~Taken() {
    if (slot_) store_.give_back(*slot_);
  }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;
  explicit operator bool() const { return slot_.has_value(); }
  SlotNo operator*() const { return *slot_; }
  void keep() { slot_.reset(); }

 private:
  RemapStore& store_;
  std::optional<SlotNo> slot_;
};

// A slot for each item, with its content. A slot that refuses it is failed.
Status Healer::fill_slots(Batch& batch, std::vector<SlotNo>& failed) {
  for (Item& item : batch.items) {
    while (!item.entry.remapped()) {
      Taken slot(store_);
      if (!slot)
        return make_error(ErrorClass::full, EIO,
                          "spare: full, no slot is free");
      Status status = fill_slot(*slot, item.content.bytes(), batch.verified);
      if (status) {
        item.entry.slot_or_none = (*slot).value;
        slot.keep();
        break;
      }
      if (status.error().error_class != ErrorClass::medium) return status;
      failed.push_back(*slot);
      const SlotNo bad = *slot;
      slot.keep();
      RemapEntry not_there = item.entry;
      not_there.slot_or_none = bad.value;
      tell(MapEvent::What::slot_retired, not_there, "a write to it failed",
           status.error().errnum);
      log_(LogLevel::warning, fmt::format("slot {} fails and is retired: {}",
                                          bad.value, status.error().text()));
      if (failed.size() >= kMaxBadSlots) return status;
    }
  }
  return {};
}

Status Healer::fill_slot(SlotNo slot, ConstBytes content, bool verified) {
  const DeviceOffset at = layout_.slot(slot);
  Status status = spare_.write(at, content,
                               verified ? Durability::fua : Durability::cached);
  return status && verified ? same_on(spare_, at, content) : status;
}

}  // namespace nbd_remap
