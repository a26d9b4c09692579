// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/spare_restore.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "plugins/base/build_id.hpp"
#include "plugins/remap/copy_reader.hpp"

namespace nbd_remap {
namespace {

Error refusal(const std::string& name, const std::string& words,
              int errnum = EINVAL) {
  return make_error(ErrorClass::caller, errnum,
                    fmt::format("{}: {}", name, words));
}

Status check_sizes(const SavedMap& saved) {
  const Superblock& sb = saved.superblock;
  const Layout& l = sb.layout;
  if ((sb.features.incompatible & ~kKnownIncompatible) != 0 ||
      sb.features.read_only_compatible != 0)
    return refusal(saved.name, "features of a newer build", EPROTONOSUPPORT);
  if (sb.main_bytes == 0 || sb.main_bytes % kSectorBytes != 0 ||
      sb.main_bytes > kMaxSequence)
    return refusal(saved.name,
                   fmt::format("{} bytes of MAIN: expected a multiple of {}",
                               sb.main_bytes, kSectorBytes));
  if (!is_possible(l) ||
      l.grown() != ((sb.features.incompatible & kFeatureGrown) != 0))
    return refusal(saved.name, "a layout that does not follow from its sizes");
  for (const std::string* identity : {&sb.main_identity, &sb.spare_identity})
    if (identity->empty() || identity->size() > kIdentityBytes)
      return refusal(saved.name, "an identity that no disk has");
  if (std::max({saved.sequence, sb.sequence, sb.owner_epoch}) > kMaxSequence ||
      saved.sequence == 0)
    return refusal(saved.name, "an impossible sequence");
  return {};
}

// What the disk shows of any map, sound or not.
struct Shown {
  std::optional<Uuid> uuid;
  bool readable = false;  // a copy can be believed
  bool fresh = false;     // as format leaves it, never used
  Layout layout;
  std::uint64_t reached = 0;  // by a map other than the saved one
  std::uint64_t seen = 0;     // of anything
  std::uint64_t superblock_sequence = 0;
  std::uint64_t owner_epoch = 0;
};

// The saved map itself is not newer, if under another sequence: a restore that
// was cut leaves it.
void count(const CopySurvey& copy, const SavedMap& saved, Shown& shown) {
  shown.seen = std::max(shown.seen, copy.max_sequence_seen);
  if (copy.map_sound && copy.checkpoint_sequence != 0 &&
      copy.state.entries == saved.state.entries &&
      copy.state.retired == saved.state.retired)
    return;
  shown.reached = std::max(shown.reached, copy.max_sequence_seen);
}

Result<Shown> look(Backend& spare, const SavedMap& saved) {
  Shown shown;
  const auto survey = survey_metadata(spare);
  if (survey) {
    if (Status status = check_may_write(*survey, spare); !status)
      return std::move(status).error();
    shown.uuid = survey->superblock.uuid;
    shown.layout = survey->superblock.layout;
    shown.readable = survey->best.has_value();
    shown.fresh = shown.readable && survey->chosen().last_sequence == 1;
    shown.reached = shown.seen = survey->superblock.map_sequence;
    for (const CopySurvey& copy : survey->copies) {
      count(copy, saved, shown);
      if (!copy.superblock) continue;
      shown.superblock_sequence =
          std::max(shown.superblock_sequence, copy.superblock->sequence);
      shown.owner_epoch =
          std::max(shown.owner_epoch, copy.superblock->owner_epoch);
    }
    return shown;
  }
  if (survey.error().errnum != ENODATA && survey.error().errnum != EUCLEAN)
    return survey.error();
  // Without a superblock, checkpoints and records of the saved map's UUID can
  // still be found where its layout has them.
  for (CopyIndex c : kCopies) {
    CopySurvey copy;
    if (Status status = read_copy(spare, saved.superblock, c, copy); !status)
      return std::move(status).error();
    count(copy, saved, shown);
  }
  return shown;
}

// What would be lost, in words; empty: nothing.
std::string loss(const Shown& shown, const SavedMap& saved) {
  const bool same = !shown.uuid || *shown.uuid == saved.superblock.uuid;
  if (!same)
    return shown.fresh ? ""
                       : fmt::format(
                             "holds the map of another SPARE, {}, that "
                             "a server has used",
                             uuid_text(*shown.uuid));
  if (shown.readable)
    return fmt::format(
        "its own map can still be read, up to sequence {}; the saved one ends "
        "at {} (spare repair mends what can be mended)",
        shown.reached, saved.sequence);
  if (shown.reached > saved.sequence)
    return fmt::format(
        "it had reached sequence {}, the saved map ends at {}: what changed "
        "since would be lost, and slots that were given to other blocks would "
        "be read for the old ones",
        shown.reached, saved.sequence);
  return "";
}

Status check_disk(const Backend& spare, const SavedMap& saved) {
  const BackendInfo& info = spare.info();
  const Superblock& sb = saved.superblock;
  if (info.read_only) return refusal(info.name, "is read-only", EROFS);
  if (!info.can_flush)
    return refusal(info.name,
                   "offers no FLUSH: nothing on it would be durable");
  if (info.size_bytes != sb.layout.spare_bytes)
    return refusal(
        info.name,
        fmt::format("has {} bytes, but {} is the map of a SPARE of "
                    "{}",
                    info.size_bytes, saved.name, sb.layout.spare_bytes));
  if (stored_identity(info.identity) != sb.spare_identity)
    return refusal(
        info.name,
        fmt::format("is \"{}\", but {} was saved from \"{}\": the data that it "
                    "leads to is not here",
                    stored_identity(info.identity), saved.name,
                    sb.spare_identity));
  return {};
}

}  // namespace

Status check_saved(const SavedMap& saved) {
  if (Status status = check_sizes(saved); !status) return status;
  const Superblock& sb = saved.superblock;
  const Layout& l = sb.layout;
  const std::uint64_t blocks =
      (sb.main_bytes + l.block_bytes - 1) / l.block_bytes;
  const std::uint64_t all_valid =
      ~std::uint64_t{0} >> (64 - l.block_bytes / kSectorBytes);
  std::vector<bool> taken(l.slot_end());
  const auto take = [&](SlotNo slot, const char* what) -> Status {
    if (!l.has_slot(slot))
      return refusal(saved.name, fmt::format("{} slot {}: there are {}", what,
                                             slot.value, l.slots));
    if (taken[slot.value])
      return refusal(saved.name,
                     fmt::format("slot {} is there twice", slot.value));
    taken[slot.value] = true;
    return {};
  };
  for (SlotNo slot : saved.state.retired)
    if (Status status = take(slot, "retired"); !status) return status;
  std::uint64_t pending = 0;
  const RemapEntry* previous = nullptr;
  for (const RemapEntry& e : saved.state.entries) {
    if (e.block.value >= blocks)
      return refusal(saved.name, fmt::format("block {}: MAIN has {}",
                                             e.block.value, blocks));
    if (previous && previous->block >= e.block)
      return refusal(saved.name,
                     fmt::format("block {} is there twice, or out of order",
                                 e.block.value));
    previous = &e;
    if ((e.valid & ~all_valid) != 0)
      return refusal(saved.name,
                     fmt::format("block {}: valid {:#x} has more sectors than "
                                 "a block",
                                 e.block.value, e.valid));
    if (e.remapped()) {
      if (Status status = take(e.slot(), "remapped"); !status) return status;
    } else if (e.valid == all_valid) {
      return refusal(saved.name, fmt::format("block {} is pending, but all of "
                                             "it can be read",
                                             e.block.value));
    } else if (++pending > l.pending_capacity()) {
      return refusal(saved.name, fmt::format("more than {} pending blocks",
                                             l.pending_capacity()));
    }
  }
  return {};
}

Result<RestorePlan> plan_restore(Backend& spare, const SavedMap& saved,
                                 const RestoreRequest& request) {
  Status status = check_saved(saved);
  if (status) status = check_disk(spare, saved);
  if (!status) return std::move(status).error();
  const std::string& name = spare.info().name;
  const auto shown = look(spare, saved);
  if (!shown) return shown.error();
  if (shown->uuid && *shown->uuid != saved.superblock.uuid &&
      shown->layout != saved.superblock.layout)
    return refusal(
        name, fmt::format("is now a SPARE with blocks of {} bytes and another "
                          "layout: its metadata lies over slots of the saved "
                          "map, which has blocks of {}",
                          shown->layout.block_bytes,
                          saved.superblock.layout.block_bytes));
  const Uuid& what = shown->uuid.value_or(saved.superblock.uuid);
  const std::string lost = loss(*shown, saved);
  if (!lost.empty() && !request.lose_newer_data)
    return refusal(name, lost + "; to lose that, type --lose-newer-data",
                   EEXIST);
  if (!request.replace)
    return refusal(name,
                   fmt::format("{} {}; to write the map of {} over it, type "
                               "--replace={}",
                               shown->uuid ? "is SPARE"
                                           : "shows no superblock "
                                             "of SPARE",
                               uuid_text(what), saved.name, uuid_text(what)),
                   EEXIST);
  if (*request.replace != what)
    return refusal(name, fmt::format("is {}, not {}", uuid_text(what),
                                     uuid_text(*request.replace)));
  if (std::max({shown->seen, shown->superblock_sequence, shown->owner_epoch}) >
      kMaxSequence)
    return refusal(name, "shows an impossible sequence");
  RestorePlan plan;
  if (what == saved.superblock.uuid) plan.reached = shown->reached;
  Superblock& sb = plan.superblock;
  sb = saved.superblock;
  sb.sequence = std::max(shown->superblock_sequence, sb.sequence) + 1;
  // Fences off a server that still has it, where there is no lock.
  sb.owner_epoch = std::max(shown->owner_epoch, sb.owner_epoch) + 1;
  sb.owner_token = 0;
  // No leftover of either map can be taken for a later record.
  sb.map_sequence = std::max(shown->seen, saved.sequence) + 1;
  sb.copies_in_step = 3;
  sb.build_id = build_id();
  return plan;
}

}  // namespace nbd_remap
