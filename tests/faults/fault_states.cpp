// SPDX-License-Identifier: BSD-3-Clause
#include "tests/faults/fault_states.hpp"

#include <vector>

namespace nbd_remap {

// MAIN has content, SPARE a map without entries.
void clean(FaultWorld& w) {
  w.fill_main();
  w.format();
}

// Blocks 3, 4, 10 and the last live in slots 0 to 3; of 6 one sector cannot be
// read, of 7 two.
void mixed(FaultWorld& w) {
  clean(w);
  w.start();
  w.refuse_writes(3, 2);
  w.refuse_writes(10);
  w.refuse_writes(kLast);
  w.write(3 * kB, 2 * kB, true);
  w.write(10 * kB + kS, 2 * kS, true);
  w.write(kLast * kB, 3 * kS, true);
  w.unreadable(6, 2);
  w.unreadable(7, 0);
  w.unreadable(7, 7);
  w.read(6 * kB, kB);
  w.read(7 * kB, kB);
  w.flush();
}

void mixed_and_stopped(FaultWorld& w) {
  mixed(w);
  w.stop();
}

void nearly_full(FaultWorld& w) {
  mixed_and_stopped(w);
  w.leave_slots(2);
  w.refuse_writes(12, 6);
}

void full_log(FaultWorld& w) {
  mixed(w);
  w.refuse_writes(12, 3);
  // Each start takes one record, too.
  w.fill_log(2);
}

// A piece of one copy of the metadata is overwritten.
void damage(FaultWorld& w, CopyIndex copy) {
  const std::vector<std::byte> junk(kB, std::byte{0x5a});
  for (const unsigned area : {0U, 1U})
    (void)w.spare_disk
        .write(w.layout().checkpoint(copy, area), junk, Durability::fua)
        .ok();
  (void)w.spare_disk.write(w.layout().record(copy, 0), junk, Durability::fua)
      .ok();
}

void spoil_copy(FaultWorld& w, CopyIndex copy, std::uint8_t bad) {
  const std::uint64_t from = w.layout().checkpoint(copy, 0).value / kS;
  const std::uint64_t to =
      w.layout().record(copy, w.layout().log_records).value / kS;
  for (std::uint64_t s = from; s < to; s += 8) w.spare_disk.spoil(s, bad);
}

void spoil_slot(FaultWorld& w, std::uint64_t slot, unsigned sector,
                std::uint8_t bad) {
  w.spare_disk.spoil(w.layout().slot(SlotNo{slot}).value / kS + sector, bad);
}

}  // namespace nbd_remap
