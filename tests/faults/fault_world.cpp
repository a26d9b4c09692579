// SPDX-License-Identifier: BSD-3-Clause
// FaultWorld: what clients ask, and how a server starts and ends.
#include "tests/faults/fault_world.hpp"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>
#include <utility>

#include "plugins/remap/spare_restore.hpp"
#include "tests/faults/shielded_backend.hpp"
#include "tests/sim/fibers.hpp"

namespace nbd_remap {

namespace {
const SystemClock kClock;
}  // namespace

using std::chrono::milliseconds;

FaultWorld::FaultWorld()
    : main_disk("main", kBytes, power, 1, false),
      spare_disk("spare", spare_bytes_for(16, kBlockBytes), power, 2, true) {
  // A volume has a few large tables, and here lives for a fraction of a ms.
  (void)::mallopt(M_MMAP_THRESHOLD, 64 << 20);
  (void)::mallopt(M_TRIM_THRESHOLD, 256 << 20);
  uuid_.fill(7);
  layout_ = compute_layout(spare_disk.info().size_bytes, kBlockBytes).value();
}

FaultWorld::FaultWorld(const FaultWorld& o)
    : main_disk(o.main_disk, power),
      spare_disk(o.spare_disk, power),
      options(o.options),
      model_(o.model_),
      tag_(o.tag_),
      layout_(o.layout_),
      uuid_(o.uuid_),
      last_entries_(o.last_entries_),
      retired_(o.retired_),
      formatted_(o.formatted_),
      saved_(o.saved_),
      violation_(o.violation_) {}

FaultWorld::~FaultWorld() = default;

std::vector<RemapEntry> FaultWorld::entries() const {
  return volume ? volume->entries(BlockNo{0}, kBlocks + 8) : last_entries_;
}

// A request to a server that is not there is one that failed.
bool FaultWorld::up() {
  if (volume) return true;
  outcomes_.ok.push_back(false);
  return false;
}

bool FaultWorld::has_bad_sectors(BlockNo block) const {
  for (std::uint64_t s = block.value * 8; s < block.value * 8 + 8; ++s)
    if (s * kSectorBytes < kBytes &&
        main_disk.is_bad(
            s, SimDisk::kReads | SimDisk::kReadsLater | SimDisk::kWrites))
      return true;
  return false;
}

// What a callback of nbdkit does: no exception goes further.
Status FaultWorld::ask(const char* what, const std::function<Status()>& body,
                       std::uint64_t offset, std::uint64_t length) {
  const std::vector<RemapEntry> before = entries();
  const std::uint64_t fired_before = fired();
  Status status;
  AllocFault::arm();
  try {
    status = body();
  } catch (const std::bad_alloc&) {
    AllocFault::pause();
    status = make_error(ENOMEM, std::string(what) + ": out of memory");
  }
  AllocFault::pause();
  note_faults(before);
  const std::size_t index = outcomes_.ok.size();
  outcomes_.ok.push_back(status.ok());
  if (!status && fired() == fired_before && !power.off && expected_ &&
      index < expected_->ok.size() && expected_->ok[index] &&
      !has_excuse(status, offset, length))
    violate(fmt::format("{} of {} bytes at {} fails for no reason: {}", what,
                        length, offset, status.error().text()));
  if (std::string_view(what).substr(0, 4) == "grow") not_grown_ = !status;
  if (volume) {
    last_entries_ = entries();
    for (const RemapEntry& e : last_entries_) {
      outcomes_.known.insert(e.block);
      if (only_medium_ && expected_ && expected_->known.count(e.block) == 0 &&
          !has_bad_sectors(e.block))
        violate(
            fmt::format("block {} is remapped or pending, and no medium "
                        "failed",
                        e.block.value));
    }
    retired_ = std::max(retired_, volume->status().store.slots.retired);
  }
  return status;
}

void FaultWorld::change(const char* what, std::uint64_t offset,
                        std::uint64_t length, SectorModel::Tag tag,
                        bool durable, bool has_content,
                        const std::function<Status()>& body) {
  const auto begun = model_.begin_write(offset, length, tag);
  const Status status = ask(what, body, offset, length);
  model_.end_write(begun, status.ok() && has_content, durable);
}

void FaultWorld::write(std::uint64_t offset, std::uint64_t length, bool fua) {
  if (!up()) return;
  const SectorModel::Tag tag = ++tag_;
  std::vector<std::byte> data(length);
  SectorModel::fill(tag, offset, data);
  change("write", offset, length, tag, fua, true, [&] {
    return volume->write(VolumeOffset{offset}, data,
                         fua ? Durability::fua : Durability::cached);
  });
}

void FaultWorld::zero(std::uint64_t offset, std::uint64_t length, bool fua) {
  if (!up()) return;
  change("zero", offset, length, SectorModel::kZeroes, fua, true, [&] {
    return volume->zero(VolumeOffset{offset}, length, ZeroMode::may_punch,
                        fua ? Durability::fua : Durability::cached);
  });
}

void FaultWorld::trim(std::uint64_t offset, std::uint64_t length, bool fua) {
  if (!up()) return;
  change("trim", offset, length, SectorModel::kZeroes, fua, false, [&] {
    return volume->trim(VolumeOffset{offset}, length,
                        fua ? Durability::fua : Durability::cached);
  });
}

void FaultWorld::read(std::uint64_t offset, std::uint64_t length) {
  if (!up()) return;
  std::vector<std::byte> data(length, std::byte{0xee});
  const auto begun = model_.now();
  const Status status = ask(
      "read", [&] { return volume->read(VolumeOffset{offset}, data); }, offset,
      length);
  if (!status) return;
  const std::string wrong = model_.check_read(offset, data, begun);
  if (!wrong.empty()) violate("read: " + wrong);
}

void FaultWorld::extents(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t end = offset + length;
  for (std::uint64_t at = offset; at < end;) {
    if (!up()) return;
    const auto begun = model_.now();
    Extent extent;
    const Status status = ask(
        "extents",
        [&]() -> Status {
          auto got = volume->extent(VolumeOffset{at}, end - at);
          if (!got) return std::move(got).error();
          extent = *got;
          return {};
        },
        at, end - at);
    if (!status) return;
    if (extent.length == 0 || extent.length > end - at)
      return violate("extents: none, or beyond what was asked for");
    const std::uint64_t next = at + extent.length;
    for (std::uint64_t s = at / kSectorBytes;
         (extent.hole || extent.zeroes) && s * kSectorBytes < next; ++s)
      if (!model_.may_be_zero(s, begun))
        violate(fmt::format("extents: sector {} is no hole", s));
    at = next;
  }
}

void FaultWorld::cache(std::uint64_t offset, std::uint64_t length) {
  if (!up()) return;
  const Status hint = ask(
      "cache", [&] { return volume->cache(VolumeOffset{offset}, length); },
      offset, length);
}

// Contract C12: once one has failed none succeeds until the next start.
void FaultWorld::flush() {
  if (!up()) return;
  const auto begun = model_.now();
  const Status status = ask("flush", [&] { return volume->flush(); });
  if (!status) return;
  model_.flushed(begun);
  if (main_flushes_ + spare_flushes_ != 0)
    violate("flush: succeeds after one that failed");
}

void FaultWorld::map(MapAction action, std::uint64_t offset,
                     std::uint64_t length) {
  if (!up()) return;
  // Only sectors that cannot be read may become zeroes.
  std::vector<SectorModel::Time> begun;
  if (action == MapAction::clear)
    for (std::uint64_t at = offset; at < offset + length; at += kSectorBytes)
      if (model_.may_fail(at, kSectorBytes, model_.now()))
        begun.push_back(
            model_.begin_write(at, kSectorBytes, SectorModel::kZeroes));
  const Status status = ask(
      map_action_name(action).data(),
      [&] {
        return volume
            ->map_step(action, VolumeOffset{offset}, length,
                       milliseconds(600'000))
            .status;
      },
      offset, length);
  for (const auto one : begun) model_.end_write(one, false, false);
}

void FaultWorld::quiesce() {
  if (!up()) return;
  const auto begun = model_.now();
  const Status status = ask("quiesce", [&] {
    return volume->quiesce(milliseconds(60'000), milliseconds(600'000));
  });
  if (status) model_.flushed(begun);
  if (volume->status().quiesced != status.ok())
    violate("quiesce: succeeds without, or fails and stays");
  volume->resume();
}

void FaultWorld::grow_spare() {
  if (!up()) return;
  const Status status = ask("grow SPARE", [&]() -> Status {
    auto size = volume->grow_spare();
    return size ? Status() : Status(std::move(size).error());
  });
}

void FaultWorld::grow_main() {
  if (!up()) return;
  const std::uint64_t before = volume->size();
  const Status status = ask("grow MAIN", [&]() -> Status {
    auto size = volume->grow_main();
    return size ? Status() : Status(std::move(size).error());
  });
  if (volume->size() != before && volume->size() != kGrownBytes)
    violate("MAIN grows to a size that it does not have");
}

Status FaultWorld::open() {
  seed_random_device(1);
  main_flushes_ = spare_flushes_ = 0;
  main.clear_trace();
  spare.clear_trace();
  main_disk.opened();
  spare_disk.opened();
  const LogSink log = [](LogLevel, std::string_view) {};
  auto main_side =
      std::make_unique<Disk>(std::make_unique<ShieldedBackend>(main));
  auto spare_side =
      std::make_unique<Disk>(std::make_unique<ShieldedBackend>(spare));
  Binding binding;
  binding.main_bytes = main.info().size_bytes;
  binding.main_identity = main.info().identity;
  binding.main_name = main.info().name;
  auto store = RemapStore::open(*spare_side, binding, false, log);
  if (!store) return std::move(store).error();
  volume = std::make_unique<Volume>(std::move(main_side), std::move(spare_side),
                                    std::move(*store), false, "", options,
                                    kClock, log);
  return {};
}

void FaultWorld::start() {
  if (volume) return;
  const Status status = ask("start", [this] { return open(); });
  if (status) layout_ = volume->status().store.superblock.layout;
}

void FaultWorld::stop() {
  if (!up()) return;
  volume->close_gate();
  if (!volume->drain(milliseconds(0)))
    violate("a request has ended and is still inside");
  const Status status = ask("stop", [&] { return volume->close(); });
  volume.reset();
}

void FaultWorld::kill() { volume.reset(); }

}  // namespace nbd_remap
