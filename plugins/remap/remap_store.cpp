// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace nbd_remap {

struct RemapStore::Commit {
  const std::vector<RemapEntry>* entries = nullptr;
  const std::vector<SlotNo>* retire = nullptr;
  std::size_t size() const { return entries->size() + retire->size(); }
  bool done = false;
  Status status = make_error(ENOMEM, "spare: commit");  // until it is written
};

namespace {

bool is_clean(const RemapEntry& e, std::uint64_t all_valid) {
  return !e.remapped() && e.valid == all_valid;
}

}  // namespace

Status check_binding(const Superblock& sb, const Backend& spare,
                     const Binding& want) {
  auto refuse = [&](const std::string& words) {
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("{}: {}", spare.info().name, words));
  };
  if (!sb.is_candidate() || !want.took_place)
    if (Status in_place = check_in_place(sb, spare); !in_place) return in_place;
  if (want.spare_uuid && sb.uuid != *want.spare_uuid)
    return refuse(fmt::format("this SPARE is {}, not the wanted {}",
                              uuid_text(sb.uuid), uuid_text(*want.spare_uuid)));
  if (sb.size_of_main_disk() != want.main_bytes)
    return refuse(fmt::format(
        "this SPARE ({}) belongs to a MAIN of {} bytes; {} has {}: another "
        "disk, or resized",
        uuid_text(sb.uuid), sb.size_of_main_disk(), want.main_name,
        want.main_bytes));
  if (sb.main_identity != stored_identity(want.main_identity))
    return refuse(fmt::format(
        "this SPARE ({}) belongs to another MAIN, \"{}\"; {} is \"{}\"",
        uuid_text(sb.uuid), sb.main_identity, want.main_name,
        stored_identity(want.main_identity)));
  if (sb.spare_identity != stored_identity(spare.info().identity))
    return refuse(fmt::format(
        "this is a copy of SPARE {}: it was formatted on \"{}\", this is "
        "\"{}\"",
        uuid_text(sb.uuid), sb.spare_identity,
        stored_identity(spare.info().identity)));
  if (want.block_bytes && sb.layout.block_bytes != *want.block_bytes)
    return refuse(fmt::format("this SPARE has blocks of {} bytes, not {}",
                              sb.layout.block_bytes, *want.block_bytes));
  return {};
}

RemapStore::RemapStore(const Layout& layout, std::uint64_t blocks,
                       bool read_only, LogSink log)
    : layout_(layout),
      blocks_(blocks),
      pending_capacity_(layout.pending_capacity()),
      read_only_(read_only),
      log_sink_(std::move(log)),
      table_(blocks),
      pool_(layout) {}

Result<std::unique_ptr<RemapStore>> RemapStore::open(Backend& spare,
                                                     const Binding& binding,
                                                     bool read_only,
                                                     const LogSink& log) {
  auto survey = survey_metadata(spare);
  if (!survey) return std::move(survey).error();
  const Superblock& sb = survey->superblock;
  if (Status status = check_binding(sb, spare, binding); !status)
    return std::move(status).error();
  if (!survey->best)
    return make_error(ErrorClass::medium, EUCLEAN,
                      fmt::format("{}: no copy of the metadata can be "
                                  "believed, nothing was written: {}",
                                  spare.info().name, survey->refusal));
  // It was asked above whether a candidate took its place.
  survey->superblock.features.incompatible &= ~kFeatureCandidate;
  if (!read_only)
    if (Status status = check_may_write(*survey, spare); !status)
      return std::move(status).error();
  const std::uint64_t blocks =
      (sb.main_bytes + sb.layout.block_bytes - 1) / sb.layout.block_bytes;
  std::unique_ptr<RemapStore> self(
      new RemapStore(sb.layout, blocks, read_only, log));
  const MapState& state = survey->chosen().state;
  self->table_.load(state.entries);
  for (const RemapEntry& e : state.entries)
    if (e.remapped() && !self->pool_.mark_taken(e.slot()))
      return make_error(ErrorClass::bug, EUCLEAN, "a slot used twice");
  for (SlotNo slot : state.retired) {
    if (!self->pool_.mark_taken(slot))
      return make_error(ErrorClass::bug, EUCLEAN, "a slot retired twice");
    self->pool_.retire(slot);
  }
  if (!read_only) {
    auto taken = RemapLog::take_over(spare, *survey, log);
    if (!taken) return std::move(taken).error();
    self->log_ = std::move(*taken);
    self->covers_failed_ = spare.info().flush_covers_failed;
    // A log that is not short is work for every start: begin it anew at stop.
    self->changed_ = self->log_->log_length() > 2;
  }
  if (sb.layout.state_at != 0)
    self->state_area_ = std::make_unique<StateArea>(
        spare, DeviceOffset{sb.layout.state_at}, sb.uuid,
        [store = self.get()] { return store->may_note(); });
  MutexLock lock(self->mu_);
  self->published_.superblock = sb;
  self->published_.sequence = survey->chosen().last_sequence;
  self->published_.log_length = survey->chosen().log_length;
  self->publish_log();
  return self;
}

