// SPDX-License-Identifier: BSD-3-Clause
// The copier: one chunk at a time.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/crc32c.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/replace/replacer.hpp"

namespace nbd_remap {
namespace {

constexpr unsigned kMostSkipped = 64;  // chunks, behind one that fails
// A chunk that clients write to whenever it is read is read with them kept out
// after so many tries; later where that takes long.
constexpr unsigned kTries = 3;
constexpr unsigned kPatientTries = 8;
// While clients have requests under way the copier rests as long as it worked.
constexpr std::chrono::milliseconds kMostRest{250};

bool is_zero(ConstBytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte b) { return b == std::byte{}; });
}

}  // namespace

std::chrono::milliseconds Replacer::copy_step() {
  if (paused_) return kIdle;
  if (mirror_->next().lost()) return lost_step();
  if (clock_.now() >= next_note_) note_in_sync();
  const auto map = this->map();
  const auto chunk = map->next();
  if (!chunk) return switch_step();
  const Chunk state = map->state(*chunk);
  const auto began = std::chrono::steady_clock::now();
  const Milliseconds pause =
      state == Chunk::written ? check_chunk(*chunk) : copy_chunk(*chunk, state);
  if (pause != Milliseconds(0) || volume_.in_flight() == 0) return pause;
  return std::clamp(std::chrono::duration_cast<Milliseconds>(
                        std::chrono::steady_clock::now() - began),
                    Milliseconds(1), kMostRest);
}

std::chrono::milliseconds Replacer::copy_chunk(std::uint64_t chunk,
                                               Chunk state) {
  const auto map = this->map();
  const bool patient = state == Chunk::failed || state == Chunk::holes;
  if (state == Chunk::holes)
    if (const Status detached = detach_pending(chunk); !detached)
      return wait_for(error_words(detached.error()), kPeriod);
  const VolumeOffset at = offset_of(chunk);
  AlignedBuffer buffer(length_of(chunk));
  Volume::MainContent found;
  Status wrote;
  bool written = false;
  const auto read = [&] {
    return volume_.read_main(at, buffer.bytes(), patient, found);
  };
  // Nobody writes there. Invariant (2) of CopyMap.
  const auto write = [&]() REQUIRES(work_mu_) -> Status {
    // One that went back to MAIN meanwhile was written there before it was
    // watched, maybe, and zeroes were read for it.
    if (!map->untouched() || !volume_.on_spare(found.on_spare)) return {};
    wrote = is_zero(buffer.bytes())
                ? next_->zero(DeviceOffset{at.value}, buffer.size(),
                              ZeroMode::may_punch, Durability::cached)
                : next_->write(DeviceOffset{at.value}, buffer.bytes(),
                               Durability::cached);
    written = wrote.ok();
    if (!written) return {};
    if (found.holes)
      map->set_state(chunk, Chunk::holes);
    else
      map->written(chunk, crc32c(buffer.bytes()));
    return {};
  };
  map->watch(chunk);
  Status status;
  if (tries_ >= (patient ? kPatientTries : kTries)) {
    status = volume_.alone_in(at, buffer.size(), [&]() REQUIRES(work_mu_) {
      map->watch(chunk);
      Status did = read();
      return did && found.unreadable.empty() ? write() : did;
    });
  } else {
    status = read();
  }
  if (!status) {
    if (status.error().error_class == ErrorClass::medium)
      return could_not_read(chunk, state);
    map->set_state(chunk, state);  // others come first
    return wait_for(error_words(status.error()), kPeriod);
  }
  if (!found.unreadable.empty()) {
    tries_ = 0;
    status = volume_.mark_unreadable(found.unreadable);
    if (!status) {
      map->set_state(chunk, state);
      return wait_for(error_words(status.error()), kPeriod);
    }
    // One that came back, or was written, is to be read again.
    if (!all_pending(found.unreadable)) return Milliseconds(0);
    {
      MutexLock lock(mu_);
      lost_sectors_ += found.unreadable.size();
    }
    tell(LogLevel::warning,
         fmt::format("{} sectors from byte {} on cannot be read",
                     found.unreadable.size(),
                     found.unreadable.front() * kSectorBytes));
    found.holes = true;
  }
  if (!written && wrote) {
    status = volume_.alone_in(at, buffer.size(), write);
    if (!status) return wait_for(error_words(status.error()), kPeriod);
  }
  if (!wrote) {
    mirror_->next().lose(wrote.error());
    return Milliseconds(0);
  }
  tries_ = written ? 0 : tries_ + 1;
  if (!written) return Milliseconds(0);
  gets_on();
  measure(buffer.size());
  if (state == Chunk::todo) skip_ = 1;
  return Milliseconds(0);
}

