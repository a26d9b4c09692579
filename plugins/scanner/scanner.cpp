// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/scanner/scanner.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>

#include <new>
#include <utility>

namespace nbd_remap {

using std::chrono::steady_clock;

Scanner::Scanner(std::unique_ptr<ScanVolume> volume, StateArea* area,
                 const Clock& clock, const ScanOptions& options, LogSink log)
    : volume_(std::move(volume)),
      area_(area),
      options_(options),
      log_(std::move(log)),
      engine_(*volume_, clock, options, log_, before()) {
  {
    MutexLock lock(mu_);
    if (!area_)
      not_kept_ = "SPARE was formatted without a place for it (under 64 MiB)";
  }
  thread_ = std::thread([this] { run(); });
}

Scanner::~Scanner() { stop(); }

std::optional<ScanState> Scanner::before() const {
  if (!area_) return std::nullopt;
  const auto bytes = area_->read(StateKind::scan);
  if (!bytes) {
    log_(LogLevel::warning, "scan: state: " + bytes.error().text());
    return std::nullopt;
  }
  if (bytes->empty()) return std::nullopt;
  auto state =
      unpack_scan_state(*bytes, volume_->size(), volume_->block_bytes());
  if (!state)
    log_(LogLevel::warning,
         "scan: the state on SPARE is of another build, or of another size of "
         "the volume: begins anew");
  return state;
}

Status Scanner::commanded(Status status) {
  MutexLock lock(mu_);
  wake_ = true;
  woken_.notify_all();
  return status;
}

Status Scanner::start(const ScanPlan& plan, const std::optional<ScanRate>& rate,
                      bool dry_run) {
  return commanded(engine_.start(plan, rate, dry_run));
}
Status Scanner::pause() { return commanded(engine_.pause()); }
Status Scanner::resume() { return commanded(engine_.resume()); }
Status Scanner::halt() { return commanded(engine_.stop()); }
Status Scanner::seed(const std::vector<ScanRange>& ranges) {
  return commanded(engine_.seed(ranges));
}

std::string Scanner::not_kept() const {
  MutexLock lock(mu_);
  return not_kept_;
}

void Scanner::save() {
  if (!area_) return;
  auto bytes = pack_scan_state(engine_.state());
  if (bytes == saved_) return;
  const Status status = area_->write(StateKind::scan, bytes);
  MutexLock lock(mu_);
  if (status) {
    saved_ = std::move(bytes);
    not_kept_.clear();
    return;
  }
  if (not_kept_.empty())
    log_(LogLevel::warning, "scan: state: " + status.error().text());
  not_kept_ = status.error().text();
}

void Scanner::run() {
  // Signals are for the host's own threads.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "scan");
  auto save_at = steady_clock::now() + kSaveEvery;
  RunState was = engine_.state().run;
  for (;;) {
    ScanEngine::Wait wait = std::chrono::seconds(1);
    bool save_now = steady_clock::now() >= save_at;
    try {
      wait = engine_.step();
      if (save_now || wait > std::chrono::milliseconds(500)) {
        // The end of a pass, a pause, a stop: at once.
        const RunState is = engine_.run_state();
        if (save_now || is != was) save();
        was = is;
      }
    } catch (const std::bad_alloc&) {
      log_(LogLevel::warning, "scan: no memory for a step");
    }
    if (save_now) save_at = steady_clock::now() + kSaveEvery;
    const auto until = steady_clock::now() + wait;
    MutexLock lock(mu_);
    while (!ending_ && !wake_ && steady_clock::now() < until)
      woken_.wait_until(mu_, until);
    wake_ = false;
    if (ending_) return;
  }
}

void Scanner::stop() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    woken_.notify_all();
  }
  if (!thread_.joinable()) return;
  thread_.join();
  save();
}

}  // namespace nbd_remap