Status RemapStore::may_note() const {
  if (read_only_)
    return make_error(ErrorClass::full, EROFS, "spare: opened read-only");
  if (taken_over_)
    return make_error(ErrorClass::transport, ESHUTDOWN,
                      "spare: another server has it");
  return {};
}

std::uint64_t RemapStore::all_valid() const {
  const std::uint32_t sectors = layout_.block_bytes / kSectorBytes;
  return sectors == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << sectors) - 1;
}

void RemapStore::publish_log() {
  if (!log_) return;
  published_.superblock = log_->superblock();
  published_.sequence = log_->sequence();
  published_.log_length = log_->log_length();
}

Status RemapStore::commit(const std::vector<RemapEntry>& entries,
                          const std::vector<SlotNo>& retire) {
  if (read_only_)
    return make_error(ErrorClass::full, EROFS, "spare: opened read-only");
  if (entries.size() + retire.size() > max_entries())
    return make_error(ErrorClass::bug, EIO, "spare: commit too large");
  for (const RemapEntry& e : entries)
    if (e.block.value >= blocks_ || (e.remapped() && !pool_.has(e.slot())))
      return make_error(ErrorClass::bug, EIO,
                        fmt::format("spare: commit of block {}, slot {}",
                                    e.block.value, e.slot_or_none));
  Commit mine;
  mine.entries = &entries;
  mine.retire = &retire;
  std::vector<Commit*> batch;
  {
    MutexLock lock(mu_);
    waiting_.push_back(&mine);
    while (!mine.done && writing_) done_.wait(mu_);
    if (mine.done) return std::move(mine.status);
    writing_ = true;
    batch.swap(waiting_);
  }
  try {
    write_batch(batch);
  } catch (const std::bad_alloc&) {
    // Those that were not reached fail; nothing of them was written.
  }
  {
    MutexLock lock(mu_);
    writing_ = false;
    for (Commit* commit : batch) commit->done = true;
    publish_log();
    done_.notify_all();
  }
  return std::move(mine.status);
}

void RemapStore::append_entries(const Commit& commit,
                                std::vector<Entry>& out) const {
  for (SlotNo slot : *commit.retire)
    out.push_back({EntryKind::retired, {}, slot, 0});
  for (const RemapEntry& e : *commit.entries) {
    if (e.remapped())
      out.push_back({EntryKind::remapped, e.block, e.slot(), e.valid});
    else if (is_clean(e, all_valid()))
      out.push_back({EntryKind::clean, e.block, {}, e.valid});
    else
      out.push_back({EntryKind::pending, e.block, {}, e.valid});
  }
}

// Whole commits share a record as long as they fit; each record is durable,
// then visible, before the next one is begun, so that a checkpoint between two
// records has all that was written before it.
void RemapStore::write_batch(const std::vector<Commit*>& batch) {
  Status broken = resume_log();
  for (auto next = batch.begin(); next != batch.end();) {
    std::vector<Commit*> group;
    std::vector<Entry> entries;
    std::uint64_t pending = table_.pending_count();
    for (; next != batch.end(); ++next) {
      Commit* commit = *next;
      if (entries.size() + commit->size() > max_entries()) break;
      const std::uint64_t fresh = new_pending(*commit);
      if (fresh != 0 && pending + fresh > pending_capacity_) {
        commit->status =
            make_error(ErrorClass::full, EIO,
                       "spare: no room to remember another pending block");
        continue;
      }
      pending += fresh;
      append_entries(*commit, entries);
      group.push_back(commit);
    }
    if (broken && !group.empty()) broken = write_record(entries, group);
    if (!broken) {
      remember(broken.error());
      keep_slots(group);
    }
    for (Commit* commit : group) commit->status = broken;
  }
}

