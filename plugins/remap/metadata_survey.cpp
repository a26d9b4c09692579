// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/metadata_survey.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/remap/copy_reader.hpp"

namespace nbd_remap {
namespace {

Status read_superblocks(Backend& spare, SpareSize sizes, std::uint64_t bytes,
                        MetadataSurvey& survey) {
  bool blank = true;
  std::string words;
  const CopySurvey* newest = nullptr;
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    AlignedBuffer block(kSuperblockBytes);
    DeviceOffset at = superblock_place(bytes, c);
    const auto& head = survey.copies[0].superblock;
    if (sizes == SpareSize::or_enlarged && c == CopyIndex::tail && head &&
        head->place(c) < at)
      at = head->place(c);
    Status status = spare.read(at, block.bytes());
    if (!status && status.error().error_class != ErrorClass::medium)
      return status;
    Result<Superblock> sb =
        status ? unpack_superblock(block.bytes())
               : Result<Superblock>(make_error(EIO, "cannot be read"));
    if (sb && sb->copy != c)
      sb = make_error(EUCLEAN, "belongs to the other copy");
    if (!sb) {
      if (sb.error().errnum == EPROTONOSUPPORT)
        return make_error(
            ErrorClass::caller, EPROTONOSUPPORT,
            fmt::format("{}: superblock of the {}: {}", spare.info().name,
                        copy_name(c), sb.error().place));
      if (sb.error().place.find("wrong magic") == std::string::npos &&
          sb.error().place.find("all zero") == std::string::npos)
        blank = false;
      copy.damages.push_back(fmt::format("{}: superblock at byte {}: {}",
                                         copy_name(c), at.value,
                                         sb.error().place));
      words += (words.empty() ? "" : "; ") + copy.damages.back();
      continue;
    }
    if ((sb->features.incompatible & ~kKnownIncompatible) != 0)
      return make_error(
          ErrorClass::caller, EPROTONOSUPPORT,
          fmt::format(
              "{}: incompatible features {:#x}: a newer build is needed",
              spare.info().name, sb->features.incompatible));
    copy.superblock = *sb;
    if (!newest || sb->sequence > newest->superblock->sequence) newest = &copy;
  }
  if (newest) {
    survey.superblock = *newest->superblock;
    return {};
  }
  if (blank)
    return make_error(ErrorClass::caller, ENODATA,
                      fmt::format("{}: not a SPARE: no superblock; format it "
                                  "with: nbd-remapctl spare format "
                                  "--main=MAIN --spare={}",
                                  spare.info().name, spare.info().name));
  return make_error(ErrorClass::medium, EUCLEAN,
                    fmt::format("{}: both superblocks are damaged: {}",
                                spare.info().name, words));
}

// REQUIRES: both copies are read.
void judge_reach(MetadataSurvey& survey) {
  const Superblock& sb = survey.superblock;
  std::uint64_t reached = 0;
  for (const CopySurvey& copy : survey.copies)
    if (copy.in_step && copy.map_sound)
      reached = std::max(reached, copy.last_sequence);
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    if (!copy.in_step || !copy.map_sound) continue;
    if (copy.last_sequence < sb.map_sequence ||
        copy.last_sequence + 1 < reached) {
      copy.damages.push_back(fmt::format(
          "{}: the map ends at sequence {}, but had reached {}", copy_name(c),
          copy.last_sequence, std::max(reached, sb.map_sequence)));
      copy.map_sound = false;
    }
  }
}

// REQUIRES: both copies are judged.
void name_causes(MetadataSurvey& survey) {
  for (CopySurvey& copy : survey.copies)
    if (!copy.map_sound)
      copy.damages.insert(copy.damages.end(), copy.suspects.begin(),
                          copy.suspects.end());
}

// Whom it belongs to and what it counts. Not who wrote it: two servers that
// start at once may both have written under one sequence, and go no further.
bool same_facts(const Superblock& a, const Superblock& b) {
  return a.main_bytes == b.main_bytes && a.layout == b.layout &&
         a.main_identity == b.main_identity &&
         a.spare_identity == b.spare_identity &&
         a.map_sequence == b.map_sequence &&
         a.copies_in_step == b.copies_in_step;
}

