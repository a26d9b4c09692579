// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_move.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/build_id.hpp"
#include "plugins/remap/fresh_map.hpp"
#include "plugins/remap/remap_log.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/remap/state_area.hpp"

namespace nbd_remap {

Status prepare_candidate(Backend& next, const Layout& layout) {
  const std::uint64_t bytes = next.info().size_bytes;
  Status status;
  for (CopyIndex c : kCopies)
    if (status)
      status = next.zero(superblock_place(bytes, c), kSuperblockPlaceBytes,
                         ZeroMode::keep_allocated, Durability::cached);
  if (status) status = erase_states(next, layout);
  if (status) status = next.flush();
  return status;
}

Result<std::optional<Superblock>> find_superblock(Backend& disk) {
  std::optional<Superblock> newest;
  Status unreadable;
  int read = 0;
  for (CopyIndex c : kCopies) {
    AlignedBuffer block(kSuperblockBytes);
    Status status =
        disk.read(superblock_place(disk.info().size_bytes, c), block.bytes());
    if (!status) {
      if (status.error().error_class != ErrorClass::medium)
        return std::move(status).error();
      unreadable = std::move(status);
      continue;
    }
    ++read;
    auto sb = unpack_superblock(block.bytes());
    if (!sb && sb.error().errnum == EPROTONOSUPPORT)
      return std::move(sb).error();
    if (sb && (!newest || sb->sequence > newest->sequence)) newest = *sb;
  }
  if (read == 0) return std::move(unreadable).error();
  return newest;
}

Result<bool> find_replaced(Backend& old, const Superblock& candidate) {
  const auto found = find_superblock(old);
  if (!found) return found.error();
  return found->has_value() && (*found)->was_replaced() &&
         (*found)->uuid == candidate.uuid &&
         (*found)->spare_identity == candidate.spare_identity;
}

Result<Superblock> RemapLog::write_candidate(
    Backend& next, const MapState& state,
    const std::function<Status()>& beside) {
  Superblock candidate = sb_;
  const std::uint64_t bytes = next.info().size_bytes;
  candidate.spare_identity = stored_identity(next.info().identity);
  candidate.growing_to_bytes =
      bytes == candidate.layout.spare_bytes ? 0 : bytes;
  candidate.map_sequence = sequence_ + 1;
  candidate.copies_in_step = 3;
  candidate.features.incompatible |= kFeatureCandidate;
  candidate.build_id = build_id();
  ++candidate.sequence;
  Status status = prepare_candidate(next, candidate.layout);
  if (status) status = write_map(next, candidate, state);
  if (status) status = beside();
  AlignedBuffer block(candidate.layout.block_bytes);
  for (CopyIndex c : kCopies) {
    candidate.copy = c;
    pack_superblock(candidate, block.bytes());
    if (status)
      status =
          next.write(candidate.place(c), block.bytes(), Durability::cached);
    if (status) status = next.flush();
  }
  if (!status) return std::move(status).error();
  return candidate;
}

Status RemapLog::leave_for(const Superblock& candidate) {
  const Superblock before = sb_;
  sb_.features.incompatible |= kFeatureReplaced;
  sb_.spare_identity = candidate.spare_identity;
  Status status = write_superblocks();
  if (status) return {};
  // Should the log be resumed, this SPARE is the one.
  sb_.features = before.features;
  sb_.spare_identity = before.spare_identity;
  status = fail(std::move(status).error());
  status.error().error_class = ErrorClass::transport;
  return status;
}

void RemapLog::stand_on(Superblock&& candidate) noexcept {
  candidate.sequence = std::max(sb_.sequence, candidate.sequence);
  candidate.features.incompatible &= ~kFeatureCandidate;
  sb_ = std::move(candidate);
  sequence_ = sb_.map_sequence;
  position_ = 0;
  area_ = {};
}

Status RemapLog::arrive() {
  if (Status status = write_superblocks(); !status)
    return fail(std::move(status).error());
  return {};
}

Moved RemapStore::move_to(Backend& next, const MoveRequest& request,
                          Status& why) {
  Moved moved = Moved::no;
  why = alone([&]() -> Status {
    {
      MutexLock lock(mu_);
      if (!failed_.empty())
        return make_error(ErrorClass::caller, EIO, "spare: " + failed_);
    }
    if (Status may = log_->may_change(); !may) return may;
    MapState next_state{table_.snapshot(), {}};
    std::vector<RemapEntry> changed;
    for (RemapEntry& e : next_state.entries) {
      if (!e.remapped()) continue;
      const std::uint64_t valid = e.valid & ~request.lost(e.slot());
      if (valid == e.valid) continue;
      e.valid = valid;
      changed.push_back(e);
    }
    auto candidate = log_->write_candidate(next, next_state, request.beside);
    if (!candidate) {
      moved = Moved::next_failed;
      return make_error(ErrorClass::caller, candidate.error().errnum,
                        candidate.error().place);
    }
    // What is lost cannot be read on the old SPARE either. From here on
    // nothing may fail for want of memory.
    for (const RemapEntry& e : changed) table_.put(e);
    request.decides();
    moved = Moved::undecided;
    if (Status left = log_->leave_for(*candidate); !left) return left;
    moved = Moved::yes;
    log_->stand_on(std::move(*candidate));
    request.exchange();
    pool_.revive();
    changed_ = true;
    covers_failed_ = log_->covers_failed();
    Status arrived = log_->arrive();
    if (arrived) return {};
    arrived.error().error_class = ErrorClass::transport;
    return arrived;
  });
  return moved;
}

}  // namespace nbd_remap
