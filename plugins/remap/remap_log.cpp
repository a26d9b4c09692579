// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_log.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/base/build_id.hpp"
#include "plugins/base/crc32c.hpp"

namespace nbd_remap {

std::vector<std::byte> pack_checkpoint_body(const MapState& state) {
  std::vector<std::byte> body((state.retired.size() + state.entries.size()) *
                              kEntryBytes);
  std::size_t offset = 0;
  auto put = [&](const Entry& e) {
    pack_entry(e, Bytes(body).subspan(offset, kEntryBytes));
    offset += kEntryBytes;
  };
  for (SlotNo slot : state.retired) put({EntryKind::retired, {}, slot, 0});
  for (const RemapEntry& e : state.entries) {
    if (e.remapped())
      put({EntryKind::remapped, e.block, e.slot(), e.valid});
    else
      put({EntryKind::pending, e.block, {}, e.valid});
  }
  return body;
}

RemapLog::RemapLog(Backend& spare, LogSink log)
    : spare_(spare), log_(std::move(log)) {}

Result<std::unique_ptr<RemapLog>> RemapLog::take_over(
    Backend& spare, const MetadataSurvey& survey, LogSink log) {
  std::unique_ptr<RemapLog> self(new RemapLog(spare, std::move(log)));
  self->sb_ = survey.superblock;
  self->block_ = AlignedBuffer(survey.superblock.layout.block_bytes);
  for (CopyIndex c : kCopies) {
    const auto i = static_cast<std::size_t>(c);
    self->area_[i] = survey.copies[i].area;
  }
  self->sequence_ = survey.chosen().last_sequence;
  self->position_ = survey.chosen().log_length;
  if (Status status = self->claim(survey); !status)
    return std::move(status).error();
  if (!survey.copies_agree() || self->full()) {
    if (Status status = self->mend(survey); !status)
      return std::move(status).error();
  }
  if (Status status = self->append(RecordType::opened, {}); !status)
    return std::move(status).error();
  return self;
}

// The copy that is believed is written last: at every moment one superblock
// is whole. A copy that is not believed counts as out of step until mended.
Status RemapLog::claim(const MetadataSurvey& survey) {
  std::uint64_t epoch = 0;
  for (const CopySurvey& copy : survey.copies)
    if (copy.superblock) epoch = std::max(epoch, copy.superblock->owner_epoch);
  sb_.owner_epoch = epoch + 1;
  sb_.sequence = survey.superblock.sequence + 1;
  sb_.build_id = build_id();
  const CopyIndex best = *survey.best;
  const CopyIndex other = other_copy(best);
  if (!survey.copies_agree()) sb_.copies_in_step = copy_bit(best);
  Status status = write_superblock(other);
  if (!status && status.error().error_class != ErrorClass::medium)
    return status;
  if (!status) {
    log_(LogLevel::error, fmt::format("{}: {}: superblock cannot be written",
                                      spare_.info().name, copy_name(other)));
    sb_.copies_in_step = copy_bit(best);
  }
  return write_superblock(best);
}

// A new checkpoint under a sequence number above everything that was ever
// seen, so that no leftover of either log can be taken for a later record.
// The copy that is believed keeps its old checkpoint and its place in the
// superblocks until the other one is whole and durable.
Status RemapLog::mend(const MetadataSurvey& survey) {
  for (const CopySurvey& copy : survey.copies)
    for (const std::string& words : copy.damages)
      log_(LogLevel::warning,
           fmt::format("{}: {}; repairing", spare_.info().name, words));
  const CopyIndex best = *survey.best;
  const CopyIndex other = other_copy(best);
  const std::vector<std::byte> body =
      pack_checkpoint_body(survey.chosen().state);
  sequence_ = std::max(sequence_, survey.max_sequence_seen()) + 1;
  auto mended = write_checkpoint(copy_bit(other), body);
  if (!mended) return fail(std::move(mended).error());
  std::uint32_t in_step = *mended;
  if (in_step && !survey.copy(other).sound()) {
    // Clears leftovers, and cures unreadable sectors by writing them.
    const Status status =
        spare_.zero(sb_.layout.record(other, 0),
                    sb_.layout.log_records * sb_.layout.block_bytes,
                    ZeroMode::keep_allocated, Durability::cached);
    if (!status && status.error().error_class != ErrorClass::medium)
      return fail(status.error());
    if (!status) in_step = 0;
  }
  auto renewed = write_checkpoint(copy_bit(best), body);
  if (!renewed) return fail(std::move(renewed).error());
  in_step |= *renewed;
  if (in_step == 0)
    return fail(
        make_error(EIO, spare_.info().name + ": neither copy can be written"));
  position_ = 0;
  if (in_step == sb_.copies_in_step) return {};
  sb_.copies_in_step = in_step;
  return write_superblocks();
}

Status RemapLog::write_superblock(CopyIndex copy) {
  AlignedBuffer place(kSuperblockPlaceBytes);
  sb_.copy = copy;
  pack_superblock(sb_, place.bytes());
  const std::uint32_t logical = spare_.info().logical_block_bytes;
  const ConstBytes bytes =
      place.first(std::max<std::size_t>(logical, kSuperblockBytes));
  Status status =
      spare_.write(sb_.layout.superblock(copy), bytes, Durability::cached);
  if (!status) return status;
  return spare_.flush();
}

Status RemapLog::check_still_owner() {
  Status last = make_error(EIO, spare_.info().name + ": no superblock");
  for (CopyIndex c : kCopies) {
    const std::size_t n = std::max<std::size_t>(
        spare_.info().logical_block_bytes, kSuperblockBytes);
    const Bytes bytes = block_.first(n);
    if (Status status = spare_.read(sb_.layout.superblock(c), bytes); !status) {
      last = std::move(status);
      continue;
    }
    auto superblock = unpack_superblock(bytes);
    if (!superblock) {
      last = std::move(superblock).error();
      continue;
    }
    if (superblock->uuid == sb_.uuid &&
        superblock->owner_epoch == sb_.owner_epoch)
      return {};
    return make_error(
        ErrorClass::transport, ESHUTDOWN,
        fmt::format("{}: another server took it over (epoch {}, ours {})",
                    spare_.info().name, superblock->owner_epoch,
                    sb_.owner_epoch));
  }
  return last;
}

Status RemapLog::fail(Error error) {
  failed_ = true;
  log_(LogLevel::error,
       fmt::format("{}: no further change of the map is possible until a "
                   "restart: {}",
                   spare_.info().name, error.text()));
  return error;
}

// The new state of the copies, into both superblocks: the copies that are out
// of step first, whose answer is no news, so that one whole superblock says
// the old or the new at every moment.
Status RemapLog::write_superblocks() {
  ++sb_.sequence;
  for (const bool in_step : {false, true})
    for (CopyIndex c : kCopies) {
      if (((sb_.copies_in_step & copy_bit(c)) != 0) != in_step) continue;
      Status status = write_superblock(c);
      if (status) continue;
      if (in_step || status.error().error_class != ErrorClass::medium)
        return fail(std::move(status).error());
    }
  return {};
}

// Durable before anything newer than the dropped copy may count.
Status RemapLog::drop_copy(CopyIndex copy, const Error& why) {
  sb_.copies_in_step &= ~copy_bit(copy);
  log_(LogLevel::error,
       fmt::format("{}: {} fails, going on with the other: {}",
                   spare_.info().name, copy_name(copy), why.text()));
  if (sb_.copies_in_step == 0) return why;
  return write_superblocks();
}

template <class Place>
Status RemapLog::write_copies(Place place, ConstBytes data) {
  for (CopyIndex c : kCopies) {
    if (!(sb_.copies_in_step & copy_bit(c))) continue;
    Status status = spare_.write(place(c), data, Durability::cached);
    if (status) continue;
    if (status.error().error_class != ErrorClass::medium) return status;
    if (Status s = drop_copy(c, status.error()); !s) return s;
  }
  return spare_.flush();
}

Status RemapLog::append(RecordType type, const std::vector<Entry>& entries) {
  if (failed_)
    return make_error(EIO, spare_.info().name + ": the log has failed");
  if (Status status = check_still_owner(); !status)
    return fail(std::move(status).error());
  Record record;
  record.uuid = sb_.uuid;
  record.sequence = sequence_ + 1;
  record.owner_epoch = sb_.owner_epoch;
  record.type = type;
  record.entries = entries;
  pack_record(record, block_.bytes());
  Status status =
      write_copies([&](CopyIndex c) { return sb_.layout.record(c, position_); },
                   block_.bytes());
  if (!status) return fail(std::move(status).error());
  ++sequence_;
  ++position_;
  return {};
}

Status RemapLog::write_body(CopyIndex copy, unsigned area, ConstBytes body) {
  constexpr std::size_t kChunkBytes = 1 << 20;
  AlignedBuffer chunk(kChunkBytes);
  const std::uint64_t base =
      sb_.layout.checkpoint(copy, area).value + sb_.layout.block_bytes;
  for (std::size_t done = 0; done < body.size();) {
    const std::size_t n = std::min(kChunkBytes, body.size() - done);
    const std::size_t whole = round_up(n, sb_.layout.block_bytes);
    std::copy_n(body.begin() + static_cast<long>(done), n, chunk.data());
    std::fill(chunk.data() + n, chunk.data() + whole, std::byte{});
    Status status = spare_.write(DeviceOffset{base + done}, chunk.first(whole),
                                 Durability::cached);
    if (!status) return status;
    done += n;
  }
  return {};
}

// Writes a checkpoint of sequence_ to each of these copies, in the area that
// does not hold its current one. Returns the copies that took it.
Result<std::uint32_t> RemapLog::write_checkpoint(
    std::uint32_t copies, const std::vector<std::byte>& body) {
  auto area = [&](CopyIndex c) -> unsigned& {
    return area_[static_cast<std::size_t>(c)];
  };
  auto each = [&](auto&& write) -> Status {
    for (CopyIndex c : kCopies) {
      if (!(copies & copy_bit(c))) continue;
      Status status = write(c);
      if (status) continue;
      if (status.error().error_class != ErrorClass::medium) return status;
      log_(LogLevel::error,
           fmt::format("{}: {}: checkpoint: {}", spare_.info().name,
                       copy_name(c), status.error().text()));
      copies &= ~copy_bit(c);
    }
    return spare_.flush();
  };
  Status status =
      each([&](CopyIndex c) { return write_body(c, 1 - area(c), body); });
  if (!status) return std::move(status).error();
  CheckpointHeader header;
  header.uuid = sb_.uuid;
  header.sequence = sequence_;
  header.owner_epoch = sb_.owner_epoch;
  header.entries = body.size() / kEntryBytes;
  header.body_crc = crc32c(body);
  pack_checkpoint_header(header, block_.bytes());
  status = each([&](CopyIndex c) {
    return spare_.write(sb_.layout.checkpoint(c, 1 - area(c)), block_.bytes(),
                        Durability::cached);
  });
  if (!status) return std::move(status).error();
  for (CopyIndex c : kCopies)
    if (copies & copy_bit(c)) area(c) = 1 - area(c);
  return copies;
}

Status RemapLog::checkpoint(const MapState& state) {
  if (failed_)
    return make_error(EIO, spare_.info().name + ": the log has failed");
  if (Status status = check_still_owner(); !status)
    return fail(std::move(status).error());
  ++sequence_;
  auto took = write_checkpoint(sb_.copies_in_step, pack_checkpoint_body(state));
  if (!took) return fail(std::move(took).error());
  for (CopyIndex c : kCopies) {
    if (!(sb_.copies_in_step & ~*took & copy_bit(c))) continue;
    Status status =
        drop_copy(c, make_error(EIO, spare_.info().name + ": checkpoint"));
    if (!status) return fail(std::move(status).error());
  }
  position_ = 0;
  return {};
}

}  // namespace nbd_remap