void judge_superblocks(MetadataSurvey& survey) {
  const Superblock& sb = survey.superblock;
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    if (!copy.superblock) continue;
    const std::uint64_t behind = sb.sequence - copy.superblock->sequence;
    if (copy.superblock->uuid != sb.uuid)
      copy.damages.push_back(fmt::format("{}: superblock of another SPARE, {}",
                                         copy_name(c),
                                         uuid_text(copy.superblock->uuid)));
    else if (behind > 1 && sb.copies_in_step == 3)
      copy.damages.push_back(
          fmt::format("{}: superblock is {} writes older than the other one",
                      copy_name(c), behind));
    else if (behind > 0)
      copy.notes.push_back(
          fmt::format("{}: superblock is older than the other one, by {}",
                      copy_name(c), behind));
  }
}

// Where the one lags as a crash leaves it.
void note_lag(MetadataSurvey& survey) {
  const CopySurvey& head = survey.copy(CopyIndex::head);
  const CopySurvey& tail = survey.copy(CopyIndex::tail);
  if (!head.in_step || !tail.in_step || !head.map_sound || !tail.map_sound)
    return;
  if (head.last_sequence == tail.last_sequence) {
    if (head.checkpoint_sequence != tail.checkpoint_sequence)
      survey.copies[1].notes.push_back(
          fmt::format("tail copy: the same map as in the head copy, with a "
                      "checkpoint of sequence {}, not {}",
                      tail.checkpoint_sequence, head.checkpoint_sequence));
    return;
  }
  const CopyIndex late = head.last_sequence < tail.last_sequence
                             ? CopyIndex::head
                             : CopyIndex::tail;
  CopySurvey& copy = survey.copies[static_cast<std::size_t>(late)];
  copy.notes.push_back(
      fmt::format("{}: sequence {}, the last one, is in the {} only",
                  copy_name(late), survey.copy(other_copy(late)).last_sequence,
                  copy_name(other_copy(late))));
  copy.notes.insert(copy.notes.end(), copy.suspects.begin(),
                    copy.suspects.end());
}

// What no crash leaves, and where nothing tells which one is right. In words;
// empty: nothing.
std::string contradiction(const MetadataSurvey& survey) {
  const CopySurvey& a = survey.copies[0];
  const CopySurvey& b = survey.copies[1];
  if (a.superblock && b.superblock &&
      a.superblock->uuid == b.superblock->uuid &&
      a.superblock->sequence == b.superblock->sequence &&
      !same_facts(*a.superblock, *b.superblock))
    return fmt::format("the superblocks say different things, both as of {}",
                       a.superblock->sequence);
  const auto usable = [](const CopySurvey& copy) {
    return copy.in_step && copy.map_sound;
  };
  if (usable(a) && usable(b) && a.last_sequence == b.last_sequence &&
      (a.state.entries != b.state.entries ||
       a.state.retired != b.state.retired))
    return fmt::format("the copies hold different maps, both of sequence {}",
                       a.last_sequence);
  return "";
}

void choose(MetadataSurvey& survey) {
  std::uint64_t seen_in_damaged = 0;
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    if (!copy.in_step) continue;
    if (!copy.map_sound)
      seen_in_damaged = std::max(seen_in_damaged, copy.max_sequence_seen);
    else if (!survey.best ||
             copy.last_sequence > survey.chosen().last_sequence ||
             (copy.last_sequence == survey.chosen().last_sequence &&
              copy.sound() && !survey.chosen().sound()))
      survey.best = c;
  }
  if (survey.best && survey.chosen().last_sequence + 1 < seen_in_damaged) {
    survey.refusal = fmt::format(
        "the {} is sound but ends at sequence {}; the other copy, which is "
        "damaged, reached {}",
        copy_name(*survey.best), survey.chosen().last_sequence,
        seen_in_damaged);
    survey.best.reset();
    return;
  }
  if (survey.best) return;
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    for (const std::string& d : copy.damages)
      survey.refusal += (survey.refusal.empty() ? "" : "; ") + d;
    if (!copy.in_step)
      survey.refusal +=
          fmt::format("{}{}: out of step, older than the volume",
                      survey.refusal.empty() ? "" : "; ", copy_name(c));
  }
}

}  // namespace

