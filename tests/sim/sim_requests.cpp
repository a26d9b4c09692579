// SPDX-License-Identifier: BSD-3-Clause
#include <fmt/format.h>

#include <algorithm>

#include "plugins/base/crc32c.hpp"
#include "tests/sim/sim_run.hpp"

namespace nbd_remap {
namespace {

std::uint64_t blocks_of(const SimOp& op) {
  return (op.offset + op.length - 1) / kSimBlockBytes -
         op.offset / kSimBlockBytes + 1;
}

}  // namespace

void SimRun::client() {
  while (going() && next_ < segment_end_) {
    const SimOp& op = round_->ops[next_++];
    Fibers::yield();
    const bool request = op.request();
    if (request) {
      ++stats_.requests;
      running_ += blocks_of(op);
      running_most_ = std::max(running_most_, running_);
    }
    tell(describe(op));
    perform(op);
    if (request) running_ -= blocks_of(op);
  }
}

void SimRun::perform(const SimOp& op) {
  switch (op.kind) {
    case Kind::read:
      return read(op);
    case Kind::write:
    case Kind::zero:
    case Kind::trim:
      return change(op);
    case Kind::flush:
      return flush();
    case Kind::extents:
      return extents(op);
    case Kind::cache:
      (void)volume_->cache(place(op.offset), op.length).ok();
      return;
    case Kind::remap:
      return move(op, MapAction::remap);
    case Kind::unmap:
      return move(op, MapAction::unmap);
    case Kind::retest:
      return move(op, MapAction::retest);
    case Kind::check:
      return move(op, MapAction::check);
    case Kind::clear:
      return clear(op);
    case Kind::scan:
      return scan(op);
    case Kind::replace:
    case Kind::abort_replace:
      return replace(op);
    case Kind::grow_spare:
      return grow_spare(op);
    default:
      return spoil(op);
  }
}

void SimRun::told(const SimOp& op, const Status& status) {
  power_.note(op.offset << 20 ^ op.length << 1 ^ status.ok());
  tell(status ? "done" : status.error().text());
  if (!status && !power_.off) ++stats_.refused;
}

void SimRun::read(const SimOp& op) {
  std::vector<std::byte> data(op.length, std::byte{0xee});
  const Time begun = model_.now();
  const Status status = volume_->read(place(op.offset), data);
  told(op, status);
  if (status) {
    power_.note(crc32c(data));
    violate(prefix("read: ", model_.check_read(op.offset, data, begun)));
  } else if (!power_.off && !model_.may_fail(op.offset, op.length, begun) &&
             !volume_->status().breaker_open) {
    violate("read: fails, and no sector was bad: " + status.error().text());
  }
}

void SimRun::change(const SimOp& op) {
  const bool write = op.kind == Kind::write;
  const SectorModel::Tag tag = write ? ++tag_ : SectorModel::kZeroes;
  const Durability durability = op.flag ? Durability::fua : Durability::cached;
  const VolumeOffset at = place(op.offset);
  std::vector<std::byte> data(write ? op.length : 0);
  SectorModel::fill(tag, op.offset, data);
  const Time begun = model_.begin_write(op.offset, op.length, tag);
  Status status;
  if (write)
    status = volume_->write(at, data, durability);
  else if (op.kind == Kind::zero)
    status = volume_->zero(
        at, op.length,
        op.offset % 3 == 0 ? ZeroMode::keep_allocated : ZeroMode::may_punch,
        durability);
  else
    status = volume_->trim(at, op.length, durability);
  const bool content = op.kind != Kind::trim;
  const bool torn_sector = model_.may_fail(op.offset, 1, begun) ||
                           model_.may_fail(op.offset + op.length - 1, 1, begun);
  model_.end_write(begun, status.ok() && content, op.flag);
  told(op, status);
  const bool partial = op.offset % kSectorBytes != 0 ||
                       (op.offset + op.length) % kSectorBytes != 0;
  if (!status && !(partial && torn_sector)) excuse_change(status, begun);
}

void SimRun::flush() {
  const bool doubt = in_doubt();
  const Time begun = model_.now();
  const Status status = volume_->flush();
  told(SimOp{Kind::flush, 0, 0, false}, status);
  if (status && doubt) violate("flush: succeeds after one that failed");
  if (status)
    model_.flushed(begun);
  else if (!power_.off && !in_doubt())
    violate("flush: fails for no reason: " + status.error().text());
}

void SimRun::extents(const SimOp& op) {
  const Time begun = model_.now();
  const auto found = volume_->extent(place(op.offset), op.length);
  if (!found) {
    if (!power_.off) violate("extents: " + found.error().text());
    return;
  }
  const std::uint64_t end = op.offset + found->length;
  for (std::uint64_t s = op.offset / kSectorBytes;
       (found->hole || found->zeroes) && s * kSectorBytes < end; ++s)
    if (!model_.may_be_zero(s, begun))
      violate(fmt::format("extents: sector {} is no hole", s));
  if (found->length == 0 || found->length > op.length)
    violate("extents: none, or beyond what was asked for");
}

void SimRun::move(const SimOp& op, MapAction action) {
  const Time begun = model_.now();
  const MapStep step = volume_->map_step(action, place(op.offset), op.length,
                                         std::chrono::milliseconds(60'000));
  told(op, step.status);
  stats_.moved += step.counts.remapped + step.counts.unmapped;
  if (!step.status) excuse_change(step.status, begun);
}

void SimRun::clear(const SimOp& op) {
  std::vector<Time> begun;
  const Time from = model_.now();
  const std::uint64_t end = op.offset + op.length;
  for (std::uint64_t at = op.offset; at < end; at += kSectorBytes)
    if (model_.may_fail(at, kSectorBytes, from))
      begun.push_back(
          model_.begin_write(at, kSectorBytes, SectorModel::kZeroes));
  ++clears_;
  move(op, MapAction::clear);
  --clears_;
  for (Time one : begun) model_.end_write(one, false, false);
}

void SimRun::spoil(const SimOp& op) {
  if (clears_ != 0) return;  // it would not know what it may zero
  const std::uint64_t first = op.offset / kSectorBytes;
  const std::uint64_t there = sim_place(op.offset) / kSectorBytes;
  for (std::uint64_t i = 0; i < op.length / kSectorBytes; ++i) {
    const std::uint64_t s = there + i;
    if (op.kind == Kind::mend) {
      main().mend(s);
      continue;
    }
    if (op.kind == Kind::bad_other) {
      other().spoil(s, SimDisk::kWrites);
      continue;
    }
    const bool later = op.kind == Kind::bad_read_later;
    if (op.kind == Kind::bad_write) {
      main().spoil(s, SimDisk::kWrites);
      continue;
    }
    main().spoil(s, later ? SimDisk::kReadsLater : SimDisk::kReads);
    model_.spoil(first + i, true, later);
  }
}

void SimRun::alone(const SimOp& op) {
  if (!volume_->status().store.failed.empty()) return;
  const Layout layout = volume_->status().store.superblock.layout;
  SlotNo slot{op.offset % layout.slots};
  // Of an enlarged SPARE some numbers are where its head copy is.
  while (!layout.has_slot(slot)) slot.value = (slot.value + 1) % layout.slots;
  switch (op.kind) {
    case Kind::trouble:
      // Longer than a client's read is patient with.
      if (op.flag) model_.spoil(op.offset / kSectorBytes, true, false);
      main().trouble(
          sim_place(op.offset) / kSectorBytes,
          op.flag ? static_cast<unsigned>(op.length / kSectorBytes) : 2,
          op.flag);
      break;
    case Kind::bad_slot_write:
      spare_.spoil(layout.slot(slot).value / kSectorBytes + op.length,
                   SimDisk::kWrites);
      break;
    case Kind::bad_slot_read:
      spare_.spoil(layout.slot(slot).value / kSectorBytes + op.length,
                   SimDisk::kReads);
      for (std::uint64_t block = 0; block < kSimBlocks; ++block)
        if (const auto e = entry(block); e && e->slot_or_none == slot.value)
          model_.spoil(std::min(block * kSectorsPerBlock + op.length,
                                kSimBytes / kSectorBytes - 1),
                       false, false);
      break;
    case Kind::bad_copy:
      spoil_copy(op, layout);
      break;
    case Kind::fail_flush:
      (op.flag ? spare_ : main()).fail_next_flush();
      break;
    default:
      look(false);
  }
}

std::optional<RemapEntry> SimRun::entry(std::uint64_t block) const {
  const BlockNo there{sim_place(block * kSimBlockBytes) / kSimBlockBytes};
  const auto found = volume_->entries(there, 1);
  if (found.empty() || found[0].block != there) return std::nullopt;
  return found[0];
}

void SimRun::spoil_copy(const SimOp& op, const Layout& layout) {
  const CopyIndex copy = plan_.tail_copy ? CopyIndex::tail : CopyIndex::head;
  const std::uint64_t first = layout.checkpoint(copy, 0).value / kSectorBytes;
  const std::uint64_t sectors =
      layout.record(copy, layout.log_records).value / kSectorBytes - first;
  spare_.spoil(first + op.offset / kSectorBytes % sectors,
               op.flag ? SimDisk::kReads | SimDisk::kWrites : SimDisk::kWrites);
  copy_is_bad_ = true;
}

}  // namespace nbd_remap
