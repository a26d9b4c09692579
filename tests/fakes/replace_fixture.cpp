// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/replace_fixture.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "plugins/backend/clipped_backend.hpp"

namespace nbd_remap {
namespace {

BackendInfo disk(const char* name, std::uint64_t bytes, std::uint32_t logical) {
  BackendInfo info = fake_disk_info(name, bytes, logical, 4096);
  info.direct = true;
  return info;
}

}  // namespace

ReplaceRig::ReplaceRig(const ReplaceRigOptions& o)
    : options(o),
      main_disk(disk("old", o.main_bytes, 512)),
      next_disk(disk("next", o.next_bytes, o.next_logical)),
      spare_disk(disk("spare", spare_bytes_for(o.spare_slots, 4096), 512)) {
  format_for(spare_disk, main_disk, 4096);
  if (Status status = open(main); !status)
    throw std::runtime_error(status.error().text());
}

// The volume first: its disk holds what the replacer waits for.
ReplaceRig::~ReplaceRig() { kill(); }

Status ReplaceRig::open(Backend& with) {
  Binding binding;
  binding.main_bytes = with.info().size_bytes;
  binding.main_identity = with.info().identity;
  binding.main_name = with.info().name;
  const LogSink sink = [this](LogLevel, std::string_view text) {
    log.emplace_back(text);
  };
  auto spare_opened =
      std::make_unique<Disk>(std::make_unique<BorrowedBackend>(spare));
  auto store = RemapStore::open(*spare_opened, binding, false, sink);
  if (!store) return std::move(store).error();
  auto main_opened =
      std::make_unique<Disk>(clip(std::make_unique<BorrowedBackend>(with),
                                  (*store)->status().superblock.main_bytes));
  volume = std::make_unique<Volume>(std::move(main_opened),
                                    std::move(spare_opened), std::move(*store),
                                    false, "", VolumeOptions{}, clock, sink);
  ReplaceNotes kept;
  kept.read = [this]() -> Result<std::vector<std::byte>> { return notes; };
  kept.write = [this](ConstBytes bytes) -> Status {
    if (before_note)
      if (Status may = before_note(); !may) return may;
    notes.assign(bytes.begin(), bytes.end());
    ++notes_written;
    return {};
  };
  const OpenNewDisk opener = [this](const std::string&) -> Result<NewDisk> {
    if (no_next.errnum != 0) return no_next;
    NewDisk out;
    out.disk = std::make_unique<BorrowedBackend>(next);
    return out;
  };
  replacer = std::make_unique<Replacer>(*volume, kept, opener, clock, sink,
                                        options.bound);
  replacer->resume();
  return {};
}

void ReplaceRig::stop() {
  volume->close_gate();
  if (!volume->drain(std::chrono::seconds(30)))
    throw std::runtime_error("requests have not ended");
  replacer->stop();
  (void)volume->close();
  kill();
}

void ReplaceRig::kill() {
  volume.reset();
  replacer.reset();
}

int ReplaceRig::write(std::uint64_t offset, std::uint64_t length,
                      std::uint64_t tag, Durability durability) {
  return told(
      volume->write(VolumeOffset{offset}, pattern(tag, length), durability));
}

bool ReplaceRig::holds(std::uint64_t offset, std::uint64_t length,
                       std::uint64_t tag) {
  std::vector<std::byte> buffer(length);
  return volume->read(VolumeOffset{offset}, buffer).ok() &&
         buffer == pattern(tag, length);
}

int ReplaceRig::read(std::uint64_t offset, std::uint64_t length) {
  std::vector<std::byte> buffer(length);
  return told(volume->read(VolumeOffset{offset}, buffer));
}

RemapEntry ReplaceRig::entry(std::uint64_t block) const {
  const auto found = volume->entries(BlockNo{block}, 1);
  if (!found.empty() && found.front().block == BlockNo{block})
    return found.front();
  RemapEntry clean;
  clean.block = BlockNo{block};
  clean.valid = 0xFF;
  return clean;
}

bool ReplaceRig::run_to(ReplacePhase wanted, std::uint64_t steps) {
  for (std::uint64_t i = 0; i < steps; ++i) {
    const ReplaceStatus now = replacer->status();
    if (now.phase == wanted) return true;
    if (!now.waits_for.empty()) return false;
    (void)replacer->step();
  }
  return false;
}

bool ReplaceRig::copy_all(std::uint64_t tag) {
  if (write(0, options.main_bytes, tag) != 0 || !start()) return false;
  for (int i = 0; i < 1000; ++i) {
    if (replacer->status().copied_bytes >= options.main_bytes) return true;
    (void)replacer->step();
  }
  return false;
}

void ReplaceRig::settle() {
  for (int i = 0; i < 4; ++i) {
    clock.move(Replacer::kPeriod);
    (void)replacer->step();
  }
}

}  // namespace nbd_remap