std::uint64_t MetadataSurvey::max_sequence_seen() const {
  return std::max(copies[0].max_sequence_seen, copies[1].max_sequence_seen);
}

bool MetadataSurvey::copies_agree() const {
  const CopySurvey& a = copies[0];
  const CopySurvey& b = copies[1];
  return a.sound() && b.sound() && a.in_step && b.in_step &&
         a.superblock->sequence == b.superblock->sequence &&
         a.checkpoint_sequence == b.checkpoint_sequence &&
         a.last_sequence == b.last_sequence;
}

Result<MetadataSurvey> survey_metadata(Backend& spare, SpareSize sizes) {
  return survey_metadata(spare, sizes, spare.info().size_bytes);
}

Result<MetadataSurvey> survey_metadata(Backend& spare, SpareSize sizes,
                                       std::uint64_t bytes) {
  MetadataSurvey survey;
  if (bytes < 4 * kSuperblockPlaceBytes)
    return make_error(ErrorClass::caller, ENODATA,
                      fmt::format("{}: {} bytes are too small for a SPARE",
                                  spare.info().name, bytes));
  if (Status status = read_superblocks(spare, sizes, bytes, survey); !status)
    return std::move(status).error();
  const Superblock& sb = survey.superblock;
  const bool enlarged = bytes > sb.disk_bytes();
  if (enlarged && sizes == SpareSize::exact)
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: has {} bytes, but was formatted with {}: resized, "
                    "or a copy of another SPARE; if it was enlarged: "
                    "nbd-remapctl spare grow {}",
                    spare.info().name, bytes, sb.layout.spare_bytes,
                    spare.info().name));
  if (bytes < sb.disk_bytes())
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: has {} bytes, but was formatted with {}: resized, or "
                    "a copy of another SPARE",
                    spare.info().name, bytes, sb.disk_bytes()));
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    copy.in_step = (sb.copies_in_step & copy_bit(c)) != 0;
    if (Status status = read_copy(spare, sb, c, copy); !status)
      return std::move(status).error();
  }
  judge_superblocks(survey);
  judge_reach(survey);
  name_causes(survey);
  note_lag(survey);
  survey.refusal = contradiction(survey);
  if (survey.refusal.empty()) choose(survey);
  return survey;
}

Status check_may_write(const MetadataSurvey& survey, const Backend& spare) {
  for (const CopySurvey& copy : survey.copies) {
    const std::uint64_t unknown =
        copy.superblock ? copy.superblock->features.read_only_compatible : 0;
    if (unknown != 0)
      return make_error(ErrorClass::caller, EPROTONOSUPPORT,
                        fmt::format("{}: features {:#x} need a newer build to "
                                    "write",
                                    spare.info().name, unknown));
    const std::uint64_t highest =
        std::max({copy.max_sequence_seen, survey.superblock.map_sequence,
                  copy.superblock ? copy.superblock->sequence : 0,
                  copy.superblock ? copy.superblock->owner_epoch : 0});
    if (highest > kMaxSequence)
      return make_error(ErrorClass::medium, EUCLEAN,
                        fmt::format("{}: a sequence of {} is none that a SPARE "
                                    "comes to: it can be read, not written",
                                    spare.info().name, highest));
  }
  return check_in_place(survey.superblock, spare);
}

Status check_in_place(const Superblock& sb, const Backend& spare) {
  if (sb.was_replaced())
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: this SPARE ({}) was replaced by \"{}\"",
                    spare.info().name, uuid_text(sb.uuid), sb.spare_identity));
  if (sb.is_candidate())
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: was about to take the place of SPARE {}; whether it "
                    "did stands on that one",
                    spare.info().name, uuid_text(sb.uuid)));
  return {};
}

}  // namespace nbd_remap