// OK if nothing has failed, or no longer.
Status RemapStore::resume_log() {
  {
    MutexLock lock(mu_);
    if (failed_.empty()) return {};
    if (!resumable_)
      return make_error(ErrorClass::full, EIO, "spare: " + failed_);
  }
  if (Status status = log_->resume(state()); !status) {
    if (status.error().errnum == ESHUTDOWN) taken_over_ = true;
    status.error().error_class = ErrorClass::transport;
    return status;
  }
  for (SlotNo slot : uncertain_slots_) pool_.free(slot);
  uncertain_slots_.clear();
  MutexLock lock(mu_);
  failed_.clear();
  ++resumes_;
  return {};
}

void RemapStore::keep_slots(const std::vector<Commit*>& group) {
  for (const Commit* commit : group)
    for (const RemapEntry& e : *commit->entries) {
      const auto old = table_.find_first(e.block, BlockNo{e.block.value + 1});
      if (e.remapped() && !(old && old->slot_or_none == e.slot_or_none))
        uncertain_slots_.push_back(e.slot());
    }
}

// Errors: never of class medium, which would say that a slot is bad.
Status RemapStore::write_record(const std::vector<Entry>& entries,
                                const std::vector<Commit*>& group) {
  Status status;
  try {
    if (log_->full()) status = log_->checkpoint(state());
    if (status) status = log_->append(RecordType::changes, entries);
    if (status) {
      changed_ = true;
      for (const Commit* commit : group) apply(*commit);
      return {};
    }
  } catch (const std::bad_alloc&) {
    // The record may be durable and the table not know all of it: no more
    // changes before the map in memory is made to count. No flush has failed.
    resumable_ = true;
    return make_error(ENOMEM, "spare: commit");
  }
  if (status.error().errnum == ESHUTDOWN) taken_over_ = true;
  resumable_ =
      covers_failed_ && status.error().error_class == ErrorClass::transport;
  if (status.error().error_class == ErrorClass::medium)
    status.error().error_class = ErrorClass::full;
  return status;
}

// Whatever it is: that something failed is never forgotten.
void RemapStore::remember(const Error& error) noexcept {
  MutexLock lock(mu_);
  if (!failed_.empty()) return;
  try {
    failed_ = error.text();
  } catch (const std::bad_alloc&) {
    failed_ = "out of memory";  // so short that it needs none
  }
}

std::uint64_t RemapStore::new_pending(const Commit& commit) const {
  std::uint64_t n = 0;
  for (const RemapEntry& e : *commit.entries) {
    if (e.remapped() || is_clean(e, all_valid())) continue;
    const auto old = table_.find_first(e.block, BlockNo{e.block.value + 1});
    if (!old || old->remapped()) ++n;
  }
  return n;
}

// In an order that leaves a map that is one, should memory run out half-way: a
// slot is retired once no block has it.
void RemapStore::apply(const Commit& commit) {
  auto retired = [&](SlotNo slot) {
    return std::find(commit.retire->begin(), commit.retire->end(), slot) !=
           commit.retire->end();
  };
  for (const RemapEntry& e : *commit.entries) {
    const auto old = table_.find_first(e.block, BlockNo{e.block.value + 1});
    if (is_clean(e, all_valid()))
      table_.erase(e.block);
    else
      table_.put(e);
    if (old && old->remapped() && old->slot_or_none != e.slot_or_none &&
        !retired(old->slot()))
      pool_.free(old->slot());
  }
  for (SlotNo slot : *commit.retire) pool_.retire(slot);
}

MapState RemapStore::state() const {
  return {table_.snapshot(), pool_.retired()};
}

Status RemapStore::close() {
  if (read_only_) return {};
  // The table may lack what is in the log: a checkpoint of it would lie.
  if (Status sound = resume_log(); !sound) {
    sound.error().place = "spare: not closed: " + sound.error().place;
    return sound;
  }
  Status status;
  if (changed_ || log_->full()) status = log_->checkpoint(state());
  if (status) {
    changed_ = false;
    status = log_->append(RecordType::closed, {});
  }
  if (!status) remember(status.error());
  MutexLock lock(mu_);
  publish_log();
  return status;
}

StoreStatus RemapStore::status() const {
  StoreStatus out;
  {
    MutexLock lock(mu_);
    out = published_;
    out.failed = failed_;
  }
  out.slots = pool_.counts();
  out.remapped = table_.remapped_count();
  out.pending = table_.pending_count();
  out.pending_capacity = pending_capacity_;
  out.read_only = read_only_;
  return out;
}

}  // namespace nbd_remap
