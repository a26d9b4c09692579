// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_grow.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/remap/fresh_map.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/remap_log.hpp"
#include "plugins/remap/remap_store.hpp"

namespace nbd_remap {
namespace {

Error refusal(const std::string& words, int errnum = EINVAL) {
  return make_error(ErrorClass::caller, errnum, words);
}

Result<Layout> grown_layout(const Layout& old, std::uint64_t spare_bytes,
                            const std::string& name) {
  if (spare_bytes <= old.spare_bytes)
    return refusal(
        fmt::format("{}: has {} bytes and was formatted with {}: "
                    "enlarge it first; it cannot be made smaller",
                    name, spare_bytes, old.spare_bytes));
  if (spare_bytes > kMaxSpareBytes)
    return refusal(
        fmt::format("{}: {} bytes are more than a SPARE can have, {}", name,
                    spare_bytes, kMaxSpareBytes));
  if (const auto grown = grow_layout(old, spare_bytes)) return *grown;
  return refusal(
      fmt::format("{}: {} bytes more are too few, both copies of "
                  "the map move into what is new: enlarge it to "
                  "{} bytes or more",
                  name, spare_bytes - old.spare_bytes, least_grown_bytes(old)),
      ENOSPC);
}

Result<MetadataSurvey> survey_for_growing(Backend& spare, SpareSize sizes) {
  auto survey = survey_metadata(spare, sizes);
  if (!survey) return survey;
  if (!survey->best)
    return make_error(ErrorClass::medium, EUCLEAN,
                      fmt::format("{}: no copy of the metadata can be "
                                  "believed, nothing was written: {}",
                                  spare.info().name, survey->refusal));
  if (Status status = check_may_write(*survey, spare); !status)
    return std::move(status).error();
  return survey;
}

// Growing is no reason to believe that the last server stopped in order, nor
// that there was one.
bool was_closed(const MetadataSurvey& survey) {
  return survey.chosen().closed || survey.superblock.owner_epoch == 0;
}

}  // namespace

// First the superblocks, still with the old layout, say to which size SPARE
// grows, and the one of the tail goes to its new place: from then on a start
// finds both whatever happens. Then both copies of the map are written where
// the new layout has them, in what is new, and nobody looks there. Then the
// superblock of the tail, in one sector, makes the new layout count.
Status RemapLog::grow(const Layout& grown, const MapState& state) {
  if (failed_)
    return make_error(EIO, spare_.info().name + ": the log has failed");
  if (Status status = check_still_owner(); !status)
    return fail(std::move(status).error());
  if (Status status = announce(grown.spare_bytes); !status) return status;
  Superblock next = sb_;
  next.layout = grown;
  next.growing_to_bytes = 0;
  next.map_sequence = sequence_ + 1;
  next.copies_in_step = 3;
  // The old layout goes on with the sequences that this one would have had.
  if (Status status = write_map(spare_, next, state); !status) return status;
  sb_ = next;
  if (Status status = write_tail_then_head(); !status)
    return fail(std::move(status).error());
  ++sequence_;
  position_ = 0;
  area_ = {};
  return {};
}

// A place that cannot be written is no reason to lose the old layout.
Status RemapLog::announce(std::uint64_t spare_bytes) {
  sb_.growing_to_bytes = spare_bytes;
  Status status = write_tail_then_head();
  if (status) return {};
  if (status.error().error_class != ErrorClass::medium)
    return fail(std::move(status).error());
  sb_.growing_to_bytes = 0;
  if (Status back = write_superblocks(); !back)
    return fail(std::move(back).error());
  return status;
}

Status RemapLog::write_tail_then_head() {
  ++sb_.sequence;
  for (CopyIndex c : {CopyIndex::tail, CopyIndex::head}) {
    Status status = write_superblock(c);
    if (status) status = spare_.flush();
    if (!status) return status;
  }
  return {};
}

Status RemapLog::set_main_bytes(std::uint64_t main_bytes) {
  if (failed_)
    return make_error(EIO, spare_.info().name + ": the log has failed");
  if (Status status = check_still_owner(); !status)
    return fail(std::move(status).error());
  sb_.main_bytes = main_bytes;
  sb_.main_disk_bytes = 0;
  if (Status status = write_superblocks(); !status)
    return fail(std::move(status).error());
  return {};
}

Status RemapLog::may_change() {
  Status may;
  if (failed_) may = make_error(EIO, spare_.info().name + ": the log failed");
  if (may) {
    may = check_still_owner();
    if (!may) may = fail(std::move(may).error());
  }
  if (!may) may.error().error_class = ErrorClass::caller;
  return may;
}

Status RemapLog::set_main(const std::string& identity,
                          std::uint64_t disk_bytes) {
  if (Status may = may_change(); !may) return may;
  sb_.main_identity = stored_identity(identity);
  sb_.main_disk_bytes = disk_bytes == sb_.main_bytes ? 0 : disk_bytes;
  Status status = write_superblocks();
  if (status) return {};
  status = fail(std::move(status).error());
  status.error().error_class = ErrorClass::transport;
  return status;
}

Status RemapStore::alone(const std::function<Status()>& change) {
  if (read_only_)
    return make_error(ErrorClass::full, EROFS, "spare: opened read-only");
  {
    MutexLock lock(mu_);
    while (writing_) done_.wait(mu_);
    writing_ = true;
  }
  Status status;
  try {
    status = change();
  } catch (const std::bad_alloc&) {
    // It is unknown how far it came.
    resumable_ = true;
    status = make_error(ENOMEM, "spare: grow");
    remember(status.error());
  }
  if (!status && status.error().error_class == ErrorClass::transport) {
    resumable_ = covers_failed_;
    remember(status.error());
  }
  MutexLock lock(mu_);
  writing_ = false;
  publish_log();
  done_.notify_all();
  return status;
}

Status RemapStore::resume() {
  return alone([&] { return resume_log(); });
}

Status RemapStore::grow_spare(std::uint64_t spare_bytes) {
  return alone([&]() -> Status {
    const auto grown = grown_layout(log_->superblock().layout, spare_bytes,
                                    log_->spare_name());
    if (!grown) return grown.error();
    if (Status status = log_->grow(*grown, state()); !status) return status;
    pool_.grow(*grown);
    pending_capacity_ = grown->pending_capacity();
    return {};
  });
}

Status RemapStore::grow_main(std::uint64_t main_bytes) {
  return alone([&]() -> Status {
    if (Status status = log_->set_main_bytes(main_bytes); !status)
      return status;
    blocks_ = (main_bytes + layout_.block_bytes - 1) / layout_.block_bytes;
    return {};
  });
}

Status RemapStore::set_main(const std::string& identity,
                            std::uint64_t disk_bytes) {
  return alone([&] { return log_->set_main(identity, disk_bytes); });
}

Result<Superblock> grow_spare(Backend& spare, const LogSink& log) {
  const auto survey = survey_for_growing(spare, SpareSize::or_enlarged);
  if (!survey) return survey.error();
  const auto grown = grown_layout(survey->superblock.layout,
                                  spare.info().size_bytes, spare.info().name);
  if (!grown) return grown.error();
  const bool closed = was_closed(*survey);
  auto taken = RemapLog::take_over(spare, *survey, log);
  if (!taken) return std::move(taken).error();
  Status status = (*taken)->grow(*grown, survey->chosen().state);
  if (status && closed) status = (*taken)->append(RecordType::closed, {});
  if (!status) return std::move(status).error();
  return (*taken)->superblock();
}

Status complete_last_block(Backend& main, Backend& spare, RemapStore& store,
                           std::uint64_t old_bytes, std::uint64_t new_bytes) {
  const std::uint64_t block_bytes = store.layout().block_bytes;
  const BlockNo block{old_bytes / block_bytes};
  const std::uint64_t start = block.value * block_bytes;
  const auto entry = store.table().find_first(block, BlockNo{block.value + 1});
  if (old_bytes == start || !entry || !entry->remapped()) return {};
  AlignedBuffer content(block_bytes);
  const std::uint64_t unit = spare.info().logical_block_bytes;
  const std::uint64_t from = round_down(old_bytes - start, unit);
  const std::uint64_t end = std::min(block_bytes, new_bytes - start);
  const std::uint64_t to = round_up(end, unit);
  const DeviceOffset slot = store.layout().slot(entry->slot());
  const auto part = [&](std::uint64_t a, std::uint64_t b) {
    return content.bytes().subspan(a, b - a);
  };
  if (from < old_bytes - start) {
    Status status = spare.read(DeviceOffset{slot.value + from}, part(from, to));
    if (!status) return status;
  }
  RemapEntry now = *entry;
  for (std::uint64_t at = old_bytes - start; at < end; at += kSectorBytes) {
    const std::uint64_t bit = std::uint64_t{1} << at / kSectorBytes;
    Status status =
        main.read(DeviceOffset{start + at}, part(at, at + kSectorBytes));
    if (!status && status.error().error_class != ErrorClass::medium)
      return status;
    now.valid = status ? now.valid | bit : now.valid & ~bit;
  }
  Status status = spare.write(DeviceOffset{slot.value + from}, part(from, to),
                              Durability::cached);
  if (status) status = spare.flush();
  if (status && now != *entry) status = store.commit({now});
  return status;
}

Result<Superblock> grow_main(Backend& main, Backend& spare,
                             const LogSink& log) {
  const auto survey = survey_for_growing(spare, SpareSize::exact);
  if (!survey) return survey.error();
  const Superblock& sb = survey->superblock;
  if (main.info().size_bytes <= sb.main_bytes)
    return refusal(
        fmt::format("{}: has {} bytes, and SPARE {} is for {}: "
                    "enlarge it first; it cannot be made smaller",
                    main.info().name, main.info().size_bytes,
                    uuid_text(sb.uuid), sb.main_bytes));
  Binding binding;
  binding.main_bytes = sb.size_of_main_disk();
  binding.main_identity = main.info().identity;
  binding.main_name = main.info().name;
  const bool closed = was_closed(*survey);
  auto store = RemapStore::open(spare, binding, false, log);
  if (!store) return std::move(store).error();
  Status status = complete_last_block(main, spare, **store, sb.main_bytes,
                                      main.info().size_bytes);
  if (status) status = (*store)->grow_main(main.info().size_bytes);
  if (status && closed) status = (*store)->close();
  if (!status) return std::move(status).error();
  return (*store)->status().superblock;
}

}  // namespace nbd_remap
