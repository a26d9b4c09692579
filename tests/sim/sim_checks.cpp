// SPDX-License-Identifier: BSD-3-Clause
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "plugins/remap/metadata_survey.hpp"
#include "tests/sim/sim_run.hpp"

namespace nbd_remap {

void SimRun::excuse_change(const Status& status, Time begun) {
  if (power_.off) return;
  const VolumeStatus now = volume_->status();
  if (!now.store.failed.empty() && spare_.fired().flushes == spare_flushes_)
    violate("the log failed for no reason: " + now.store.failed);
  const SlotPool::Counts& slots = now.store.slots;
  // It may have met a SPARE that was enlarged since.
  const bool full = status.error().error_class == ErrorClass::full &&
                    (slots.slots - slots.used - slots.retired < running_most_ ||
                     spare_grew_at_ >= begun);
  stats_.full += full;
  if (!full && now.store.failed.empty() && !now.breaker_open &&
      !now.main.in_doubt && !now.spare.in_doubt)
    violate("a change fails for no reason: " + status.error().text());
}

// What was slow at the last look may have become bad since.
bool SimRun::is_unreadable(const std::string& words) {
  unsigned long long named = 0;
  if (std::sscanf(words.c_str(), "scan: block %llu is not rescued: MAIN can",
                  &named) != 1 ||
      words.find("MAIN can no longer read it") == std::string::npos)
    return false;
  for (std::uint64_t block = 0; block < kSimBlocks; ++block) {
    const std::uint64_t at = block * kSimBlockBytes;
    if (sim_place(at) / kSimBlockBytes == named)
      return model_.may_fail(at, std::min(kSimBlockBytes, kSimBytes - at),
                             model_.now());
  }
  return false;
}

// A scan waits for what keeps others from changing anything, no more.
void SimRun::excuse_scan(const std::string& words, Time begun) {
  if (power_.off) return;
  const VolumeStatus now = volume_->status();
  const SlotPool::Counts& slots = now.store.slots;
  const bool full =
      slots.slots - slots.used - slots.retired < running_most_ + 1 ||
      spare_grew_at_ >= begun;
  if (!full && !is_unreadable(words) && now.store.failed.empty() &&
      !now.breaker_open && !now.main.in_doubt && !now.spare.in_doubt)
    violate("scan: waits for no reason: " + words);
}

void SimRun::check_doubt() {
  if (!going()) return;
  const VolumeStatus now = volume_->status();
  if ((main().fired().flushes != main_flushes_ && !now.main.in_doubt) ||
      (spare_.fired().flushes != spare_flushes_ && !now.spare.in_doubt))
    violate("a flush failed, and nothing is in doubt");
}

void SimRun::look(bool settle) {
  std::vector<std::byte> data(kSimBlockBytes);
  for (std::uint64_t block = 0; block < kSimBlocks && going(); ++block) {
    const std::uint64_t offset = block * kSimBlockBytes;
    const std::uint64_t end = std::min(offset + kSimBlockBytes, kSimBytes);
    const Bytes all = Bytes(data).first(end - offset);
    if (volume_->read(place(offset), all)) {
      compare(offset, all, settle);
      continue;
    }
    const Bytes one = Bytes(data).first(kSectorBytes);
    for (std::uint64_t at = offset; at < end; at += kSectorBytes) {
      const Status status = volume_->read(place(at), one);
      if (status)
        compare(at, one, settle);
      else
        excuse_unreadable(at / kSectorBytes, status);
    }
  }
}

void SimRun::compare(std::uint64_t offset, ConstBytes data, bool settle) {
  if (!settle)
    return violate(
        prefix("running: ", model_.check_read(offset, data, model_.now())));
  for (std::size_t done = 0; done < data.size(); done += kSectorBytes)
    violate(prefix("after the cut: ",
                   model_.settle((offset + done) / kSectorBytes,
                                 data.subspan(done, kSectorBytes))));
}

void SimRun::excuse_unreadable(std::uint64_t sector, const Status& status) {
  if (power_.off) return;
  ++stats_.unreadable;
  const std::uint64_t block = sector / kSectorsPerBlock;
  bool may =
      model_.may_fail(sector * kSectorBytes, kSectorBytes, model_.now()) ||
      volume_->status().breaker_open;
  const auto found = entry(block);
  if (found && found->remapped() &&
      (found->valid >> sector % kSectorsPerBlock & 1) != 0)
    may = model_.spoiled_in_slot(sector);
  if (!may)
    violate(fmt::format("sector {} cannot be read for no reason: {}", sector,
                        status.error().text()));
}

void SimRun::check_map(const SimRound& round) {
  const VolumeStatus now = volume_->status();
  if (!now.store.failed.empty())
    return violate("after the start: " + now.store.failed);
  if (round.crash_seed % 4 != 0) return;
  const auto survey = survey_metadata(spare_);
  if (!survey || !survey->best) return violate("no copy can be believed");
  if (!copy_is_bad_ && !survey->copies_agree())
    violate("after the start the copies do not agree");
  std::set<std::uint64_t> slots;
  for (const RemapEntry& e : survey->chosen().state.entries)
    if (e.remapped() && !slots.insert(e.slot_or_none).second)
      violate("two blocks in one slot");
  std::set<std::uint64_t> retired;
  for (SlotNo slot : survey->chosen().state.retired) {
    retired.insert(slot.value);
    if (slots.count(slot.value) != 0) violate("a retired slot is used");
  }
  if (!std::includes(retired.begin(), retired.end(), retired_.begin(),
                     retired_.end()))
    violate("a retired slot is forgotten");
  retired_ = std::move(retired);
}

}  // namespace nbd_remap
