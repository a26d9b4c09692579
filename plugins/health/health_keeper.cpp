// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/health/health_keeper.hpp"

#include <pthread.h>

#include <cerrno>
#include <csignal>
#include <span>
#include <utility>

namespace nbd_remap {
namespace {

HealthMemory read_memory(const HealthStore& store, const LogSink& log) {
  if (!store.read) return {};
  const auto saved = store.read();
  if (!saved) {
    log(LogLevel::warning,
        "health: its past cannot be read: " + saved.error().text());
    return {};
  }
  const auto* text = reinterpret_cast<const char*>(saved->data());
  return decode_memory(std::string_view(text, saved->size()));
}

std::uint64_t medium_errors(const VolumeStatus& status) {
  return status.main.errors[static_cast<std::size_t>(ErrorClass::medium)];
}

}  // namespace

HealthKeeper::HealthKeeper(std::function<VolumeStatus()> status,
                           HealthStore store, const Clock& clock, LogSink log)
    : status_(std::move(status)),
      store_(std::move(store)),
      clock_(clock),
      log_(std::move(log)),
      memory_(read_memory(store_, log_)),
      errors_before_(memory_.errors) {}

HealthKeeper::~HealthKeeper() { stop(); }

void HealthKeeper::start() {
  thread_ = std::thread([this] { run(); });
}

void HealthKeeper::stop() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    changed_.notify_all();
  }
  if (!thread_.joinable()) return;
  thread_.join();
  {
    // Errors are counted all the time, and noted with the next point only.
    MutexLock lock(mu_);
    ++noted_;
  }
  save();
}

HealthMemory HealthKeeper::now_locked(const VolumeStatus& status) const {
  HealthMemory memory = memory_;
  memory.errors = errors_before_ + medium_errors(status);
  return memory;
}

HealthReport HealthKeeper::report() const {
  const VolumeStatus status = status_();
  HealthMemory memory;
  {
    MutexLock lock(mu_);
    memory = now_locked(status);
  }
  return report_health(status, memory, clock_.unix_seconds());
}

HealthMemory HealthKeeper::memory() const {
  const VolumeStatus status = status_();
  MutexLock lock(mu_);
  return now_locked(status);
}

void HealthKeeper::note_smart(SmartCounts counts) {
  counts.noted = clock_.unix_seconds();
  MutexLock lock(mu_);
  memory_.smart = counts;
  ++noted_;
  failed_ = false;
  changed_.notify_all();
}

// A look at the volume and what comes of it are one, here and in tick(): an
// older look would take back what was acknowledged since.
Status HealthKeeper::acknowledge() {
  MutexLock lock(mu_);
  const VolumeStatus status = status_();
  const HealthReport now =
      report_health(status, now_locked(status), clock_.unix_seconds());
  if (now.health.state == HealthState::failed ||
      now.health.state == HealthState::stopping)
    return make_error(ErrorClass::caller, EBUSY,
                      "a volume that fails requests, or stops, cannot be "
                      "acknowledged: " +
                          now.sentence);
  memory_.acknowledged = nbd_remap::acknowledge(now, clock_.unix_seconds());
  ++noted_;
  failed_ = false;
  changed_.notify_all();
  return {};
}

HealthKeeper::Saved HealthKeeper::wait_saved(std::chrono::milliseconds bound) {
  if (!store_.write) return Saved::nowhere;
  const auto until = std::chrono::steady_clock::now() + bound;
  MutexLock lock(mu_);
  const std::uint64_t wanted = noted_;
  while (saved_ < wanted && !failed_)
    if (!changed_.wait_until(mu_, until)) break;
  if (saved_ >= wanted) return Saved::yes;
  return failed_ ? Saved::failed : Saved::not_yet;
}

void HealthKeeper::tick() {
  {
    MutexLock lock(mu_);
    const VolumeStatus status = status_();
    const std::uint64_t now = clock_.unix_seconds();
    const HealthMemory seen = now_locked(status);
    // Without SPARE nothing is known of the map; a stop is no change.
    if (status.missing_spare.empty() && !status.stopping) {
      const HealthPoint point{
          now, status.store.slots.used + status.store.slots.retired,
          status.store.pending, seen.errors};
      bool changed = add_point(memory_.points, point);
      if (memory_.acknowledged)
        changed |= lower_acknowledged(*memory_.acknowledged,
                                      report_health(status, seen, now).health);
      if (changed) ++noted_;
    }
  }
  save();
}

void HealthKeeper::save() {
  if (!store_.write) return;
  HealthMemory memory;
  std::uint64_t noted = 0;
  const VolumeStatus status = status_();
  {
    MutexLock lock(mu_);
    if (saved_ == noted_) return;
    noted = noted_;
    memory = now_locked(status);
  }
  const std::string text = encode_memory(memory, store_.max_bytes);
  const Status written =
      store_.write(std::as_bytes(std::span(text.data(), text.size())));
  MutexLock lock(mu_);
  if (!written && !failed_)
    log_(LogLevel::warning,
         "health: cannot be noted on SPARE: " + written.error().text());
  failed_ = !written;
  if (written) saved_ = noted;
  changed_.notify_all();
}

void HealthKeeper::run() {
  // Signals are for the host's own threads.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "health");
  for (;;) {
    try {
      tick();
    } catch (const std::bad_alloc&) {
      log_(LogLevel::warning, "health: out of memory");
    }
    const auto until = std::chrono::steady_clock::now() + kEvery;
    MutexLock lock(mu_);
    while (!ending_ && (saved_ == noted_ || failed_ || !store_.write))
      if (!changed_.wait_until(mu_, until)) break;
    if (ending_) return;
  }
}

}  // namespace nbd_remap
