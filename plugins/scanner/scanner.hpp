#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Scanner: a ScanEngine on a thread of its own, and its state on SPARE.
//
// State    Read at the start; written every kSaveEvery while something
//          changes, and at stop(). Never for each chunk: after kill -9 a
//          part of the last kSaveEvery is read again.
// Stop     stop() returns after the request that is under way.
// Threads  stop: one. All else: any.

#include <memory>
#include <string>
#include <thread>

#include "plugins/scanner/scan_engine.hpp"

namespace nbd_remap {

class Scanner {
 public:
  static constexpr std::chrono::seconds kSaveEvery{30};

  // area: null if SPARE has none. volume, clock and area outlive it.
  Scanner(std::unique_ptr<ScanVolume> volume, StateArea* area,
          const Clock& clock, const ScanOptions& options, LogSink log);
  ~Scanner();  // stops
  Scanner(const Scanner&) = delete;
  Scanner& operator=(const Scanner&) = delete;

  Status start(const ScanPlan& plan, const std::optional<ScanRate>& rate,
               bool dry_run);
  Status pause();
  Status resume();
  Status halt();  // the pass; the thread goes on
  Status seed(const std::vector<ScanRange>& ranges);

  ScanState state() const { return engine_.state(); }
  std::string trouble() const { return engine_.trouble(); }
  const ScanOptions& options() const { return options_; }
  // Why the state does not outlive the server; empty: it does.
  std::string not_kept() const;

  void stop();

 private:
  void run();
  void save();
  Status commanded(Status status);

  const std::unique_ptr<ScanVolume> volume_;
  StateArea* const area_;
  const ScanOptions options_;
  LogSink log_;
  std::optional<ScanState> before() const;
  ScanEngine engine_;

  mutable Mutex mu_;
  CondVar woken_;
  bool ending_ GUARDED_BY(mu_) = false;
  bool wake_ GUARDED_BY(mu_) = false;
  std::string not_kept_ GUARDED_BY(mu_);
  std::vector<std::byte> saved_;  // the thread's, then stop()'s
  std::thread thread_;
};

}  // namespace nbd_remap
