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

Status read_superblocks(Backend& spare, MetadataSurvey& survey) {
  bool blank = true;
  std::string words;
  const CopySurvey* newest = nullptr;
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    AlignedBuffer block(kSuperblockBytes);
    const DeviceOffset at = superblock_place(spare.info().size_bytes, c);
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
    blank = false;
    if (sb->features.incompatible != 0)
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

Result<MetadataSurvey> survey_metadata(Backend& spare) {
  MetadataSurvey survey;
  const std::uint64_t bytes = spare.info().size_bytes;
  if (bytes < 4 * kSuperblockPlaceBytes)
    return make_error(ErrorClass::caller, ENODATA,
                      fmt::format("{}: {} bytes are too small for a SPARE",
                                  spare.info().name, bytes));
  if (Status status = read_superblocks(spare, survey); !status)
    return std::move(status).error();
  const Superblock& sb = survey.superblock;
  if (sb.layout.spare_bytes != bytes)
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: has {} bytes, but was formatted with {}: resized, or "
                    "a copy of another SPARE",
                    spare.info().name, bytes, sb.layout.spare_bytes));
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    copy.in_step = (sb.copies_in_step & copy_bit(c)) != 0;
    if (copy.superblock && copy.superblock->uuid != sb.uuid)
      copy.damages.push_back(fmt::format("{}: superblock of another SPARE, {}",
                                         copy_name(c),
                                         uuid_text(copy.superblock->uuid)));
    if (Status status = read_copy(spare, sb, c, copy); !status)
      return std::move(status).error();
  }
  judge_reach(survey);
  choose(survey);
  return survey;
}

}  // namespace nbd_remap
