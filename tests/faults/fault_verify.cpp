// SPDX-License-Identifier: BSD-3-Clause
// FaultWorld: what faults excuse, how a server ends, and what must be true of
// what it leaves.
#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <set>
#include <stdexcept>

#include "plugins/remap/remap_grow.hpp"
#include "plugins/remap/spare_restore.hpp"
#include "tests/faults/fault_world.hpp"

namespace nbd_remap {
namespace {

std::uint64_t failed_flushes(const FaultyBackend& disk) {
  const auto trace = disk.trace();
  return static_cast<std::uint64_t>(
      std::count_if(trace.begin(), trace.end(), [](const Operation& op) {
        return op.op == FaultOp::flush && op.injected != 0;
      }));
}

}  // namespace

std::uint64_t FaultWorld::fired() const {
  return main.fired() + spare.fired() + AllocFault::fired();
}

bool FaultWorld::has_excuse(const Status& status, std::uint64_t offset,
                            std::uint64_t length) const {
  // Since it did not grow, its size is wrong and its new end is not there.
  if (not_grown_ && status.error().error_class == ErrorClass::caller)
    return true;
  if (!volume) return !formatted_;
  const VolumeStatus now = volume->status();
  const SlotPool::Counts& slots = now.store.slots;
  return now.breaker_open || now.main.in_doubt || now.spare.in_doubt ||
         !now.store.failed.empty() ||
         (status.error().error_class == ErrorClass::full &&
          slots.slots - slots.used - slots.retired < kBlocks) ||
         (length != 0 && model_.may_fail(offset, length, model_.time()));
}

// A medium error that a disk gave is as good as a bad sector.
void FaultWorld::note_faults(const std::vector<RemapEntry>& before) {
  main_flushes_ += failed_flushes(main);
  spare_flushes_ += failed_flushes(spare);
  if (volume) {
    const VolumeStatus now = volume->status();
    if ((main_flushes_ != 0 && !now.main.in_doubt) ||
        (spare_flushes_ != 0 && !now.spare.in_doubt))
      violate("a flush failed, and nothing is in doubt");
  }
  const auto is_bad_read = [](const Operation& op) {
    return op.op == FaultOp::read && op.injected == EIO;
  };
  for (const Operation& op : main.trace())
    if (is_bad_read(op))
      for (std::uint64_t s = op.offset / kSectorBytes;
           s * kSectorBytes < op.offset + op.length; ++s)
        if (s * kSectorBytes < kGrownBytes) model_.spoil(s, true, false);
  for (const Operation& op : spare.trace())
    if (is_bad_read(op)) {
      note_slot_fault(op, before);
      note_slot_fault(op, entries());
    }
  main.clear_trace();
  spare.clear_trace();
}

void FaultWorld::note_slot_fault(const Operation& op,
                                 const std::vector<RemapEntry>& entries) {
  for (const RemapEntry& e : entries) {
    if (!e.remapped()) continue;
    const std::uint64_t slot = layout_.slot(e.slot()).value;
    for (std::uint64_t s = 0; s < kBlockBytes / kSectorBytes; ++s) {
      const std::uint64_t at = slot + s * kSectorBytes;
      const std::uint64_t mine = e.block.value * 8 + s;
      if (at >= op.offset && at < op.offset + op.length &&
          mine * kSectorBytes < kGrownBytes)
        model_.spoil(mine, false, false);
    }
  }
}

void FaultWorld::end(End how, std::uint64_t seed) {
  AllocFault::set(AllocFault::kNever, false);
  volume.reset();
  for (FaultyBackend* disk : {&main, &spare}) {
    disk->remove_all();
    disk->set_hook({});
    disk->clear_trace();
  }
  power.off = false;
  power.cut_at.reset();
  power.before_call = {};
  expected_ = nullptr;
  if (how == End::killed) {
    main_disk.survive();
    spare_disk.survive();
    return;
  }
  std::mt19937_64 random(seed);
  const auto choose = [&](std::uint64_t, std::size_t n) -> std::size_t {
    if (how == End::lost) return 0;
    return how == End::kept ? n : random() % (n + 1);
  };
  main_disk.crash(choose);
  spare_disk.crash(choose);
  model_.crash();
  crashed_ = true;
}

// What an owner does after a tool was cut: the same again.
void FaultWorld::make_startable() {
  main_disk.opened();
  spare_disk.opened();
  const LogSink log = [](LogLevel, std::string_view) {};
  auto survey = survey_metadata(spare, SpareSize::or_enlarged);
  if (saved_ && !formatted_) {
    if (!survey || !survey->best) restore_map();
    survey = survey_metadata(spare, SpareSize::or_enlarged);
  } else if (!formatted_) {
    if (survey) uuid_ = survey->superblock.uuid;
    if (!survey || !survey->best) format(survey.ok());
    survey = survey_metadata(spare, SpareSize::or_enlarged);
  }
  if (!survey) return violate("no superblock: " + survey.error().text());
  if (survey->superblock.layout.spare_bytes < spare.info().size_bytes)
    if (auto grown = nbd_remap::grow_spare(spare, log); !grown)
      return violate("SPARE does not grow: " + grown.error().text());
  if (survey->superblock.main_bytes < main.info().size_bytes)
    if (auto grown = nbd_remap::grow_main(main, spare, log); !grown)
      return violate("MAIN does not grow: " + grown.error().text());
}

void FaultWorld::verify() {
  if (!violation_.empty()) return;
  make_startable();
  if (!violation_.empty()) return;
  if (Status status = open(); !status)
    return violate("it does not start: " + status.error().text());
  layout_ = volume->status().store.superblock.layout;
  look();
  check_map();
  volume.reset();
}

void FaultWorld::look() {
  std::vector<std::byte> data(kBlockBytes);
  const std::uint64_t size = volume->size();
  for (std::uint64_t at = 0; at < size; at += kBlockBytes) {
    const Bytes all = Bytes(data).first(std::min(kBlockBytes, size - at));
    if (volume->read(VolumeOffset{at}, all)) {
      compare_sector(at, {}, all);
      continue;
    }
    for (std::uint64_t s = 0; s < all.size(); s += kSectorBytes) {
      const Bytes one = all.first(kSectorBytes);
      const Status status = volume->read(VolumeOffset{at + s}, one);
      compare_sector(at + s, status, one);
    }
  }
}

void FaultWorld::compare_sector(std::uint64_t offset, const Status& status,
                                ConstBytes data) {
  if (!status) {
    if (!model_.may_fail(offset, kSectorBytes, model_.now()))
      violate(fmt::format("sector {} cannot be read for no reason: {}",
                          offset / kSectorBytes, status.error().text()));
    return;
  }
  for (std::size_t done = 0; done < data.size(); done += kSectorBytes) {
    const ConstBytes one = data.subspan(done, kSectorBytes);
    const std::string wrong =
        crashed_ ? model_.settle((offset + done) / kSectorBytes, one)
                 : model_.check_read(offset + done, one, model_.now());
    if (!wrong.empty())
      violate((crashed_ ? "after the cut: " : "after the end: ") + wrong);
  }
}

void FaultWorld::check_map() {
  const VolumeStatus now = volume->status();
  if (!now.store.failed.empty())
    return violate("after the start: " + now.store.failed);
  if (now.store.slots.retired < retired_)
    violate("a retired slot is forgotten");
  const auto survey = survey_metadata(spare);
  if (!survey || !survey->best) return violate("no copy can be believed");
  const bool bad_copy = survey->superblock.copies_in_step != 3;
  if (!bad_copy && !survey->copies_agree())
    violate("after the start the copies do not agree");
  if (bad_copy && spare_disk.fired().writes == 0)
    violate("a copy is out of step, and the disk is good");
  for (const CopySurvey& copy : survey->copies)
    if (!bad_copy && !copy.sound())
      violate("after the start: " + copy.damages.front());
  std::set<std::uint64_t> slots;
  for (const RemapEntry& e : survey->chosen().state.entries)
    if (e.remapped() && !slots.insert(e.slot_or_none).second)
      violate("two blocks in one slot");
  for (const SlotNo slot : survey->chosen().state.retired)
    if (slots.count(slot.value) != 0) violate("a retired slot is used");
}

}  // namespace nbd_remap
