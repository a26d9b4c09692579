// SPDX-License-Identifier: BSD-3-Clause
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "plugins/volume/healer.hpp"

namespace nbd_remap {
namespace {
constexpr std::uint64_t kProbes = 8;
}  // namespace

Healer::Healer(Disk& main, Disk& spare, RemapStore& store, Breaker& breaker,
               const VolumeOptions& options, const Clock& clock, Stats& stats,
               MapEvents& events, LogSink log)
    : main_(main),
      spare_(spare),
      store_(store),
      breaker_(breaker),
      options_(options),
      clock_(clock),
      stats_(stats),
      events_(events),
      log_(std::move(log)),
      layout_(store.layout()),
      block_bytes_(layout_.block_bytes) {}

RemapEntry Healer::entry_of(BlockNo block) const {
  const auto entry = store_.table().find_first(block, BlockNo{block.value + 1});
  if (entry) return *entry;
  RemapEntry clean;
  clean.block = block;
  clean.valid = store_.all_valid();
  return clean;
}

void Healer::tell(MapEvent::What what, const RemapEntry& entry,
                  std::string_view why, int errnum) {
  events_.record({what, entry.block, entry.slot_or_none, clock_.unix_seconds(),
                  errnum, why});
}

Status Healer::commit_place(const std::vector<RemapEntry>& entries,
                            const std::vector<SlotNo>& retire) {
  // A log that failed before writes nothing more: no doubt about this block.
  const std::uint64_t resumes = store_.resumes();
  const bool unwritten = !store_.status().failed.empty();
  // Made before anything is written: a doubt needs no memory to be noted.
  std::set<BlockNo> blocks;
  for (const RemapEntry& e : entries) blocks.insert(e.block);
  Status status = store_.commit(entries, retire);
  if (status || unwritten) return status;
  MutexLock lock(doubt_mu_);
  if (doubted_after_ != resumes) doubtful_.clear();
  doubted_after_ = resumes;
  doubtful_.merge(blocks);
  doubts_ = true;
  return status;
}

Status Healer::check_doubt(VolumeOffset offset, std::uint64_t length) {
  if (!doubts_) return {};
  {
    MutexLock lock(doubt_mu_);
    if (doubted_after_ != store_.resumes()) {
      doubtful_.clear();
      doubts_ = false;
    }
    const auto it = doubtful_.lower_bound(BlockNo{offset.value / block_bytes_});
    if (it == doubtful_.end() ||
        it->value * block_bytes_ >= offset.value + length)
      return {};
  }
  Status status = store_.resume();
  if (status) return {};
  return make_error(
      ErrorClass::transport, EIO,
      fmt::format("volume: whether a block from byte {} on is remapped is in "
                  "doubt while the log fails: {}",
                  offset.value, status.error().text()));
}

Status Healer::main_answers() const {
  if (!breaker_.open()) return {};
  return make_error(ErrorClass::transport, EIO,
                    main_.info().name + ": failed, the breaker is open");
}

Status Healer::main_failed(BlockNo block) {
  if (breaker_.open()) return main_answers();
  if (!breaker_.failed(block, main_.successes())) return {};
  const std::uint64_t bytes = main_.size();
  const std::uint64_t logical = main_.info().logical_block_bytes;
  AlignedBuffer sector(logical);
  for (std::uint64_t i = 0; i < kProbes; ++i) {
    const std::uint64_t at =
        round_down(bytes / (2 * kProbes) * (2 * i + 1), logical);
    if (main_.read(DeviceOffset{at}, sector.bytes())) {
      breaker_.answered();
      return {};
    }
  }
  breaker_.trip();
  log_(LogLevel::error,
       fmt::format("{}: {} blocks failed in a row and {} probes over the whole "
                   "disk failed too: taken for dead, nothing more is remapped",
                   main_.info().name, options_.breaker, kProbes));
  return main_answers();
}

bool Healer::Search::is_bad(std::uint64_t sector) const {
  return std::binary_search(bad_sectors.begin(), bad_sectors.end(), sector);
}

Status Healer::Search::run(Disk& disk, DeviceOffset device, Bytes into) {
  return halve(disk, device, at, into);
}

Status Healer::Search::halve(Disk& disk, DeviceOffset device,
                             std::uint64_t from, Bytes into) {
  if (for_client && !bad_sectors.empty() && healer.clock_.now() >= until)
    return {};
  Status status = disk.read(device, into);
  if (status || status.error().error_class != ErrorClass::medium) return status;
  const std::uint64_t end = from + into.size();
  const std::uint64_t unit =
      from / healer.block_bytes_ != (end - 1) / healer.block_bytes_
          ? healer.block_bytes_
          : kSectorBytes;
  const std::uint64_t first = from / unit;
  const std::uint64_t last = (end - 1) / unit;
  if (first == last) return one_sector(disk, device, from, into, status);
  const std::uint64_t middle = (first + last + 1) / 2 * unit - from;
  if (status = halve(disk, device, from, into.first(middle)); !status)
    return status;
  return halve(disk, DeviceOffset{device.value + middle}, from + middle,
               into.subspan(middle));
}

Status Healer::Search::one_sector(Disk& disk, DeviceOffset device,
                                  std::uint64_t from, Bytes into,
                                  Status status) {
  for (unsigned i = 0; i < healer.options_.retries; ++i) {
    status = disk.read(device, into);
    if (status || status.error().error_class != ErrorClass::medium)
      return status;
  }
  if (for_client) {
    if (bad_sectors.empty())
      until = healer.clock_.now() + healer.options_.search_bound;
    if (&disk == &healer.main_) {
      status = healer.main_failed(BlockNo{from / healer.block_bytes_});
      if (!status) return status;
    }
  }
  bad_sectors.push_back(from / kSectorBytes);
  return {};
}

Status Healer::read(VolumeOffset offset, Bytes buffer,
                    std::vector<std::uint64_t>& unreadable) {
  Search search{*this, offset.value, true, {}, {}};
  Search in_slots{*this, offset.value, true, {}, {}};
  for (const Piece& piece :
       split_request(offset, buffer.size(), store_.table(), layout_)) {
    if (piece.place == Piece::Place::unreadable)
      return make_error(EIO, fmt::format("volume: bytes from {} are pending",
                                         piece.offset.value));
    const Bytes into =
        buffer.subspan(piece.offset.value - offset.value, piece.length);
    const bool slot = piece.place == Piece::Place::slot;
    Search& s = slot ? in_slots : search;
    s.at = piece.offset.value;
    Status status = s.run(slot ? spare_ : main_, piece.device, into);
    if (!status) return status;
  }
  if (search.bad_sectors.empty() && in_slots.bad_sectors.empty()) {
    ++stats_.retried_reads;
    return {};
  }
  const auto& bad =
      search.bad_sectors.empty() ? in_slots.bad_sectors : search.bad_sectors;
  Error error = make_error(
      EIO, fmt::format("volume: {} sectors cannot be read, the first is {}",
                       search.bad_sectors.size() + in_slots.bad_sectors.size(),
                       bad.front()));
  unreadable = std::move(search.bad_sectors);
  return error;
}

Status Healer::mark_pending(const std::vector<std::uint64_t>& sectors) {
  std::map<BlockNo, RemapEntry> blocks;
  const std::uint64_t per_block = block_bytes_ / kSectorBytes;
  AlignedBuffer one(kSectorBytes);
  int errnum = 0;
  for (std::uint64_t sector : sectors) {
    const BlockNo block{sector / per_block};
    const std::uint64_t bit = std::uint64_t{1} << (sector % per_block);
    auto it = blocks.find(block);
    const RemapEntry entry = it == blocks.end() ? entry_of(block) : it->second;
    // A write may have come since the sector was found unreadable.
    if (entry.remapped() || !(entry.valid & bit)) continue;
    if (Status answers = main_answers(); !answers) return answers;
    Status read = main_.read(DeviceOffset{sector * kSectorBytes}, one.bytes());
    if (read) continue;
    if (read.error().error_class != ErrorClass::medium) return read;
    it = blocks.try_emplace(block, entry).first;
    it->second.valid &= ~bit;
    errnum = read.error().errnum;
  }
  std::vector<RemapEntry> batch;
  for (auto it = blocks.begin(); it != blocks.end();) {
    batch.push_back(it->second);
    ++it;
    if (batch.size() < store_.max_entries() && it != blocks.end()) continue;
    if (Status status = commit_place(batch, {}); !status) return status;
    for (const RemapEntry& e : batch) {
      tell(MapEvent::What::pending, e, "a client's read failed", errnum);
      log_(LogLevel::warning,
           fmt::format("block {} has unreadable sectors and is pending",
                       e.block.value));
    }
    batch.clear();
  }
  return {};
}

}  // namespace nbd_remap
