// SPDX-License-Identifier: BSD-3-Clause
// The scenarios: what is asked of which disks (fault_states.hpp), and how it
// shows that this is what happened when nothing failed.
#include <algorithm>
#include <array>
#include <vector>

#include "tests/faults/fault_inject.hpp"
#include "tests/faults/fault_states.hpp"

namespace nbd_remap {
namespace {

using World = FaultWorld;

StoreStatus store(const World& w) { return w.volume->status().store; }
std::uint64_t remapped(const World& w) { return store(w).remapped; }
std::uint64_t pending(const World& w) { return store(w).pending; }
std::uint64_t retired(const World& w) { return store(w).slots.retired; }
bool ok(const World& w) {
  const auto& all = w.outcomes().ok;
  return std::all_of(all.begin(), all.end(), [](bool one) { return one; });
}

using Scenarios = std::vector<FaultScenario>;

// Starts, stops, and the tools that make or mend a SPARE.
void add_lives(Scenarios& all) {
  all.push_back({"an empty SPARE is formatted",
                 [](World& w) { w.fill_main(); },
                 false,
                 {[](World& w) { w.format(); }, [](World& w) { w.start(); }},
                 [](World& w) { return ok(w) && w.volume; }});
  all.push_back({"a SPARE is formatted again",
                 clean,
                 false,
                 {[](World& w) { w.format(true); }},
                 [](World& w) { return ok(w); }});
  all.push_back(
      {"a first start, a write, a stop, and a start",
       clean,
       false,
       {[](World& w) { w.start(); }, [](World& w) { w.write(kB, 2 * kB); },
        [](World& w) { w.stop(); }, [](World& w) { w.start(); }},
       [](World& w) { return ok(w) && w.volume; }});
  all.push_back({"a start after a kill with a log, then a stop",
                 mixed,
                 false,
                 {[](World& w) { w.start(); }, [](World& w) { w.stop(); }},
                 [](World& w) { return ok(w); }});
  all.push_back({"a start after a power cut with a torn record",
                 [](World& w) {
                   mixed(w);
                   w.refuse_writes(12);
                   w.power.cut_at = w.power.calls + 7;
                   w.write(12 * kB, kB, true);
                   w.end(World::End::mixed, 5);
                 },
                 false,
                 {[](World& w) { w.start(); },
                  [](World& w) { w.write(12 * kB, kB, true); }},
                 [](World& w) { return w.volume && remapped(w) == 5; }});
  all.push_back({"a start with a damaged head copy",
                 [](World& w) {
                   mixed(w);
                   damage(w, CopyIndex::head);
                 },
                 false,
                 {[](World& w) { w.start(); }},
                 [](World& w) { return w.volume && remapped(w) == 4; }});
  all.push_back({"a start with a tail copy that cannot be read",
                 [](World& w) {
                   mixed_and_stopped(w);
                   spoil_copy(w, CopyIndex::tail, SimDisk::kReads);
                 },
                 false,
                 {[](World& w) { w.start(); }, [](World& w) { w.stop(); }},
                 [](World& w) { return w.spare_disk.fired().reads != 0; }});
  all.push_back(
      {"a start with a head copy that takes no writes",
       [](World& w) {
         mixed(w);
         spoil_copy(w, CopyIndex::head, SimDisk::kWrites);
       },
       false,
       {[](World& w) { w.start(); }, [](World& w) { w.refuse_writes(14); },
        [](World& w) { w.write(14 * kB, kB, true); }},
       [](World& w) {
         return remapped(w) == 5 && store(w).superblock.copies_in_step == 2;
       }});
  all.push_back({"a damaged copy is repaired by the tool",
                 [](World& w) {
                   mixed_and_stopped(w);
                   damage(w, CopyIndex::tail);
                 },
                 false,
                 {[](World& w) { w.repair(); }, [](World& w) { w.start(); }},
                 [](World& w) { return w.volume && remapped(w) == 4; }});
  all.push_back(
      {"a saved map is put back over two damaged copies",
       [](World& w) {
         mixed_and_stopped(w);
         w.save_map();
         damage(w, CopyIndex::head);
         damage(w, CopyIndex::tail);
       },
       false,
       {[](World& w) { w.restore_map(); }, [](World& w) { w.start(); }},
       [](World& w) { return w.volume && remapped(w) == 4; }});
}

void add_writes(Scenarios& all) {
  all.push_back({"writes to clean blocks",
                 clean,
                 true,
                 {[](World& w) { w.write(0, kB); },
                  [](World& w) { w.write(kB, 3 * kB, true); },
                  [](World& w) { w.write(5 * kB + 100, 700); },
                  [](World& w) { w.write(8 * kB - 10, 2 * kB + 20, true); },
                  [](World& w) { w.flush(); },
                  [](World& w) { w.write(World::kBytes - kS, kS); }},
                 [](World& w) { return ok(w) && remapped(w) == 0; }});
  all.push_back({"writes to blocks that MAIN refuses",
                 [](World& w) {
                   clean(w);
                   w.refuse_writes(2, 4);
                   w.refuse_writes(9);
                 },
                 true,
                 {[](World& w) { w.write(2 * kB, kB); },
                  [](World& w) { w.write(3 * kB + kS, 2 * kS, true); },
                  [](World& w) { w.write(4 * kB + 10, 2 * kB - 20); },
                  [](World& w) { w.write(8 * kB, 3 * kB, true); },
                  [](World& w) { w.flush(); }},
                 [](World& w) { return ok(w) && remapped(w) == 5; }});
  all.push_back({"a write across clean, refusing, pending and remapped blocks",
                 [](World& w) {
                   mixed(w);
                   w.refuse_writes(5);
                 },
                 true,
                 {[](World& w) { w.write(2 * kB + kS, 6 * kB); },
                  [](World& w) { w.read(2 * kB, 7 * kB); },
                  [](World& w) { w.write(3 * kB - kS, 8 * kB, true); }},
                 [](World& w) { return remapped(w) >= 5 && ok(w); }});
  all.push_back(
      {"writes to remapped blocks",
       mixed,
       true,
       {[](World& w) { w.write(3 * kB, 2 * kB); },
        [](World& w) { w.write(10 * kB + 7, 1000, true); },
        [](World& w) { w.write(kLast * kB + kS, 2 * kS); },
        [](World& w) { w.flush(); }, [](World& w) { w.read(3 * kB, 2 * kB); }},
       [](World& w) { return ok(w) && remapped(w) == 4; }});
  all.push_back({"writes cure pending sectors on MAIN",
                 mixed,
                 true,
                 {[](World& w) { w.write(6 * kB + 2 * kS, kS); },
                  [](World& w) { w.write(7 * kB, kB, true); },
                  [](World& w) { w.read(6 * kB, 2 * kB); }},
                 [](World& w) { return ok(w) && pending(w) == 0; }});
  all.push_back({"writes to pending blocks go to SPARE first",
                 [](World& w) {
                   mixed(w);
                   w.options.on_pending_write = PendingWrite::spare_first;
                 },
                 true,
                 {[](World& w) { w.write(6 * kB + kS, 2 * kS); },
                  [](World& w) { w.write(7 * kB, kB, true); },
                  [](World& w) { w.flush(); }},
                 [](World& w) { return remapped(w) == 6 && ok(w); }});
  all.push_back({"a write to part of a block whose rest cannot be read",
                 [](World& w) {
                   clean(w);
                   w.unreadable(5, 1, 3);
                   w.refuse_writes(5);
                 },
                 true,
                 {[](World& w) { w.write(5 * kB, kS); },
                  [](World& w) { w.read(5 * kB + 2 * kS, kS); },
                  [](World& w) { w.write(5 * kB + kS, kS, true); },
                  [](World& w) { w.write(5 * kB + 3 * kS + 5, 9); }},
                 [](World& w) {
                   return w.outcomes().ok ==
                          std::vector<bool>{true, true, false, true, false};
                 }});
  all.push_back({"zeroes over clean, refusing, pending and remapped blocks",
                 [](World& w) {
                   mixed(w);
                   w.refuse_writes(5);
                 },
                 true,
                 {[](World& w) { w.zero(2 * kB, 3 * kB); },
                  [](World& w) { w.zero(4 * kB + kS, 3 * kB, true); },
                  [](World& w) { w.zero(10 * kB + 3, 2000); },
                  [](World& w) { w.flush(); }},
                 [](World& w) { return ok(w) && remapped(w) >= 5; }});
  all.push_back({"trim, extents and cache over blocks of all kinds",
                 mixed,
                 true,
                 {[](World& w) { w.trim(2 * kB, 6 * kB); },
                  [](World& w) { w.extents(0, World::kBytes); },
                  [](World& w) { w.cache(0, 12 * kB); },
                  [](World& w) { w.trim(9 * kB, 3 * kB, true); },
                  [](World& w) { w.read(8 * kB, kB); }},
                 [](World& w) { return ok(w); }});
  all.push_back(
      {"flushes between writes to both disks",
       mixed,
       true,
       {[](World& w) { w.write(kB, kB); }, [](World& w) { w.flush(); },
        [](World& w) { w.write(3 * kB, kB); },
        [](World& w) { w.write(2 * kB, kB); }, [](World& w) { w.flush(); },
        [](World& w) { w.write(4 * kB, kS); }, [](World& w) { w.flush(); }},
       [](World& w) { return ok(w); }});
}

void add_reads(Scenarios& all) {
  all.push_back({"a long read meets two bad sectors",
                 [](World& w) {
                   clean(w);
                   w.unreadable(5, 3);
                   w.unreadable(11, 0);
                 },
                 true,
                 {[](World& w) { w.read(2 * kB, 14 * kB); },
                  [](World& w) { w.read(5 * kB, 3 * kS); },
                  [](World& w) { w.read(11 * kB, kS); }},
                 [](World& w) { return pending(w) == 2; }});
  all.push_back(
      {"a sector answers at the third try",
       [](World& w) {
         clean(w);
         w.main_disk.trouble(5 * 8 + 3, 5, false);
       },
       true,
       {[](World& w) { w.read(5 * kB, kB); },
        [](World& w) { w.read(5 * kB, kB); }},
       [](World& w) { return ok(w) && w.main_disk.fired().transient == 5; }});
  all.push_back(
      {"reads across blocks of all kinds",
       mixed,
       true,
       {[](World& w) { w.read(0, 6 * kB); },
        [](World& w) { w.read(2 * kB, 8 * kB); },
        [](World& w) { w.read(10 * kB + 5, kB); },
        [](World& w) { w.read(kLast * kB, World::kBytes - kLast * kB); },
        [](World& w) { w.read(6 * kB + 3 * kS, 2 * kS); }},
       [](World& w) { return remapped(w) == 4; }});
}

void add_slots(Scenarios& all) {
  all.push_back({"slots that refuse their data are retired",
                 [](World& w) {
                   mixed(w);
                   for (std::uint64_t i = 0; i < 3; ++i)
                     spoil_slot(w, w.next_slot() + i, 2, SimDisk::kWrites);
                   w.refuse_writes(12, 2);
                 },
                 true,
                 {[](World& w) { w.write(12 * kB, 2 * kB); },
                  [](World& w) { w.flush(); }},
                 [](World& w) { return ok(w); }});
  all.push_back({"a slot in use refuses a later write",
                 [](World& w) {
                   mixed(w);
                   spoil_slot(w, w.slot_of(3), 1, SimDisk::kWrites);
                   spoil_slot(w, w.slot_of(10), 4, SimDisk::kWrites);
                 },
                 true,
                 {[](World& w) { w.write(3 * kB, 2 * kB); },
                  [](World& w) { w.write(10 * kB + 4 * kS, kS, true); },
                  [](World& w) { w.read(10 * kB, kB); }},
                 [](World& w) { return ok(w) && retired(w) == 2; }});
  all.push_back(
      {"a SPARE becomes full",
       nearly_full,
       true,
       {[](World& w) { w.write(12 * kB, kB); },
        [](World& w) { w.write(13 * kB, 2 * kB, true); },
        [](World& w) { w.write(14 * kB, kB); },
        [](World& w) { w.write(15 * kB, kB, true); },
        [](World& w) { w.write(3 * kB, kB, true); }},
       [](World& w) { return remapped(w) == 6 && !w.outcomes().ok[2]; }});
  all.push_back({"the log is full and a checkpoint is written",
                 full_log,
                 true,
                 {[](World& w) { w.write(12 * kB, kB, true); },
                  [](World& w) { w.write(13 * kB, kB); },
                  [](World& w) { w.write(14 * kB, kB, true); },
                  [](World& w) { w.stop(); }},
                 [](World& w) { return ok(w); }});
}

void add_map(Scenarios& all) {
  all.push_back({"an owner remaps a range",
                 mixed,
                 true,
                 {[](World& w) { w.map(MapAction::remap, 0, 9 * kB); },
                  [](World& w) { w.write(kB, kB); }},
                 [](World& w) { return ok(w) && remapped(w) == 11; }});
  all.push_back({"an owner un-maps what MAIN can hold again",
                 [](World& w) {
                   mixed(w);
                   w.mend(3);
                   w.mend(kLast);
                 },
                 true,
                 {[](World& w) { w.map(MapAction::unmap, 0, World::kBytes); },
                  [](World& w) { w.write(3 * kB, kS); },
                  [](World& w) { w.refuse_writes(12, 2); },
                  [](World& w) { w.write(12 * kB, 2 * kB, true); }},
                 [](World& w) { return ok(w) && remapped(w) == 4; }});
  all.push_back({"an owner tests pending blocks again",
                 [](World& w) {
                   mixed(w);
                   w.mend(6);
                   w.unreadable(15, 5);
                 },
                 true,
                 {[](World& w) { w.map(MapAction::retest, 0, World::kBytes); },
                  [](World& w) { w.map(MapAction::check, 13 * kB, 4 * kB); },
                  [](World& w) { w.read(6 * kB, kB); }},
                 [](World& w) { return ok(w) && pending(w) == 2; }});
  all.push_back({"an owner gives unreadable sectors up",
                 mixed,
                 true,
                 {[](World& w) { w.map(MapAction::clear, 0, World::kBytes); },
                  [](World& w) { w.read(6 * kB, 2 * kB); }},
                 [](World& w) { return ok(w) && pending(w) == 0; }});
}

void add_changes(Scenarios& all) {
  all.push_back(
      {"SPARE is enlarged while no server runs",
       [](World& w) {
         nearly_full(w);
         w.enlarge_spare();
       },
       false,
       {[](World& w) { w.grow_spare_offline(); }, [](World& w) { w.start(); },
        [](World& w) { w.write(12 * kB, 4 * kB, true); }},
       [](World& w) { return ok(w) && remapped(w) == 8; }});
  all.push_back(
      {"SPARE is enlarged while it serves",
       nearly_full,
       true,
       {[](World& w) { w.enlarge_spare(); }, [](World& w) { w.grow_spare(); },
        [](World& w) { w.write(12 * kB, 4 * kB, true); },
        [](World& w) { w.flush(); }},
       [](World& w) { return ok(w) && remapped(w) == 8; }});
  all.push_back(
      {"MAIN is enlarged while its last block is in a slot",
       mixed,
       true,
       {[](World& w) { w.enlarge_main(); }, [](World& w) { w.grow_main(); },
        [](World& w) { w.write(kLast * kB + kS, kB); },
        [](World& w) { w.read(kLast * kB, 3 * kB); }},
       [](World& w) {
         return ok(w) && w.volume->size() == World::kGrownBytes;
       }});
  all.push_back(
      {"MAIN is enlarged while no server runs",
       [](World& w) {
         mixed_and_stopped(w);
         w.enlarge_main();
       },
       false,
       {[](World& w) { w.grow_main_offline(); }, [](World& w) { w.start(); },
        [](World& w) { w.read(kLast * kB, 3 * kB); }},
       [](World& w) { return ok(w) && w.volume; }});
  all.push_back(
      {"a pause for a snapshot, and a stop",
       mixed,
       true,
       {[](World& w) { w.write(kB, kB); },
        [](World& w) { w.write(3 * kB, kB); }, [](World& w) { w.quiesce(); },
        [](World& w) { w.write(2 * kB, kB); }, [](World& w) { w.stop(); },
        [](World& w) { w.start(); }},
       [](World& w) { return ok(w) && w.volume; }});
}

}  // namespace

const std::vector<FaultScenario>& fault_scenarios() {
  static const std::vector<FaultScenario> scenarios = [] {
    Scenarios all;
    add_lives(all);
    add_writes(all);
    add_reads(all);
    add_slots(all);
    add_map(all);
    add_changes(all);
    return all;
  }();
  return scenarios;
}

}  // namespace nbd_remap
