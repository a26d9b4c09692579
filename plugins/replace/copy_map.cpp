// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/copy_map.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

namespace nbd_remap {
namespace {

std::size_t index(Chunk state) { return static_cast<std::size_t>(state); }

}  // namespace

CopyMap::CopyMap(std::uint64_t volume_bytes, const std::vector<bool>& in_sync,
                 Save save, std::chrono::milliseconds patience)
    : chunks_((volume_bytes + kChunkBytes - 1) / kChunkBytes),
      region_chunks_((chunks_ + kMaxRegions - 1) / kMaxRegions),
      regions_((chunks_ + region_chunks_ - 1) / region_chunks_),
      save_(std::move(save)),
      patience_(patience),
      state_(chunks_, Chunk::todo),
      crc_(chunks_),
      has_crc_(chunks_),
      region_(regions_) {
  counts_[index(Chunk::todo)] = chunks_;
  for (std::uint64_t c = 0; c < chunks_; ++c)
    ++region_[region_of_chunk(c)].undone;
  if (in_sync.size() != regions_) return;
  MutexLock lock(mu_);
  for (std::uint64_t r = 0; r < regions_; ++r)
    region_[r].may_be_set = in_sync[r];
  for (std::uint64_t c = 0; c < chunks_; ++c)
    if (in_sync[region_of_chunk(c)]) put(c, Chunk::written);
}

void CopyMap::put(std::uint64_t chunk, Chunk state) {
  Region& region = region_[region_of_chunk(chunk)];
  --counts_[index(state_[chunk])];
  region.undone -= done(state_[chunk]) ? 0 : 1;
  state_[chunk] = state;
  ++counts_[index(state)];
  region.undone += done(state) ? 0 : 1;
}

void CopyMap::note(std::uint64_t first, std::uint64_t last) {
  if (watched_ && first <= *watched_ && *watched_ <= last) touched_ = true;
  for (std::uint64_t c = first; c <= last; ++c) has_crc_[c] = false;
}

Status CopyMap::begin(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t first = offset / kChunkBytes;
  const std::uint64_t last = (offset + length - 1) / kChunkBytes;
  const std::uint64_t from = region_of_chunk(first);
  const std::uint64_t to = region_of_chunk(last);
  MutexLock lock(mu_);
  note(first, last);
  for (std::uint64_t r = from; r <= to; ++r) {
    ++region_[r].writing;
    region_[r].touched = point_;
  }
  const auto clear = [&]() REQUIRES(mu_) {
    for (std::uint64_t r = from; r <= to; ++r)
      if (region_[r].may_be_set) return false;
    return true;
  };
  const auto until = std::chrono::steady_clock::now() + patience_;
  while (!clear()) {
    if (saving_) {
      if (Status status = wait_saved(until); !status) return status;
      continue;
    }
    // For all that wait by now: who writes to a region has it cleared.
    std::vector<bool> bits(regions_);
    for (std::uint64_t r = 0; r < regions_; ++r)
      bits[r] = region_[r].may_be_set && region_[r].writing == 0;
    if (Status status = save(bits, true); !status) return status;
  }
  return {};
}

Status CopyMap::wait_saved(std::chrono::steady_clock::time_point until) {
  if (saved_.wait_until(mu_, until) || !saving_) return {};
  return make_error(ETIMEDOUT, "spare: an earlier note is not written yet");
}

// Invariant (1): while it is being written a region that loses its bit may
// still have it, and one that gets it may have it already.
Status CopyMap::save(const std::vector<bool>& bits, bool clears) {
  saving_ = true;
  for (std::uint64_t r = 0; r < regions_; ++r)
    if (bits[r]) region_[r].may_be_set = true;
  mu_.unlock();
  Status status;
  try {
    status = save_(bits, clears);
  } catch (const std::bad_alloc&) {
    // As after any error: what SPARE has now nobody knows.
    status = make_error(ENOMEM, "spare");
  }
  mu_.lock();
  saving_ = false;
  if (status)
    for (std::uint64_t r = 0; r < regions_; ++r)
      region_[r].may_be_set = bits[r];
  saved_.notify_all();
  return status;
}

void CopyMap::end(std::uint64_t offset, std::uint64_t length, bool both) {
  const std::uint64_t first = offset / kChunkBytes;
  const std::uint64_t last = (offset + length - 1) / kChunkBytes;
  MutexLock lock(mu_);
  note(first, last);
  for (std::uint64_t r = region_of_chunk(first); r <= region_of_chunk(last);
       ++r) {
    --region_[r].writing;
    region_[r].touched = point_;
  }
  if (both) return;
  for (std::uint64_t c = first; c <= last; ++c)
    if (done(state_[c]) || state_[c] == Chunk::holes) put(c, Chunk::todo);
}

std::optional<std::uint64_t> CopyMap::next() {
  MutexLock lock(mu_);
  for (const Chunk wanted : {Chunk::todo, Chunk::skipped, Chunk::failed,
                             Chunk::holes, Chunk::written}) {
    if (counts_[index(wanted)] == 0) continue;
    for (std::uint64_t i = 0; i < chunks_; ++i) {
      const std::uint64_t c = (cursor_ + i) % chunks_;
      if (state_[c] != wanted) continue;
      cursor_ = c;
      return c;
    }
  }
  return std::nullopt;
}

Chunk CopyMap::state(std::uint64_t chunk) const {
  MutexLock lock(mu_);
  return state_[chunk];
}

void CopyMap::set_state(std::uint64_t chunk, Chunk state) {
  MutexLock lock(mu_);
  // A write may have undone what was being checked.
  if (state == Chunk::checked && state_[chunk] != Chunk::written) return;
  put(chunk, state);
  if (state != Chunk::checked) region_[region_of_chunk(chunk)].touched = point_;
  cursor_ = (chunk + 1) % chunks_;
}

void CopyMap::watch(std::uint64_t chunk) {
  MutexLock lock(mu_);
  watched_ = chunk;
  touched_ = false;
}

bool CopyMap::untouched() const {
  MutexLock lock(mu_);
  return !touched_;
}

void CopyMap::written(std::uint64_t chunk, std::uint32_t crc) {
  MutexLock lock(mu_);
  put(chunk, Chunk::written);
  crc_[chunk] = crc;
  has_crc_[chunk] = true;
  region_[region_of_chunk(chunk)].touched = point_;
  cursor_ = (chunk + 1) % chunks_;
}

std::optional<std::uint32_t> CopyMap::crc(std::uint64_t chunk) const {
  MutexLock lock(mu_);
  if (!has_crc_[chunk]) return std::nullopt;
  return crc_[chunk];
}

void CopyMap::distrust() {
  MutexLock lock(mu_);
  for (std::uint64_t c = 0; c < chunks_; ++c)
    put(c,
        region_[region_of_chunk(c)].may_be_set ? Chunk::written : Chunk::todo);
  has_crc_.assign(chunks_, false);
}

std::uint64_t CopyMap::settle_point() {
  MutexLock lock(mu_);
  return ++point_;
}

Status CopyMap::settle(std::uint64_t point) {
  const auto until = std::chrono::steady_clock::now() + patience_;
  MutexLock lock(mu_);
  while (saving_)
    if (Status status = wait_saved(until); !status) return status;
  std::vector<bool> bits(regions_);
  bool news = false;
  for (std::uint64_t r = 0; r < regions_; ++r) {
    const Region& region = region_[r];
    bits[r] = region.may_be_set || (region.undone == 0 && region.writing == 0 &&
                                    region.touched + 1 < point);
    news |= bits[r] && !region.may_be_set;
  }
  return news ? save(bits, false) : Status();
}

Status CopyMap::save_all() {
  const auto until = std::chrono::steady_clock::now() + patience_;
  MutexLock lock(mu_);
  while (saving_)
    if (Status status = wait_saved(until); !status) return status;
  std::vector<bool> bits(regions_);
  for (std::uint64_t r = 0; r < regions_; ++r)
    bits[r] = region_[r].may_be_set && region_[r].writing == 0;
  return save(bits, true);
}

std::array<std::uint64_t, kChunkStates> CopyMap::counts() const {
  MutexLock lock(mu_);
  return counts_;
}

std::uint64_t CopyMap::regions_in_sync() const {
  MutexLock lock(mu_);
  return static_cast<std::uint64_t>(
      std::count_if(region_.begin(), region_.end(),
                    [](const Region& r) { return r.may_be_set; }));
}

}  // namespace nbd_remap
