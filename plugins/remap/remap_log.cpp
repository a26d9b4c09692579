// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_log.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <utility>

#include "plugins/base/build_id.hpp"
#include "plugins/base/crc32c.hpp"
#include "plugins/remap/spare_owner.hpp"

namespace nbd_remap {
namespace {

std::uint64_t random_token() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace

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
  self->stand_on(survey);
  Status status = self->claim(survey);
  if (status) status = self->check_still_owner();
  if (status && (!survey.copies_agree() || self->full()))
    status = self->mend(survey, survey.chosen().state);
  if (status) status = self->append(RecordType::opened, {});
  if (!status) return std::move(status).error();
  return self;
}

void RemapLog::stand_on(const MetadataSurvey& survey) {
  for (CopyIndex c : kCopies) {
    const auto i = static_cast<std::size_t>(c);
    area_[i] = survey.copies[i].area;
  }
  sequence_ = survey.chosen().last_sequence;
  position_ = survey.chosen().log_length;
}

// As a start does it, but that the map is the one in memory: a record that was
// under way when SPARE was lost may be there or not, and must not count.
Status RemapLog::resume(const MapState& state) {
  if (Status status = spare_.flush(); !status) return status;
  if (Status status = check_still_owner(); !status) return status;
  // The log may have failed while SPARE grew, or before.
  const auto survey =
      survey_metadata(spare_, SpareSize::or_enlarged,
                      std::max(spare_.info().size_bytes, sb_.disk_bytes()));
  if (!survey) return survey.error();
  if (!survey->best)
    return make_error(EIO, fmt::format("{}: no copy can be believed: {}",
                                       spare_.info().name, survey->refusal));
  if (survey->superblock.layout != sb_.layout)
    return make_error(EIO, fmt::format("{}: it is unknown to what size it grew",
                                       spare_.info().name));
  stand_on(*survey);
  sb_.sequence = std::max(sb_.sequence, survey->superblock.sequence);
  if (Status status = settle(*survey); !status) return status;
  if (Status status = mend(*survey, state); !status) return status;
  failed_ = false;
  log_(LogLevel::info, fmt::format("{}: is back; the map is written anew, as "
                                   "of sequence {}",
                                   spare_.info().name, sequence_));
  return {};
}

// What the survey saw may be in the disk's cache only (the last server was
// killed): durable first, then the superblocks may speak of it. A copy that is
// not believed counts as out of step until mended.
Status RemapLog::claim(const MetadataSurvey& survey) {
  if (Status status = spare_.flush(); !status) return status;
  if (Status status = check_unchanged(survey); !status) return status;
  for (const CopySurvey& copy : survey.copies)
    if (copy.superblock)
      sb_.owner_epoch = std::max(sb_.owner_epoch, copy.superblock->owner_epoch);
  ++sb_.owner_epoch;
  sb_.owner_token = random_token();
  return settle(survey);
}

Status RemapLog::settle(const MetadataSurvey& survey) {
  sb_.map_sequence = sequence_;
  sb_.build_id = build_id();
  if (!survey.copies_agree()) sb_.copies_in_step = copy_bit(*survey.best);
  return write_superblocks();
}

// Two servers that start at once: one sees here that the other was first.
Status RemapLog::check_unchanged(const MetadataSurvey& survey) {
  for (CopyIndex c : kCopies) {
    const std::optional<Superblock>& seen = survey.copy(c).superblock;
    if (!seen) continue;
    const Bytes bytes = block_.first(kSuperblockBytes);
    if (Status status = spare_.read(seen->place(c), bytes); !status) {
      if (status.error().error_class != ErrorClass::medium) return status;
      continue;
    }
    const auto now = unpack_superblock(bytes);
    if (now && now->sequence == seen->sequence &&
        now->owner_token == seen->owner_token)
      continue;
    return make_error(ErrorClass::transport, EBUSY,
                      fmt::format("{}: another server is taking it over",
                                  spare_.info().name));
  }
  return {};
}

// A new checkpoint under a sequence number above everything that was ever
// seen, so that no leftover of either log can be taken for a later record.
// The copy that is believed keeps its old checkpoint and its place in the
// superblocks until the other one is whole and durable.
Status RemapLog::mend(const MetadataSurvey& survey, const MapState& state) {
  for (const CopySurvey& copy : survey.copies)
    for (const std::string& words : copy.damages)
      log_(LogLevel::warning,
           fmt::format("{}: {}; repairing", spare_.info().name, words));
  const CopyIndex best = *survey.best;
  const CopyIndex other = other_copy(best);
  if (!survey.copies_agree())
    log_(LogLevel::warning,
         fmt::format("{}: the copies of the metadata differ; writing the "
                     "{} anew from the {}, as of sequence {}",
                     spare_.info().name, copy_name(other), copy_name(best),
                     sequence_));
  sequence_ = std::max(sequence_, survey.max_sequence_seen()) + 1;
  std::uint32_t in_step = 0;
  bool usable = true;
  if (!survey.copies_agree()) {
    auto wiped = wipe(other);
    if (!wiped) return fail(std::move(wiped).error());
    usable = *wiped;
  }
  for (CopyIndex c : {other, best}) {
    if (c == other && !usable) continue;
    auto took = write_checkpoint(copy_bit(c), state);
    if (!took) return fail(std::move(took).error());
    in_step |= *took;
  }
  if (in_step == 0)
    return fail(
        make_error(EIO, spare_.info().name + ": neither copy can be written"));
  position_ = 0;
  sb_.copies_in_step = in_step;
  sb_.map_sequence = sequence_;
  if (Status status = write_superblocks(); !status)
    return fail(std::move(status).error());
  return {};
}

// Clears the leftovers of a copy that is out of step, and cures unreadable
// sectors by writing them. False: it cannot be written.
Result<bool> RemapLog::wipe(CopyIndex copy) {
  const Layout& l = sb_.layout;
  auto zero = [&](DeviceOffset at, std::uint64_t length) {
    return spare_.zero(at, length, ZeroMode::keep_allocated,
                       Durability::cached);
  };
  Status status = zero(l.checkpoint(copy, 0), l.block_bytes);
  if (status) status = zero(l.checkpoint(copy, 1), l.block_bytes);
  if (status) status = zero(l.record(copy, 0), l.log_records * l.block_bytes);
  if (status) return true;
  if (status.error().error_class != ErrorClass::medium)
    return std::move(status).error();
  log_(LogLevel::error,
       fmt::format("{}: {} cannot be repaired: {}", spare_.info().name,
                   copy_name(copy), status.error().text()));
  return false;
}

// A whole block, so that no disk has to read what it may not be able to.
Status RemapLog::write_superblock(CopyIndex copy) {
  AlignedBuffer block(sb_.layout.block_bytes);
  sb_.copy = copy;
  pack_superblock(sb_, block.bytes());
  return spare_.write(sb_.place(copy), block.bytes(), Durability::cached);
}

// The copies that are out of step first, whose answer is no news, so that one
// whole superblock says the old or the new at every moment. A copy in step
// that does not take it falls out.
Status RemapLog::write_superblocks() {
  for (;;) {
    ++sb_.sequence;
    std::uint32_t lost = 0;
    Status last;
    for (const bool in_step : {false, true})
      for (CopyIndex c : kCopies) {
        if (((sb_.copies_in_step & copy_bit(c)) != 0) != in_step) continue;
        Status status = write_superblock(c);
        if (!status) {
          if (status.error().error_class != ErrorClass::medium) return status;
          log_(LogLevel::error,
               fmt::format("{}: {}: {}", spare_.info().name, copy_name(c),
                           status.error().text()));
          if (in_step) lost |= copy_bit(c);
          last = std::move(status);
        }
        if (Status flushed = spare_.flush(); !flushed) return flushed;
      }
    if (lost == 0) return {};
    if (lost == sb_.copies_in_step) return last;
    sb_.copies_in_step &= ~lost;
  }
}

Status RemapLog::check_still_owner() {
  const auto owner = find_owner(spare_, sb_, block_.bytes());
  if (!owner) return owner.error();
  if (*owner == Owner::self) return {};
  if (*owner == Owner::unknown)
    return make_error(EIO, spare_.info().name + ": no superblock");
  return make_error(
      ErrorClass::transport, ESHUTDOWN,
      fmt::format("{}: another server took it over", spare_.info().name));
}

Status RemapLog::fail(Error error) {
  failed_ = true;
  log_(LogLevel::error,
       fmt::format("{}: no further change of the map is possible until a "
                   "restart: {}",
                   spare_.info().name, error.text()));
  return error;
}

// Durable before anything newer than the lost copy may count.
Status RemapLog::drop_copies(std::uint32_t lost, const Error& why) {
  if (lost == sb_.copies_in_step) return why;
  sb_.copies_in_step &= ~lost;
  log_(LogLevel::error,
       fmt::format(
           "{}: {} fails, going on with the other: {}", spare_.info().name,
           copy_name(lost == copy_bit(CopyIndex::head) ? CopyIndex::head
                                                       : CopyIndex::tail),
           why.text()));
  return write_superblocks();
}

Status RemapLog::write_record(const Record& record) {
  pack_record(record, block_.bytes());
  std::uint32_t lost = 0;
  Status last;
  for (CopyIndex c : kCopies) {
    if (!(sb_.copies_in_step & copy_bit(c))) continue;
    Status status = spare_.write(sb_.layout.record(c, position_),
                                 block_.bytes(), Durability::cached);
    if (status) continue;
    if (status.error().error_class != ErrorClass::medium) return status;
    lost |= copy_bit(c);
    last = std::move(status);
  }
  if (lost)
    if (Status status = drop_copies(lost, last.error()); !status) return status;
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
  if (Status status = write_record(record); !status)
    return fail(std::move(status).error());
  ++sequence_;
  ++position_;
  if (type != RecordType::closed) return {};
  sb_.map_sequence = sequence_;
  if (Status status = write_superblocks(); !status)
    return fail(std::move(status).error());
  return {};
}

Status write_checkpoint_body(Backend& spare, const Layout& layout,
                             CopyIndex copy, unsigned area, ConstBytes body) {
  constexpr std::size_t kChunkBytes = 1 << 20;
  AlignedBuffer chunk(
      std::min(kChunkBytes, round_up(body.size(), layout.block_bytes)));
  const std::uint64_t base =
      layout.checkpoint(copy, area).value + layout.block_bytes;
  for (std::size_t done = 0; done < body.size();) {
    const std::size_t n = std::min(kChunkBytes, body.size() - done);
    const std::size_t whole = round_up(n, layout.block_bytes);
    std::copy_n(body.begin() + static_cast<long>(done), n, chunk.data());
    std::fill(chunk.data() + n, chunk.data() + whole, std::byte{});
    Status status = spare.write(DeviceOffset{base + done}, chunk.first(whole),
                                Durability::cached);
    if (!status) return status;
    done += n;
  }
  return {};
}

// Writes a checkpoint of sequence_ to each of these copies, in the area that
// does not hold its current one. Returns the copies that took it.
Result<std::uint32_t> RemapLog::write_checkpoint(std::uint32_t copies,
                                                 const MapState& state) {
  const std::vector<std::byte> body = pack_checkpoint_body(state);
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
  Status status = each([&](CopyIndex c) {
    return write_checkpoint_body(spare_, sb_.layout, c, 1 - area(c), body);
  });
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
  auto took = write_checkpoint(sb_.copies_in_step, state);
  if (!took) return fail(std::move(took).error());
  if (*took == 0)
    return fail(
        make_error(EIO, spare_.info().name + ": no copy takes a checkpoint"));
  sb_.copies_in_step = *took;
  sb_.map_sequence = sequence_;
  if (Status status = write_superblocks(); !status)
    return fail(std::move(status).error());
  position_ = 0;
  return {};
}

}  // namespace nbd_remap
