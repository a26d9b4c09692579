#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// RemapLog: the durable truth behind the table. Appends records to both
// copies on SPARE, writes checkpoints when the log is full, and keeps a copy
// that fails out of the way.
//
// Invariants  (1) append() succeeds only when the record is durable in every
//                 copy that is in step, and at least one is.
//             (2) Records are begun one after another: a gap in a log is never
//                 the work of a crash.
//             (3) A checkpoint's body is durable before its header is written,
//                 and its header before the log is begun anew.
//             (4) After a failure that leaves it unknown what is durable (a
//                 failed flush, both copies failing, another owner) the log
//                 stays failed until resume() or a restart finds out what is
//                 there.
//             (5) Before each append the owner is read again: a server that
//                 lost SPARE to another one writes nothing more (contract M5).
//                 This stands behind the exclusive open and cannot replace it:
//                 where there is no lock (a remote), a server that takes over
//                 while a write is on its way is not held off.
//             (6) What the superblocks say the map had reached (map_sequence)
//                 is durable in every copy in step before they say so.
// Errors      a write that meets a medium error: that copy falls out of step,
//             said so in the superblocks and the log. Everything else fails
//             the call and the log. class transport: SPARE is gone.
// Threads     one at a time; RemapStore sees to it.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/log.hpp"
#include "plugins/remap/metadata_survey.hpp"

namespace nbd_remap {

class RemapLog {
 public:
  // Takes SPARE over: a new owner epoch, then, where the survey found the
  // copies to differ or one damaged, a fresh checkpoint in both. Can be cut
  // anywhere and done again.
  // REQUIRES: survey.best. spare outlives the log.
  static Result<std::unique_ptr<RemapLog>> take_over(
      Backend& spare, const MetadataSurvey& survey, LogSink log);

  bool full() const { return position_ >= sb_.layout.log_records; }
  // REQUIRES: !full(), as many entries as fit one record at most.
  Status append(RecordType type, const std::vector<Entry>& entries);
  // state: the map after the last append.
  Status checkpoint(const MapState& state);
  // After it failed: finds out what is on SPARE and makes this map count. Can
  // be cut anywhere; while it does not succeed the log stays failed.
  // REQUIRES: a flush of SPARE that succeeds covers what was written before one
  // that failed.
  Status resume(const MapState& state);
  // A checkpoint in the places of the new layout, which the superblocks then
  // speak of. Can be cut anywhere: the old layout counts until the new one
  // does. An error before that leaves the old one in use; one that leaves it
  // unknown which counts fails the log.
  // REQUIRES: grow_layout() of the present one, and a disk of that size.
  Status grow(const Layout& grown, const MapState& state);
  // Durable when it succeeds. REQUIRES: more than before.
  Status set_main_bytes(std::uint64_t main_bytes);
  // Another disk is MAIN from here on: durable when it succeeds, in one sector.
  // An error of class caller: nothing has changed. Any other: a restart may
  // find either, and the log has failed.
  Status set_main(const std::string& identity, std::uint64_t disk_bytes);
  // The three parts of taking this map to another disk (remap_move.hpp).
  // As set_main: class caller if no change is possible at all.
  Status may_change();
  // The map on next, as a candidate. beside: what else next is to hold before
  // it is one. Errors: next's; nothing has changed.
  Result<Superblock> write_candidate(Backend& next, const MapState& state,
                                     const std::function<Status()>& beside);
  // As set_main.
  Status leave_for(const Superblock& candidate);
  // REQUIRES: before anything else is asked of the log its disk is the
  // candidate's.
  void stand_on(Superblock&& candidate) noexcept;
  Status arrive();
  bool covers_failed() const { return spare_.info().flush_covers_failed; }

  const Superblock& superblock() const { return sb_; }
  const std::string& spare_name() const { return spare_.info().name; }
  std::uint64_t sequence() const { return sequence_; }
  std::uint64_t log_length() const { return position_; }

 private:
  RemapLog(Backend& spare, LogSink log);

  Status claim(const MetadataSurvey& survey);
  void stand_on(const MetadataSurvey& survey);
  Status settle(const MetadataSurvey& survey);
  Status mend(const MetadataSurvey& survey, const MapState& state);
  Result<bool> wipe(CopyIndex copy);
  Status check_unchanged(const MetadataSurvey& survey);
  Status check_still_owner();
  Status write_superblock(CopyIndex copy);
  Status write_superblocks();
  Status announce(std::uint64_t spare_bytes);
  Status write_tail_then_head();
  Status write_record(const Record& record);
  Status drop_copies(std::uint32_t lost, const Error& why);
  Result<std::uint32_t> write_checkpoint(std::uint32_t copies,
                                         const MapState& state);
  Status fail(Error error);

  Backend& spare_;
  LogSink log_;
  Superblock sb_;
  std::array<unsigned, 2> area_{};  // of the current checkpoint, per copy
  std::uint64_t sequence_ = 0;      // of the last record or checkpoint
  std::uint64_t position_ = 0;      // of the next record
  bool failed_ = false;
  AlignedBuffer block_;
};

// The body of a checkpoint: retired slots and all entries, by block.
std::vector<std::byte> pack_checkpoint_body(const MapState& state);
// Not durable before a flush.
Status write_checkpoint_body(Backend& spare, const Layout& layout,
                             CopyIndex copy, unsigned area, ConstBytes body);

}  // namespace nbd_remap
