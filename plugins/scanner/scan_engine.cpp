// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/scanner/scan_engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace nbd_remap {
namespace {

using namespace std::chrono_literals;

constexpr ScanEngine::Wait kLook = 5ms;     // while clients are busy
constexpr ScanEngine::Wait kIdle = 1s;      // until a watch may be due
constexpr ScanEngine::Wait kNothing = 60s;  // a command wakes earlier
constexpr ScanEngine::Wait kTrouble = 10s;
constexpr ScanEngine::Wait kLeastBackOff = 100ms;
constexpr ScanEngine::Wait kMostBackOff = 5s;
constexpr int kBackOff = 100;

}  // namespace

ScanEngine::ScanEngine(ScanVolume& volume, const Clock& clock,
                       const ScanOptions& options, LogSink log,
                       std::optional<ScanState> before)
    : volume_(volume),
      clock_(clock),
      options_(options),
      log_(std::move(log)),
      region_bytes_(region_bytes_for(volume.size())) {
  MutexLock lock(mu_);
  if (before) state_ = std::move(*before);
  if (!before) state_.rate = options.rate;
  state_.size = volume.size();
  counted_.resize(2 * kRegions);
  seen_requests_ = volume.load().requests;
  if (!state_.todo.empty())
    covered_from_ = covered_to_ = state_.todo.front().from;
}

ScanState ScanEngine::state() const {
  MutexLock lock(mu_);
  count_clients();
  return state_;
}

std::string ScanEngine::trouble() const {
  MutexLock lock(mu_);
  return trouble_;
}

std::size_t ScanEngine::region_of(std::uint64_t at) const {
  return std::min<std::uint64_t>(at / region_bytes_, kRegions - 1);
}

void ScanEngine::count_clients() const {
  const RegionCounts& counts = volume_.region_counts();
  for (std::size_t i = 0; i < kRegions; ++i)
    for (const auto kind : {RegionCounts::error, RegionCounts::retry}) {
      const std::uint32_t now = counts.of(i, kind);
      std::uint32_t& had = counted_[2 * i + (kind == RegionCounts::retry)];
      RegionRecord& r = state_.regions[i];
      (kind == RegionCounts::error ? r.errors : r.retries) += now - had;
      had = now;
    }
}

void ScanEngine::begin_by_itself(std::uint64_t now) {
  if (state_.halted || state_.run != RunState::stopped) return;
  if (options_.every.count() != 0 &&
      now >= state_.last_full +
                 static_cast<std::uint64_t>(options_.every.count())) {
    state_.rate = options_.rate;
    state_.dry_run = false;
    begin({}, {{0, volume_.size()}});
  }
}

ScanEngine::Work ScanEngine::choose() {
  Work work;
  const Time now = clock_.now();
  const std::uint64_t unix_now = clock_.unix_seconds();
  work.wait = kNothing;
  begin_by_itself(unix_now);
  if (state_.run == RunState::paused || state_.halted) return work;
  const ClientLoad load = volume_.load();
  if (load.in_flight != 0 || load.requests != seen_requests_)
    last_client_ = now;
  seen_requests_ = load.requests;
  auto due = state_.watches.end();
  if (unix_now >= watch_due_) {
    due = std::min_element(state_.watches.begin(), state_.watches.end(),
                           [](const auto& a, const auto& b) {
                             return a.second.next_check < b.second.next_check;
                           });
    watch_due_ = due == state_.watches.end() ? ~std::uint64_t{0}
                                             : due->second.next_check;
  }
  const bool is_due = due != state_.watches.end() && watch_due_ <= unix_now;
  const auto retest = is_due ? std::nullopt : due_retest(unix_now);
  if (state_.run != RunState::running && !is_due && !retest) {
    // Whether something is pending, or a pass is due, is asked now and then.
    work.wait = state_.watches.empty() ? kNothing : kIdle;
    return work;
  }
  work.quiet = now - last_client_ >= kQuiet;
  const Time from =
      work.quiet ? not_before_ : std::max(not_before_, busy_not_before_);
  if (now < from) {
    work.wait =
        work.quiet ? Wait(from - now) : std::min<Wait>(from - now, kLook);
    return work;
  }
  work.run = run_;
  work.began = now;
  work.requests = load.requests;
  if (is_due) {
    work.kind = Work::Kind::watch;
    work.block = due->first;
    return work;
  }
  if (retest) {
    work.kind = Work::Kind::retest;
    work.region = *retest;
    work.block = BlockNo{retest_from_};
    return work;
  }
  work.block = BlockNo{state_.next_block};
  if (state_.phase == ScanPhase::slots) {
    work.kind = Work::Kind::slot;
    return work;
  }
  if (inspect_) {
    work.kind = Work::Kind::block;
    work.at = inspect_->from;
    return work;
  }
  if (state_.phase == ScanPhase::main && !state_.todo.empty()) {
    const ScanRange& r = state_.todo.front();
    work.kind = Work::Kind::chunk;
    work.at = r.from;
    work.bytes = std::min(r.to - r.from, work.quiet ? kChunk : kBusyChunk);
    return work;
  }
  if (state_.phase == ScanPhase::main) {
    if (state_.pass.plan.kind != ScanPlan::Kind::full) {
      finish_pass();
      work.wait = {};
      return work;
    }
    state_.phase = ScanPhase::slots;
    work.kind = Work::Kind::slot;
    work.block = BlockNo{0};
    return work;
  }
  work.kind = Work::Kind::pending;
  return work;
}

