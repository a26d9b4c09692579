#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Reads both copies of a SPARE's metadata, says in words what is damaged, and
// decides which copy to believe. Writes nothing. The server, check and dump
// all stand on this one reader.
//
// What a crash alone can leave (no damage): a log whose last record is torn
// or missing in one copy, and a checkpoint under way in the older area.
// Everything else that does not fit is damage:
//   (1) a record after a gap: a later record of the same log is there;
//   (2) the newest checkpoint has a valid header but another body (headers are
//       written after their body is durable);
//   (3) entries that contradict one another or lie outside the volume.
//   (4) a map that ends below what the newest superblock says it had reached,
//       or more than one record behind the other copy;
//   (5) a superblock that is more than one write behind the other one, both
//       copies being in step.
// A copy with a sound map is believed even if its superblock is damaged; of
// two, the one that reaches further. It is not believed if it ends more than
// one record before what the damaged one shows: a record reaches both copies
// before the next one is begun, unless a superblock says that a copy fell out
// of step. Neither is believed if both are sound, end at the same sequence and
// hold different maps, or if the superblocks say different things as of the
// same write. What a crash leaves, and the next start levels, is said in notes:
// of two copies in step there is neither damage nor note exactly when they
// agree.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/remap/remap_format.hpp"
#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {

// The map as of one sequence number.
struct MapState {
  std::vector<RemapEntry> entries;  // sorted by block
  std::vector<SlotNo> retired;      // sorted
};

struct CopySurvey {
  std::optional<Superblock> superblock;
  std::vector<std::string> damages;  // empty: sound
  std::vector<std::string> notes;    // where it lags as a crash leaves it
  // What does not fit where it may well not fit (an area that is not the
  // current one, the end of the log): a damage once the map is known to be.
  std::vector<std::string> suspects;
  bool map_sound = true;  // checkpoint and log; the superblock may not be
  bool in_step = true;    // as the newest superblock says

  // Of the newest checkpoint with a whole body, and the log after it.
  unsigned area = 0;
  std::uint64_t checkpoint_sequence = 0;
  std::uint64_t log_length = 0;  // records that follow it without a gap
  std::uint64_t last_sequence = 0;
  bool closed = false;  // the last record says that a server stopped in order
  MapState state;

  // Of anything with a valid checksum, damaged or not.
  std::uint64_t max_sequence_seen = 0;

  bool sound() const { return damages.empty(); }
};

struct MetadataSurvey {
  Superblock superblock;             // the newest
  std::array<CopySurvey, 2> copies;  // by CopyIndex
  std::optional<CopyIndex> best;     // empty: no copy can be believed
  std::string refusal;               // then: why, in words

  const CopySurvey& copy(CopyIndex c) const {
    return copies[static_cast<std::size_t>(c)];
  }
  const CopySurvey& chosen() const { return copy(*best); }
  std::uint64_t max_sequence_seen() const;
  // Both copies hold the same; nothing to mend.
  bool copies_agree() const;
};

// Error: neither superblock can be used (ENODATA: never formatted; EUCLEAN:
// damaged; EPROTONOSUPPORT: of a format this build does not know), or SPARE
// cannot be read at all (class transport).
enum class SpareSize {
  exact,        // as the superblocks say
  or_enlarged,  // or more; for growing
};
Result<MetadataSurvey> survey_metadata(Backend& spare,
                                       SpareSize sizes = SpareSize::exact);
// bytes: how large the disk is now, if it grew since it was opened.
Result<MetadataSurvey> survey_metadata(Backend& spare, SpareSize sizes,
                                       std::uint64_t bytes);

// EINVAL: this SPARE was replaced by another disk, or it is a disk that has not
// taken a SPARE's place.
Status check_in_place(const Superblock& superblock, const Backend& spare);
// EPROTONOSUPPORT: a newer build said that this one must not write.
// EUCLEAN: the next sequence could be one that nobody reads. Or as
// check_in_place.
Status check_may_write(const MetadataSurvey& survey, const Backend& spare);

}  // namespace nbd_remap
