// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/spare_replace_fixture.hpp"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

namespace nbd_remap {

Backend* SpareReplaceWorld::disk(const std::string& name) const {
  if (name == "spare") return &disks_.spare;
  return name == "next" ? &disks_.next : nullptr;
}

Status SpareReplaceWorld::open(const std::string& name) {
  kill();
  Binding binding;
  binding.main_bytes = disks_.main.info().size_bytes;
  binding.main_identity = disks_.main.info().identity;
  binding.main_name = disks_.main.info().name;
  const LogSink sink = [this](LogLevel, std::string_view text) {
    log.emplace_back(text);
  };
  auto spare =
      std::make_unique<Disk>(std::make_unique<BorrowedBackend>(*disk(name)));
  const auto won = took_place(
      *spare,
      [this](const std::string& spec) -> Result<std::unique_ptr<Backend>> {
        if (disk(spec) == nullptr) return make_error(ENOENT, spec);
        return std::unique_ptr<Backend>(
            std::make_unique<BorrowedBackend>(*disk(spec)));
      });
  if (!won) return won.error();
  binding.took_place = *won;
  auto store = RemapStore::open(*spare, binding, false, sink);
  if (!store) return std::move(store).error();
  StateArea* const area = (*store)->state_area();
  if (area == nullptr) throw std::runtime_error("no state area");
  volume = std::make_unique<Volume>(
      std::make_unique<Disk>(std::make_unique<BorrowedBackend>(disks_.main)),
      std::move(spare), std::move(*store), false, "", VolumeOptions{}, clock,
      sink);
  const OpenNewDisk opener =
      [this](const std::string& spec) -> Result<NewDisk> {
    if (no_next.errnum != 0) return no_next;
    if (disk(spec) == nullptr) return make_error(ENOENT, spec);
    NewDisk out;
    out.disk = std::make_unique<BorrowedBackend>(*disk(spec));
    return out;
  };
  const BothNotes notes = notes_in(area);
  main_replacer =
      std::make_unique<Replacer>(*volume, notes.main, opener, clock, sink);
  SpareReplacer::Options options;
  options.spec = name;
  options.bound = bound_;
  options.before_exchange = [this] { before_switch(); };
  replacer = std::make_unique<SpareReplacer>(*volume, notes.spare, opener,
                                             clock, sink, options);
  main_replacer->resume();
  replacer->resume();
  return {};
}

void SpareReplaceWorld::kill() {
  volume.reset();
  replacer.reset();
  main_replacer.reset();
}

void SpareReplaceWorld::stop() {
  volume->close_gate();
  if (!volume->drain(std::chrono::seconds(30)))
    throw std::runtime_error("requests have not ended");
  main_replacer->stop();
  replacer->stop();
  (void)volume->close();
  kill();
}

int SpareReplaceWorld::write(std::uint64_t offset, std::uint64_t length,
                             std::uint64_t tag, Durability durability) {
  return told(
      volume->write(VolumeOffset{offset}, pattern(tag, length), durability));
}

int SpareReplaceWorld::read(std::uint64_t offset, std::uint64_t length) {
  std::vector<std::byte> buffer(length);
  return told(volume->read(VolumeOffset{offset}, buffer));
}

bool SpareReplaceWorld::holds(std::uint64_t offset, std::uint64_t length,
                              std::uint64_t tag) {
  std::vector<std::byte> buffer(length);
  return volume->read(VolumeOffset{offset}, buffer).ok() &&
         buffer == pattern(tag, length);
}

RemapEntry SpareReplaceWorld::entry(std::uint64_t block) const {
  const auto found = volume->entries(BlockNo{block}, 1);
  if (!found.empty() && found.front().block == BlockNo{block})
    return found.front();
  RemapEntry clean;
  clean.block = BlockNo{block};
  clean.valid = 0xFF;
  return clean;
}

bool SpareReplaceWorld::remap(std::uint64_t first_block, std::uint64_t blocks) {
  const std::uint64_t end = (first_block + blocks) * 4096;
  for (std::uint64_t at = first_block * 4096; at < end;) {
    const MapStep step = volume->map_step(MapAction::remap, VolumeOffset{at},
                                          end - at, std::chrono::seconds(60));
    if (!step.status || step.next.value == at) return false;
    at = step.next.value;
  }
  return true;
}

bool SpareReplaceWorld::run_to(ReplacePhase wanted, std::uint64_t steps) {
  for (std::uint64_t i = 0; i < steps; ++i) {
    const ReplaceStatus now = replacer->status();
    if (now.phase == wanted) return true;
    if (!now.waits_for.empty()) return false;
    (void)replacer->step();
  }
  return false;
}

bool SpareReplaceWorld::logged(const std::string& words) const {
  return std::any_of(log.begin(), log.end(), [&](const std::string& line) {
    return line.find(words) != std::string::npos;
  });
}

}  // namespace nbd_remap