// The first time: the disk may be bad for some way on, and what can be read
// comes first.
std::chrono::milliseconds Replacer::could_not_read(std::uint64_t chunk,
                                                   Chunk state) {
  const auto map = this->map();
  {
    MutexLock lock(mu_);
    ++read_errors_;
  }
  tries_ = 0;
  std::uint64_t last = chunk;
  if (state == Chunk::todo) {
    for (unsigned i = 0; i < skip_ && last + 1 < map->chunks(); ++i)
      if (map->state(++last) == Chunk::todo)
        map->set_state(last, Chunk::skipped);
    skip_ = std::min(kMostSkipped, skip_ * 2);
  }
  map->set_state(chunk, Chunk::failed);
  if (state == Chunk::todo && last != chunk)
    map->set_state(last, map->state(last));  // go on behind it
  return Milliseconds(0);
}

std::chrono::milliseconds Replacer::check_chunk(std::uint64_t chunk) {
  const auto map = this->map();
  AlignedBuffer buffer(length_of(chunk));
  const Status status =
      next_->read(DeviceOffset{offset_of(chunk).value}, buffer.bytes());
  if (!status) {
    mirror_->next().lose(status.error());
    return Milliseconds(0);
  }
  // A write that began before the read ended has taken the checksum away.
  const auto crc = map->crc(chunk);
  if (crc && *crc != crc32c(buffer.bytes())) {
    mirror_->next().lose(make_error(
        EIO, fmt::format("{}: {} bytes at {} are not what was written there",
                         next_->info().name, buffer.size(),
                         offset_of(chunk).value)));
    return Milliseconds(0);
  }
  map->set_state(chunk, Chunk::checked);
  measure(buffer.size());
  gets_on();
  return Milliseconds(0);
}

Status Replacer::detach_pending(std::uint64_t chunk) {
  const std::uint64_t bytes = volume_.block_bytes();
  const std::uint64_t from = offset_of(chunk).value / bytes;
  const std::uint64_t to =
      (offset_of(chunk).value + length_of(chunk) - 1) / bytes + 1;
  for (const RemapEntry& e : volume_.entries(BlockNo{from}, to - from)) {
    if (e.block.value >= to) break;
    if (e.remapped()) continue;
    if (Status status = volume_.detach_pending(e.block); !status) return status;
  }
  return {};
}

bool Replacer::all_pending(const std::vector<std::uint64_t>& sectors) const {
  const std::uint64_t per_block = volume_.block_bytes() / kSectorBytes;
  return std::all_of(sectors.begin(), sectors.end(), [&](std::uint64_t sector) {
    const BlockNo block{sector / per_block};
    const auto entries = volume_.entries(block, 1);
    return !entries.empty() && entries.front().block == block &&
           (entries.front().remapped() ||
            !(entries.front().valid >> sector % per_block & 1));
  });
}

void Replacer::note_in_sync() {
  next_note_ = clock_.now() + kPeriod;
  const auto map = this->map();
  const std::uint64_t point = map->settle_point();
  Status status = volume_.flush_main();
  if (!status || !mirror_->next().flush()) return;  // the latter ends it
  status = map->settle(point);
  if (!status)
    tell(LogLevel::warning,
         "what is copied could not be noted: " + error_words(status.error()));
}

}  // namespace nbd_remap