ScanEngine::Wait ScanEngine::step() {
  Work work;
  {
    MutexLock lock(mu_);
    work = choose();
  }
  switch (work.kind) {
    case Work::Kind::wait:
      return work.wait;
    case Work::Kind::chunk:
      return read_chunk(work);
    case Work::Kind::block:
      return read_block(work);
    case Work::Kind::watch:
      return check_watch(work);
    case Work::Kind::slot:
      return read_slot(work);
    case Work::Kind::pending:
      return try_pending(work);
    case Work::Kind::retest:
      return try_region(work);
  }
  return kNothing;
}

ScanEngine::Wait ScanEngine::read_chunk(const Work& work) {
  ScanStep step =
      volume_.scan_main(VolumeOffset{work.at}, buffer_.first(work.bytes));
  const bool alone = undisturbed(work);
  {
    MutexLock lock(mu_);
    found(step);
    state_.pass.bytes += step.bytes;
    note_time(work, step);
    if (alone && step.bytes == kChunk && step.took.count() != 0) {
      if (judge_.chunk_is_slow(step.took)) {
        ++state_.pass.slow_chunks;
        if (work.run == run_) inspect_ = {work.at, work.at + step.bytes};
      }
      judge_.add(step.took);
    }
    if (step.trouble_to != 0) {
      ++state_.regions[region_of(step.trouble_from)].retries;
      if (work.run == run_)
        inspect_ = {round_down(step.trouble_from, volume_.block_bytes()),
                    step.trouble_to};
    }
    if (work.run == run_) advance(step.next.value);
  }
  return after(work, work.bytes, std::move(step.status));
}

void ScanEngine::advance(std::uint64_t to) {
  if (state_.todo.empty()) return;
  ScanRange& r = state_.todo.front();
  if (covered_to_ != r.from) covered_from_ = r.from;
  covered_to_ = to;
  const std::uint64_t size = volume_.size();
  for (std::size_t i = region_of(r.from); i < kRegions; ++i) {
    const std::uint64_t begin = i * region_bytes_;
    const std::uint64_t end = std::min(begin + region_bytes_, size);
    if (begin >= end || end > to) break;
    if (covered_from_ <= begin)
      state_.regions[i].scanned_at = clock_.unix_seconds();
  }
  r.from = to;
  if (r.from < r.to) return;
  state_.todo.erase(state_.todo.begin());
  if (state_.seeds_left != 0) --state_.seeds_left;
}

// A chunk counts for each region that it touches.
void ScanEngine::note_time(const Work& work, const ScanStep& step) {
  if (step.took.count() == 0) return;
  const auto us = static_cast<std::uint32_t>(std::min<std::int64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(step.took).count(),
      ~std::uint32_t{0}));
  for (std::size_t i = region_of(work.at);
       i <= region_of(work.at + step.bytes - 1); ++i) {
    if (i != timed_region_) {
      timed_region_ = i;
      timed_sum_us_ = timed_count_ = 0;
      state_.regions[i].slowest_us = 0;
    }
    timed_sum_us_ += us;
    ++timed_count_;
    RegionRecord& r = state_.regions[i];
    r.slowest_us = std::max(r.slowest_us, us);
    r.mean_us = static_cast<std::uint32_t>(timed_sum_us_ / timed_count_);
  }
}

ScanEngine::Wait ScanEngine::read_slot(const Work& work) {
  SlotStep step = volume_.scan_slot(work.block);
  const std::uint64_t bytes = step.bytes;
  {
    MutexLock lock(mu_);
    if (step.failed) {
      ++state_.pass.bad_slots;
      volume_.note({MapEvent::What::slot_unreadable, *step.block,
                    RemapEntry::kNoSlot, clock_.unix_seconds(), 0,
                    "the scanner could not read it"});
      log_(LogLevel::warning,
           fmt::format("scan: SPARE can not read what it holds of block {}",
                       step.block->value));
    }
    state_.pass.bytes += bytes;
    if (work.run == run_ && step.status) {
      if (!step.block) state_.phase = ScanPhase::pending;
      state_.next_block = step.block ? step.block->value + 1 : 0;
    }
  }
  return after(work, bytes, std::move(step.status));
}

void ScanEngine::finish_pass() {
  const std::uint64_t now = clock_.unix_seconds();
  state_.run = RunState::stopped;
  state_.pass.ended = now;
  ++state_.passes;
  const auto kind = state_.pass.plan.kind;
  if (kind == ScanPlan::Kind::full) state_.last_full = now;
  const PassRecord& p = state_.pass;
  log_(LogLevel::info,
       fmt::format("scan: {} ended: {} bytes read, {} sectors unreadable, {} "
                   "blocks rescued",
                   scan_plan_text(p.plan), p.bytes, p.unreadable_sectors,
                   p.rescued));
}

// How long to leave the disk alone.
ScanEngine::Wait ScanEngine::after(const Work& work, std::uint64_t bytes,
                                   Status status) {
  MutexLock lock(mu_);
  const Time now = clock_.now();
  if (!status) {
    // At the server's end that is no news.
    if (trouble_.empty() && status.error().errnum != ESHUTDOWN)
      log_(LogLevel::warning, "scan: waits: " + status.error().text());
    trouble_ = status.error().text();
    not_before_ = now + kTrouble;
    return {};
  }
  trouble_.clear();
  const Wait took = now - work.began;
  busy_not_before_ =
      now + std::clamp<Wait>(kBackOff * took, kLeastBackOff, kMostBackOff);
  Wait pause{};
  if (state_.rate.percent < 100)
    pause = took * (100 - state_.rate.percent) / state_.rate.percent;
  if (state_.rate.bytes_per_second != 0)
    pause = std::chrono::duration_cast<Wait>(std::chrono::duration<double>(
                static_cast<double>(bytes) /
                static_cast<double>(state_.rate.bytes_per_second))) -
            took;
  not_before_ = pause.count() > 0 ? now + pause : now;
  return {};
}

}  // namespace nbd_remap
