// SPDX-License-Identifier: BSD-3-Clause
// What people ask of a scan: nothing here waits for a disk.
#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "plugins/scanner/scan_engine.hpp"

namespace nbd_remap {
namespace {

Error refused(const std::string& words) {
  return make_error(ErrorClass::caller, EBUSY, words);
}

}  // namespace

Status ScanEngine::start(const ScanPlan& plan,
                         const std::optional<ScanRate>& rate, bool dry_run) {
  MutexLock lock(mu_);
  if (state_.run != RunState::stopped)
    return refused("a scan is under way; stop it first");
  std::vector<ScanRange> todo;
  const std::uint64_t size = volume_.size();
  if (plan.kind == ScanPlan::Kind::full) todo = {{0, size}};
  if (plan.kind == ScanPlan::Kind::range) todo = {plan.range};
  if (plan.kind == ScanPlan::Kind::older) {
    const std::uint64_t now = clock_.unix_seconds();
    const auto age = static_cast<std::uint64_t>(plan.older.count());
    for (std::size_t i = 0; i < kRegions; ++i) {
      const std::uint64_t at = state_.regions[i].scanned_at;
      if (at == 0 || at + age <= now)
        todo.push_back({i * region_bytes_, (i + 1) * region_bytes_});
    }
  }
  state_.rate = rate.value_or(options_.rate);
  state_.dry_run = dry_run;
  begin(plan, normalised(std::move(todo), size, volume_.block_bytes()));
  return {};
}

void ScanEngine::begin(const ScanPlan& plan, std::vector<ScanRange> todo) {
  ++run_;
  state_.run = RunState::running;
  state_.halted = false;
  state_.phase = plan.kind == ScanPlan::Kind::pending ? ScanPhase::pending
                                                      : ScanPhase::main;
  state_.todo = std::move(todo);
  state_.seeds_left =
      plan.kind == ScanPlan::Kind::seeds ? state_.todo.size() : 0;
  state_.todo_bytes = 0;
  for (const ScanRange& r : state_.todo) state_.todo_bytes += r.to - r.from;
  state_.next_block = 0;
  state_.pass = {};
  state_.pass.plan = plan;
  state_.pass.began = clock_.unix_seconds();
  inspect_.reset();
  not_before_ = {};
  if (!state_.todo.empty())
    covered_from_ = covered_to_ = state_.todo.front().from;
}

Status ScanEngine::pause() {
  MutexLock lock(mu_);
  if (state_.run != RunState::running) return refused("no scan is running");
  state_.run = RunState::paused;
  ++run_;
  return {};
}

Status ScanEngine::resume() {
  MutexLock lock(mu_);
  if (state_.run != RunState::paused) return refused("no scan is paused");
  state_.run = RunState::running;
  not_before_ = {};
  ++run_;
  return {};
}

Status ScanEngine::stop() {
  MutexLock lock(mu_);
  state_.halted = true;
  if (state_.run == RunState::stopped) return {};
  state_.run = RunState::stopped;
  state_.pass.ended = clock_.unix_seconds();
  state_.todo.clear();
  state_.seeds_left = 0;
  inspect_.reset();
  ++run_;
  return {};
}

Status ScanEngine::seed(const std::vector<ScanRange>& ranges) {
  MutexLock lock(mu_);
  auto todo = normalised(ranges, volume_.size(), volume_.block_bytes());
  if (todo.size() + state_.todo.size() > ScanState::kMaxTodo)
    return refused(
        fmt::format("more than {} parts are to be read", ScanState::kMaxTodo));
  if (state_.run == RunState::stopped) {
    ScanPlan plan;
    plan.kind = ScanPlan::Kind::seeds;
    begin(plan, std::move(todo));
    return {};
  }
  for (const ScanRange& r : todo) state_.todo_bytes += r.to - r.from;
  state_.seeds_left += todo.size();
  state_.todo.insert(state_.todo.begin(), todo.begin(), todo.end());
  // From the slots or pending blocks it goes back, and comes there again.
  if (!todo.empty()) {
    state_.phase = ScanPhase::main;
    state_.next_block = 0;
    covered_from_ = covered_to_ = todo.front().from;
  }
  ++run_;
  return {};
}

}  // namespace nbd_remap
