// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/bad_sectors.hpp"

#include <algorithm>
#include <iterator>

#include "plugins/base/units.hpp"

namespace nbd_remap {

nbd_remap::Status BadSectors::add(std::span<const BadRange> ranges,
                                  BadMode mode, std::uint32_t transient) {
  MutexLock lock(mu_);
  if (auto ok = check_ranges(ranges, size_, runs_.size()); !ok) return ok;
  for (const BadRange& range : ranges)
    update(range.start, range.start + range.count, [&](State state) {
      return State{state.mode | range.mode.value_or(mode), transient};
    });
  return {};
}

nbd_remap::Status BadSectors::heal(std::span<const BadRange> ranges) {
  MutexLock lock(mu_);
  if (auto ok = check_ranges(ranges, size_, runs_.size()); !ok) return ok;
  for (const BadRange& range : ranges)
    update(range.start, range.start + range.count, [&](State state) {
      state.mode = without(state.mode, range.mode.value_or(BadMode::both));
      return state;
    });
  return {};
}

void BadSectors::heal_all() {
  MutexLock lock(mu_);
  runs_.clear();
  bad_sectors_ = 0;
}

// The first and the last sector of a write may be covered in part only.
std::array<BadSectors::Piece, 3> BadSectors::pieces_of(DiskOp op,
                                                       std::uint64_t offset,
                                                       std::uint64_t length) {
  if (length == 0) return {};
  const std::uint64_t end = offset + length;
  const Piece all{offset / kSectorBytes,
                  round_up(end, kSectorBytes) / kSectorBytes,
                  op == DiskOp::read ? BadMode::read : BadMode::write};
  std::array<Piece, 3> pieces{all};
  if (op == DiskOp::read) return pieces;
  const bool cut_head = offset % kSectorBytes != 0;
  const bool cut_tail = end % kSectorBytes != 0;
  if (all.end - all.start == 1) {
    if (cut_head || cut_tail) pieces[0].fatal = BadMode::both;
    return pieces;
  }
  if (cut_head) {
    pieces[1] = {all.start, all.start + 1, BadMode::both};
    ++pieces[0].start;
  }
  if (cut_tail) {
    pieces[2] = {all.end - 1, all.end, BadMode::both};
    --pieces[0].end;
  }
  return pieces;
}

bool BadSectors::any_bad(const Piece& piece) const {
  if (piece.start >= piece.end) return false;
  auto it = runs_.upper_bound(piece.start);
  if (it != runs_.begin() && std::prev(it)->second.end > piece.start) --it;
  for (; it != runs_.end() && it->first < piece.end; ++it)
    if (has(it->second.state.mode, piece.fatal)) return true;
  return false;
}

bool BadSectors::would_fail(DiskOp op, std::uint64_t offset,
                            std::uint64_t length) const {
  MutexLock lock(mu_);
  for (const Piece& piece : pieces_of(op, offset, length))
    if (any_bad(piece)) return true;
  return false;
}

bool BadSectors::fails(DiskOp op, std::uint64_t offset, std::uint64_t length) {
  MutexLock lock(mu_);
  bool failed = false;
  for (const Piece& piece : pieces_of(op, offset, length)) {
    if (!any_bad(piece)) continue;
    failed = true;
    update(piece.start, piece.end, [&](State state) {
      if (!has(state.mode, piece.fatal) || state.transient == 0) return state;
      if (--state.transient == 0) return State{};
      return state;
    });
  }
  if (failed) ++(op == DiskOp::read ? fired_reads_ : fired_writes_);
  return failed;
}

void BadSectors::heal_written(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return;
  MutexLock lock(mu_);
  const Piece touched{offset / kSectorBytes,
                      round_up(offset + length, kSectorBytes) / kSectorBytes,
                      BadMode::read};
  if (!any_bad(touched)) return;
  update(touched.start, touched.end, [](State state) {
    state.mode = without(state.mode, BadMode::read);
    return state;
  });
}

BadSectors::Status BadSectors::status(std::size_t limit) const {
  MutexLock lock(mu_);
  Status status;
  status.all_runs = runs_.size();
  status.bad_sectors = bad_sectors_;
  status.fired_reads = fired_reads_;
  status.fired_writes = fired_writes_;
  for (const auto& [start, tail] : runs_) {
    if (status.runs.size() == limit) break;
    status.runs.push_back(
        {start, tail.end - start, tail.state.mode, tail.state.transient});
  }
  return status;
}

// Every sector of [start, end), bad or good, gets the state that change()
// makes of its present one.
template <class Change>
void BadSectors::update(std::uint64_t start, std::uint64_t end, Change change) {
  split_at(start);
  split_at(end);
  auto it = runs_.lower_bound(start);
  for (std::uint64_t at = start; at < end;) {
    if (it == runs_.end() || it->first > at) {
      const std::uint64_t stop =
          it == runs_.end() ? end : std::min(end, it->first);
      if (const State state = change(State{}); state.mode != BadMode::none) {
        runs_.emplace_hint(it, at, Tail{stop, state});
        bad_sectors_ += stop - at;
      }
      at = stop;
      continue;
    }
    at = it->second.end;
    it->second.state = change(it->second.state);
    if (it->second.state.mode == BadMode::none) {
      bad_sectors_ -= it->second.end - it->first;
      it = runs_.erase(it);
    } else {
      ++it;
    }
  }
  join(start, end);
}

void BadSectors::split_at(std::uint64_t sector) {
  auto it = runs_.lower_bound(sector);
  if (it == runs_.begin()) return;
  Tail& before = std::prev(it)->second;
  if (before.end <= sector) return;
  runs_.emplace_hint(it, sector, Tail{before.end, before.state});
  before.end = sector;
}

void BadSectors::join(std::uint64_t start, std::uint64_t end) {
  auto it = runs_.lower_bound(start);
  if (it != runs_.begin()) --it;
  while (it != runs_.end() && it->first <= end) {
    const auto next = std::next(it);
    if (next != runs_.end() && it->second.end == next->first &&
        it->second.state == next->second.state) {
      it->second.end = next->second.end;
      runs_.erase(next);
    } else {
      it = next;
    }
  }
}

}  // namespace nbd_remap
