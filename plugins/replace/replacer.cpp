// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/replacer.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <new>
#include <utility>

#include "plugins/base/tool_text.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kEvents = 50;
constexpr std::chrono::seconds kRateOver{10};

}  // namespace

Replacer::Replacer(Volume& volume, ReplaceNotes notes, OpenNewDisk open,
                   const Clock& clock, LogSink log,
                   std::chrono::milliseconds bound)
    : volume_(volume),
      notes_(std::move(notes)),
      open_(std::move(open)),
      clock_(clock),
      log_(std::move(log)),
      bound_(bound),
      owner_epoch_(volume.status().store.superblock.owner_epoch) {}

Replacer::~Replacer() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Replacer::run() {
  thread_ = std::thread([this] {
    // Signals are for the host's own threads.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    pthread_setname_np(pthread_self(), "replace");
    work();
  });
}

void Replacer::work() {
  for (;;) {
    Milliseconds pause{kPeriod};
    try {
      pause = step();
    } catch (const std::bad_alloc&) {
      tell(LogLevel::warning, "replace: no memory; tried again later");
    }
    const auto until = std::chrono::steady_clock::now() + pause;
    MutexLock lock(mu_);
    // An owner who waits goes first.
    while (!ending_ && wishes_ != 0) changed_.wait(mu_);
    while (!ending_ && !woken_ && std::chrono::steady_clock::now() < until)
      changed_.wait_until(mu_, until);
    if (ending_) return;
    woken_ = false;
  }
}

// What is the same on both disks need not be copied again by the next server.
void Replacer::stop() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  MutexLock lock(work_mu_);
  if (mirror_ == nullptr || mirror_->next().lost() ||
      phase() != ReplacePhase::copying)
    return;
  const auto map = this->map();
  (void)map->settle_point();
  const std::uint64_t point = map->settle_point();
  Status status = volume_.flush_main();
  if (status) status = mirror_->next().flush();
  if (status) status = map->settle(point);
  if (!status)
    log_(LogLevel::warning, "replace: more than needed will be copied again: " +
                                error_words(status.error()));
}

std::chrono::milliseconds Replacer::step() {
  MutexLock lock(work_mu_);
  switch (phase()) {
    case ReplacePhase::copying:
      return copy_step();
    case ReplacePhase::switched:
      return fold_step();
    case ReplacePhase::none:
    case ReplacePhase::done:
    case ReplacePhase::failed:
    case ReplacePhase::aborted:
      break;
  }
  // Requests had not ended when it was to be taken away.
  if (mirror_ != nullptr && !detach()) return kPeriod;
  return kIdle;
}

Status Replacer::save(const std::vector<bool>& bits, bool clears) {
  ReplaceState state;
  {
    MutexLock lock(mu_);
    state = state_;
  }
  state.in_sync = bits;
  state.owner_epoch = owner_epoch_;
  const std::vector<std::byte> bytes = pack_replace_state(state);
  Status status = notes_.write(bytes);
  // There are two places, and what the older one says must not be found again.
  if (status && clears) status = notes_.write(bytes);
  return status;
}

ReplaceStatus Replacer::status() const {
  MutexLock lock(mu_);
  ReplaceStatus out;
  out.phase = state_.phase;
  out.next = state_.next;
  out.next_identity = state_.next_identity;
  out.old = state_.old;
  out.old_identity = state_.old_identity;
  out.started = state_.started;
  out.changed = state_.changed;
  out.reason = state_.reason;
  out.waits_for = waits_for_;
  out.bytes = state_.volume_bytes;
  out.read_errors = read_errors_;
  out.lost_sectors = lost_sectors_;
  out.events.assign(events_.begin(), events_.end());
  if (!map_) return out;
  const auto counts = map_->counts();
  const auto bytes = [&](Chunk state) {
    return std::min(out.bytes,
                    counts[static_cast<std::size_t>(state)] * kChunkBytes);
  };
  out.checked_bytes = bytes(Chunk::checked);
  out.copied_bytes =
      std::min(out.bytes, bytes(Chunk::holes) + bytes(Chunk::written) +
                              bytes(Chunk::checked));
  out.unread_bytes = bytes(Chunk::failed);
  out.regions = map_->regions();
  out.regions_in_sync = map_->regions_in_sync();
  if (samples_.size() > 1 && waits_for_.empty()) {
    const std::chrono::duration<double> time =
        samples_.back().at - samples_.front().at;
    if (time.count() > 0)
      out.bytes_per_second =
          static_cast<double>(samples_.back().bytes - samples_.front().bytes) /
          time.count();
  }
  return out;
}

void Replacer::measure(std::uint64_t bytes) {
  const auto now = clock_.now();
  MutexLock lock(mu_);
  const std::uint64_t before = samples_.empty() ? 0 : samples_.back().bytes;
  samples_.push_back({now, before + bytes});
  while (samples_.front().at + kRateOver < now) samples_.pop_front();
}

std::chrono::milliseconds Replacer::wait_for(const std::string& what,
                                             Milliseconds time) {
  bool news = false;
  {
    MutexLock lock(mu_);
    news = waits_for_ != what;
    waits_for_ = what;
    samples_.clear();
  }
  if (news && !what.empty()) tell(LogLevel::warning, "waits: " + what);
  return time;
}

void Replacer::gets_on() {
  MutexLock lock(mu_);
  waits_for_.clear();
}

void Replacer::tell(LogLevel level, const std::string& text) {
  log_(level, "replace: " + text);
  MutexLock lock(mu_);
  events_.push_back({clock_.unix_seconds(), text});
  if (events_.size() > kEvents) events_.pop_front();
}

void Replacer::set_phase(ReplacePhase phase, const std::string& reason) {
  MutexLock lock(mu_);
  state_.phase = phase;
  state_.reason = reason;
  state_.changed = clock_.unix_seconds();
  waits_for_.clear();
  samples_.clear();
}

ReplacePhase Replacer::phase() const {
  MutexLock lock(mu_);
  return state_.phase;
}

ReplaceState Replacer::state_words() const {
  MutexLock lock(mu_);
  return state_;
}

std::shared_ptr<CopyMap> Replacer::map() const {
  MutexLock lock(mu_);
  return map_;
}

std::uint64_t Replacer::length_of(std::uint64_t chunk) const {
  return std::min(kChunkBytes, volume_.size() - offset_of(chunk).value);
}

void Replacer::wake() {
  MutexLock lock(mu_);
  woken_ = true;
  changed_.notify_all();
}

}  // namespace nbd_remap
