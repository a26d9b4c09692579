// SPDX-License-Identifier: BSD-3-Clause
// FaultWorld: the medium, the tools that no server runs beside, and what a
// scenario finds there when it begins.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "plugins/remap/fresh_map.hpp"
#include "plugins/remap/remap_grow.hpp"
#include "plugins/remap/spare_repair.hpp"
#include "plugins/remap/spare_restore.hpp"
#include "tests/faults/fault_world.hpp"
#include "tests/faults/shielded_backend.hpp"

namespace nbd_remap {
namespace {

const LogSink kNoLog = [](LogLevel, std::string_view) {};

void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().text());
}

template <class T>
Status status_of(Result<T> result) {
  return result ? Status() : Status(std::move(result).error());
}

}  // namespace

void FaultWorld::format(bool again) {
  FormatRequest request;
  request.block_bytes = kBlockBytes;
  if (again) request.replace = uuid_;
  request.uuid = uuid_;
  (*request.uuid)[0] = again ? 8 : 7;
  formatted_ = false;
  ShieldedBackend spare_side(spare);
  ShieldedBackend main_side(main);
  const Status status = ask("format", [&] {
    return status_of(format_spare(spare_side, main_side, request));
  });
  formatted_ = status.ok();
  if (status) uuid_ = *request.uuid;
}

void FaultWorld::fill_main() {
  std::vector<std::byte> data(kBytes);
  const auto tag = ++tag_;
  SectorModel::fill(tag, 0, data);
  model_.end_write(model_.begin_write(0, kBytes, tag), true, true);
  must(main_disk.write(DeviceOffset{0}, data, Durability::fua));
}

void FaultWorld::unreadable(std::uint64_t block, unsigned sector,
                            unsigned count, std::uint8_t bad) {
  for (unsigned i = 0; i < count; ++i) {
    const std::uint64_t s = block * 8 + sector + i;
    main_disk.spoil(s, bad);
    if (bad != SimDisk::kWrites)
      model_.spoil(s, true, bad == SimDisk::kReadsLater);
  }
}

void FaultWorld::refuse_writes(std::uint64_t block, std::uint64_t blocks) {
  for (std::uint64_t s = block * 8; s < (block + blocks) * 8; ++s)
    if (s < kBytes / kSectorBytes) main_disk.spoil(s, SimDisk::kWrites);
}

void FaultWorld::mend(std::uint64_t block) {
  for (std::uint64_t s = block * 8; s < block * 8 + 8; ++s)
    if (s < kBytes / kSectorBytes) main_disk.mend(s);
}

std::uint64_t FaultWorld::slot_of(std::uint64_t block) const {
  for (const RemapEntry& e : last_entries_)
    if (e.block.value == block && e.remapped()) return e.slot_or_none;
  throw std::runtime_error(fmt::format("block {} is not remapped", block));
}

// Slots are given out in turn, so long as none was given back.
std::uint64_t FaultWorld::next_slot() const {
  std::uint64_t next = 0;
  for (const RemapEntry& e : last_entries_)
    if (e.remapped()) next = std::max(next, e.slot_or_none + 1);
  return next;
}

void FaultWorld::leave_slots(std::uint64_t slots) {
  Binding binding;
  binding.main_bytes = kBytes;
  binding.main_identity = main_disk.info().identity;
  auto store = RemapStore::open(spare_disk, binding, false, kNoLog);
  if (!store) throw std::runtime_error(store.error().text());
  const SlotPool::Counts now = (*store)->status().slots;
  std::vector<SlotNo> retire;
  while (now.slots - now.used - now.retired - retire.size() > slots)
    retire.push_back((*store)->take_slot().value());
  must((*store)->commit({}, retire));
  retired_ += retire.size();
}

void FaultWorld::fill_log(std::uint64_t room) {
  const std::uint64_t records = layout_.log_records;
  bool pending = false;
  while (volume->status().store.log_length + room < records) {
    // Pending and cured again: two records.
    if (!pending) {
      unreadable(20, 0);
      read(20 * kBlockBytes, kSectorBytes);
    } else {
      write(20 * kBlockBytes, kSectorBytes);
    }
    pending = !pending;
  }
}

void FaultWorld::enlarge_spare() {
  const std::uint64_t least = least_grown_bytes(layout_);
  spare_disk.enlarge(least + 16 * kBlockBytes);
}

// What is beyond the old end has content, too.
void FaultWorld::enlarge_main() {
  main_disk.enlarge(kGrownBytes);
  std::vector<std::byte> data(kGrownBytes - kBytes);
  const auto tag = ++tag_;
  SectorModel::fill(tag, kBytes, data);
  model_.end_write(model_.begin_write(kBytes, data.size(), tag), true, true);
  // It was there before: no cut meets this.
  const Power power_before = power;
  power.cut_at.reset();
  power.before_call = {};
  must(main_disk.write(DeviceOffset{kBytes}, data, Durability::fua));
  power = power_before;
}

void FaultWorld::grow_spare_offline() {
  spare_disk.opened();
  ShieldedBackend spare_side(spare);
  const Status status = ask("grow SPARE offline", [&] {
    return status_of(nbd_remap::grow_spare(spare_side, kNoLog));
  });
}

void FaultWorld::grow_main_offline() {
  main_disk.opened();
  ShieldedBackend spare_side(spare);
  ShieldedBackend main_side(main);
  const Status status = ask("grow MAIN offline", [&] {
    return status_of(nbd_remap::grow_main(main_side, spare_side, kNoLog));
  });
}

void FaultWorld::repair() {
  ShieldedBackend spare_side(spare);
  const Status status = ask("repair", [&]() -> Status {
    const auto survey = survey_metadata(spare_side);
    if (!survey) return survey.error();
    return status_of(repair_spare(spare_side, *survey, kNoLog));
  });
}

void FaultWorld::save_map() {
  const auto survey = survey_metadata(spare_disk);
  if (!survey || !survey->best) throw std::runtime_error("no map to save");
  saved_ = std::make_shared<SavedMap>();
  saved_->name = "saved";
  saved_->superblock = survey->superblock;
  saved_->sequence = survey->chosen().last_sequence;
  saved_->state = survey->chosen().state;
  formatted_ = false;  // until it is put back
}

void FaultWorld::restore_map() {
  ShieldedBackend spare_side(spare);
  formatted_ = false;
  const Status status = ask("restore", [&]() -> Status {
    RestoreRequest request;
    request.replace = saved_->superblock.uuid;
    request.lose_newer_data = true;  // the one damaged map is the saved one
    const auto plan = plan_restore(spare_side, *saved_, request);
    if (!plan) return plan.error();
    return write_fresh_map(spare_side, plan->superblock, saved_->state);
  });
  formatted_ = status.ok();
}

}  // namespace nbd_remap
