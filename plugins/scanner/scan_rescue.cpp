// SPDX-License-Identifier: BSD-3-Clause
// What the scanner makes of blocks that are read with trouble, or were.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "plugins/scanner/scan_engine.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kHour = 3600;
// A suspect that is not rescued (policy, budget, no room) is looked at again.
constexpr std::uint64_t kLater = 600;

constexpr std::string_view kRetried = "it was read, but not at the first try";
constexpr std::string_view kSlow = "reading it was slow again and again";

}  // namespace

// Nothing of a client's ran beside it, so the time it took is the disk's.
bool ScanEngine::undisturbed(const Work& work) const {
  const ClientLoad load = volume_.load();
  return work.quiet && load.in_flight == 0 && load.requests == work.requests;
}

// In chunks and blocks alike: what MAIN cannot read, or only with patience.
void ScanEngine::found(const ScanStep& step) {
  const std::uint64_t block_bytes = volume_.block_bytes();
  const std::uint64_t now = clock_.unix_seconds();
  state_.unreadable_sectors += step.unreadable_sectors;
  state_.pass.unreadable_sectors += step.unreadable_sectors;
  for (const BlockNo block : step.pending) {
    state_.watches.erase(block);
    // The next try is soon after the newest.
    RegionRecord& region = state_.regions[region_of(block.value * block_bytes)];
    ++region.errors;
    region.retests = 0;
    const std::uint64_t soon = now + retest_wait(0);
    if (region.next_retest == 0 || region.next_retest > soon)
      region.next_retest = soon;
    retest_due_ = 0;
    log_(LogLevel::warning,
         fmt::format("scan: block {} cannot be read and is pending",
                     block.value));
  }
  for (const BlockNo block : step.retried) {
    if (!state_.watches.contains(block)) {
      ++state_.regions[region_of(block.value * block_bytes)].retries;
      ++state_.pass.retried_blocks;
      if (state_.watches.size() >= ScanState::kMaxWatches) continue;
    }
    make_suspect(block, state_.watches[block], kRetried);
  }
}

void ScanEngine::make_suspect(BlockNo block, Watch& watch,
                              std::string_view why) {
  watch.suspect = true;
  watch.fast = 0;
  // Rescued by the next step, or looked at again later: never at once, which
  // would be for ever.
  watch.next_check =
      clock_.unix_seconds() + (options_.rescue == Rescue::suspect ? 0 : kLater);
  watch_due_ = 0;
  if (watch.noted) return;
  watch.noted = true;
  volume_.note({MapEvent::What::suspect, block, RemapEntry::kNoSlot,
                clock_.unix_seconds(), 0, why});
  log_(LogLevel::warning,
       fmt::format("scan: block {} is suspect: {}", block.value, why));
}

void ScanEngine::watch_slow(BlockNo block) {
  if (state_.watches.size() >= ScanState::kMaxWatches &&
      !state_.watches.contains(block))
    return;
  Watch& watch = state_.watches[block];
  watch.fast = 0;
  if (watch.slow < 255) ++watch.slow;
  watch.next_check = clock_.unix_seconds() +
                     static_cast<std::uint64_t>(options_.recheck.count());
  watch_due_ = 0;
  if (watch.slow >= options_.slow_reads) make_suspect(block, watch, kSlow);
}

// A block of a chunk that was slow.
ScanEngine::Wait ScanEngine::read_block(const Work& work) {
  const std::uint64_t block_bytes = volume_.block_bytes();
  ScanStep step =
      volume_.scan_main(VolumeOffset{work.at}, buffer_.first(block_bytes));
  const bool alone = undisturbed(work);
  {
    MutexLock lock(mu_);
    found(step);
    if (alone && step.took.count() != 0 && judge_.block_is_slow(step.took))
      watch_slow(BlockNo{work.at / block_bytes});
    if (work.run == run_ && inspect_ && step.status) {
      inspect_->from = step.next.value;
      if (inspect_->from >= inspect_->to) inspect_.reset();
    }
  }
  return after(work, block_bytes, std::move(step.status));
}

ScanEngine::Wait ScanEngine::check_watch(const Work& work) {
  bool rescues = false;
  Watch watch;
  {
    MutexLock lock(mu_);
    const auto it = state_.watches.find(work.block);
    if (it == state_.watches.end()) return {};
    const std::uint64_t now = clock_.unix_seconds();
    if (it->second.suspect && options_.rescue == Rescue::suspect) {
      rescues = !state_.dry_run && take_budget();
      if (!rescues) {
        it->second.next_check = now + kLater;
        if (state_.dry_run)
          log_(LogLevel::info, fmt::format("scan: block {} would be rescued",
                                           work.block.value));
        return {};
      }
    }
    it->second.next_check =
        now + (it->second.suspect
                   ? kLater
                   : static_cast<std::uint64_t>(options_.recheck.count()));
    watch = it->second;
  }
  const std::uint64_t block_bytes = volume_.block_bytes();
  if (rescues) {
    Status status = rescue(
        work.block, watch.slow >= options_.slow_reads ? kSlow : kRetried);
    MutexLock lock(mu_);
    if (status || status.error().error_class == ErrorClass::medium)
      state_.watches.erase(work.block);
    return {};
  }
  ScanStep step = volume_.scan_main(
      VolumeOffset{work.block.value * block_bytes}, buffer_.first(block_bytes));
  const bool alone = undisturbed(work);
  {
    MutexLock lock(mu_);
    found(step);
    const auto it = state_.watches.find(work.block);
    if (it != state_.watches.end() && step.status && step.retried.empty()) {
      // NOLINTNEXTLINE(bugprone-branch-clone): for reasons of their own
      if (step.bytes == 0) {
        state_.watches.erase(it);  // remapped or pending since
      } else if (alone && judge_.block_is_slow(step.took)) {
        watch_slow(work.block);
      } else if (alone && ++it->second.fast >= options_.fast_reads) {
        state_.watches.erase(it);
      }
    }
  }
  return after(work, block_bytes, std::move(step.status));
}

bool ScanEngine::take_budget() {
  const std::uint64_t now = clock_.unix_seconds();
  // A clock that was set back begins a new hour too.
  if (now >= state_.budget_hour + kHour || now < state_.budget_hour) {
    state_.budget_hour = now;
    state_.budget_used = 0;
  }
  if (state_.budget_used >= options_.rescues_per_hour) return false;
  ++state_.budget_used;
  return true;
}

Status ScanEngine::rescue(BlockNo block, std::string_view why) {
  Status status = volume_.rescue(block, why);
  MutexLock lock(mu_);
  if (status) {
    ++state_.rescued;
    ++state_.pass.rescued;
    log_(LogLevel::warning,
         fmt::format("scan: block {} was rescued: {}", block.value, why));
  } else {
    log_(LogLevel::warning, fmt::format("scan: block {} is not rescued: {}",
                                        block.value, status.error().text()));
  }
  return status;
}

}  // namespace nbd_remap
