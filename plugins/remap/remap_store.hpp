#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// RemapStore: the map of one volume, in memory and on SPARE, kept as one.
// What Volume needs of the remap layer, and all of it.
//
// Invariants  (1) The table never shows what is not durable: commit() returns
//                 after log, then table.
//             (2) A slot is free again only after the record that took it from
//                 its block is durable.
//             (3) REQUIRES of the caller: a slot's data is durable before the
//                 commit() that maps it (contract C4).
// Threads     any, at once. Commits under way are written as one record.
// Locks       mu_ guards the queue of commits; it is not held across I/O.
// Waits       commit() waits for the log, so as long as SPARE takes.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/remap/remap_log.hpp"
#include "plugins/remap/remap_move.hpp"
#include "plugins/remap/remap_table.hpp"
#include "plugins/remap/slot_pool.hpp"
#include "plugins/remap/state_area.hpp"

namespace nbd_remap {

// What the pair must be for SPARE to be used with this MAIN (contract M3).
struct Binding {
  std::uint64_t main_bytes = 0;  // of the disk
  std::string main_identity;
  std::string main_name;                     // for the message
  std::optional<Uuid> spare_uuid;            // refuse any other
  std::optional<std::uint32_t> block_bytes;  // refuse any other
  bool took_place = false;                   // see find_replaced()
};

// The error says which and why.
Status check_binding(const Superblock& superblock, const Backend& spare,
                     const Binding& binding);

struct StoreStatus {
  Superblock superblock;
  SlotPool::Counts slots;
  std::uint64_t remapped = 0;
  std::uint64_t pending = 0;
  std::uint64_t pending_capacity = 0;
  std::uint64_t sequence = 0;
  std::uint64_t log_length = 0;
  bool read_only = false;
  std::string failed;  // why the map can no longer change; empty: it can
};

class RemapStore {
 public:
  // read_only: takes nothing over, writes nothing; commits are refused.
  static Result<std::unique_ptr<RemapStore>> open(Backend& spare,
                                                  const Binding& binding,
                                                  bool read_only,
                                                  const LogSink& log);

  const RemapTable& table() const { return table_; }
  // As of open().
  const Layout& layout() const { return layout_; }
  std::uint64_t all_valid() const;  // mask of a block with every sector
  std::size_t max_entries() const { return layout_.entries_per_record(); }

  std::optional<SlotNo> take_slot() { return pool_.take(); }
  // For a slot that no commit() was asked to map.
  void give_back(SlotNo slot) { pool_.free(slot); }

  // New entries for these blocks, all or none: an entry that is clean (no
  // slot, all sectors valid) is removed. A slot that a block had and has no
  // more becomes free, or, if it is in retire, retired; slots in retire that
  // no block had are retired too.
  // REQUIRES: entries.size() + retire.size() <= max_entries().
  // Errors: full (no room for pending blocks: nothing has changed), or the
  // log's, after which every commit fails until resume(); never of class
  // medium. A slot of a commit that the log failed stays taken until then: it
  // may be mapped after a restart.
  Status commit(const std::vector<RemapEntry>& entries,
                const std::vector<SlotNo>& retire = {});

  // After commits failed because SPARE was lost, or memory: makes the map in
  // memory count on SPARE too, so that commits go on. Every commit tries that
  // itself, if SPARE covers failed flushes (BackendInfo) or no flush has
  // failed; else only a restart helps. Blocks of commits that failed before are
  // as if these had never been, or, if it was memory, as they were to become.
  Status resume();
  // How often that succeeded.
  std::uint64_t resumes() const { return resumes_; }
  // Another server has SPARE, as a commit found out: MAIN is its too.
  bool taken_over() const { return taken_over_; }
  // After the disk was enlarged: makes slots of what is new. Their places, and
  // so layout() as far as a request needs it, stay as they are.
  // Errors: caller (not larger, or too little; nothing has changed), or the
  // disk's.
  Status grow_spare(std::uint64_t spare_bytes);
  // After MAIN was enlarged. Durable when it succeeds.
  Status grow_main(std::uint64_t main_bytes);
  // Another disk, at least as large, is MAIN from here on: durable when it
  // succeeds. An error of class caller: nothing has changed. Any other: it is
  // not known before a restart which of the two SPARE is bound to.
  Status set_main(const std::string& identity, std::uint64_t disk_bytes);
  // Another disk is SPARE from here on (remap_move.hpp), with what this one
  // holds but for the sectors that lost() names, and with no slot retired.
  // REQUIRES: next holds the data of every mapped slot, durably, and nobody
  // uses the store; exchange() puts next where this store's disk is.
  Moved move_to(Backend& next, const MoveRequest& request, Status& why);

  // A checkpoint if anything changed, and the record of an orderly stop.
  // REQUIRES: no commit() under way.
  Status close();

  StoreStatus status() const;

  // Where a server leaves notes for the next one. Null: this SPARE was
  // formatted without.
  StateArea* state_area() { return state_area_.get(); }

 private:
  struct Commit;
  RemapStore(const Layout& layout, std::uint64_t blocks, bool read_only,
             LogSink log);

  void append_entries(const Commit& commit, std::vector<Entry>& out) const;
  // The one that writes for all that wait.
  void write_batch(const std::vector<Commit*>& batch);
  Status resume_log();
  void keep_slots(const std::vector<Commit*>& group);
  Status write_record(const std::vector<Entry>& entries,
                      const std::vector<Commit*>& group);
  std::uint64_t new_pending(const Commit& commit) const;
  void apply(const Commit& commit);
  void remember(const Error& error) noexcept;
  void publish_log() REQUIRES(mu_);
  MapState state() const;
  Status may_note() const;
  // Runs it as the only writer.
  Status alone(const std::function<Status()>& change);

  const Layout layout_;
  std::atomic<std::uint64_t> blocks_;  // of the volume
  std::atomic<std::uint64_t> pending_capacity_;
  const bool read_only_;
  LogSink log_sink_;
  RemapTable table_;
  SlotPool pool_;
  std::unique_ptr<RemapLog> log_;  // by the writer only, see writing_
  std::unique_ptr<StateArea> state_area_;
  bool changed_ = false;  // since the last checkpoint; the writer's
  // Of commits that failed: taken until it is known that SPARE has them not.
  std::vector<SlotNo> uncertain_slots_;  // the writer's
  bool resumable_ = false;      // the writer's: what failed may come back
  bool covers_failed_ = false;  // of SPARE, see BackendInfo
  std::atomic<std::uint64_t> resumes_{0};
  std::atomic<bool> taken_over_{false};

  mutable Mutex mu_;
  CondVar done_;
  bool writing_ GUARDED_BY(mu_) = false;
  std::vector<Commit*> waiting_ GUARDED_BY(mu_);
  std::string failed_ GUARDED_BY(mu_);
  StoreStatus published_ GUARDED_BY(mu_);  // log facts, for status()
};

}  // namespace nbd_remap
