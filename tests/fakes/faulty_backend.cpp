// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/faulty_backend.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "plugins/backend/range_check.hpp"

namespace nbd_remap {
namespace {

constexpr std::array kNames{"read",    "write", "zero", "trim",
                            "extents", "cache", "flush"};

std::uint64_t end_of(std::uint64_t offset, std::uint64_t length) {
  return checked_add(offset, length).value_or(~std::uint64_t{0});
}

}  // namespace

FaultyBackend::FaultyBackend(Backend& inner) : inner_(inner) {}

FaultyBackend::Rule FaultyBackend::add_bad_range(OpSet ops,
                                                 std::uint64_t offset,
                                                 std::uint64_t length,
                                                 int errnum,
                                                 RangeOptions options) {
  RuleState state{.ops = ops, .errnum = errnum, .bad = {}};
  state.by_range = true;
  state.times = options.times;
  state.heal_on_write = options.heal_on_write;
  Rule rule{};
  {
    MutexLock lock(mu_);
    rules_.push_back(std::move(state));
    rule = rules_.size() - 1;
  }
  extend(rule, offset, length);
  return rule;
}

void FaultyBackend::extend(Rule rule, std::uint64_t offset,
                           std::uint64_t length) {
  MutexLock lock(mu_);
  RuleState& state = rules_.at(rule);
  std::uint64_t begin = round_down(offset, kSectorBytes);
  std::uint64_t end = end_of(offset, length);
  if (begin >= end) return;
  if (end % kSectorBytes != 0 && end < ~std::uint64_t{0} - kSectorBytes)
    end = round_up(end, kSectorBytes);
  auto next = state.bad.lower_bound(begin);
  if (next != state.bad.begin() && std::prev(next)->second >= begin) --next;
  while (next != state.bad.end() && next->first <= end) {
    begin = std::min(begin, next->first);
    end = std::max(end, next->second);
    next = state.bad.erase(next);
  }
  state.bad[begin] = end;
}

FaultyBackend::Rule FaultyBackend::add_failing_call(OpSet ops, int errnum,
                                                    CallOptions options) {
  RuleState state{.ops = ops, .errnum = errnum, .bad = {}};
  state.countdown = options.nth;
  state.sticky = options.sticky;
  state.done = options.done;
  MutexLock lock(mu_);
  rules_.push_back(std::move(state));
  return rules_.size() - 1;
}

void FaultyBackend::remove(Rule rule) {
  MutexLock lock(mu_);
  rules_.at(rule).removed = true;
}

void FaultyBackend::remove_all() {
  MutexLock lock(mu_);
  for (RuleState& rule : rules_) rule.removed = true;
}

std::uint64_t FaultyBackend::fired(Rule rule) const {
  MutexLock lock(mu_);
  return rules_.at(rule).fired;
}

std::uint64_t FaultyBackend::fired() const {
  MutexLock lock(mu_);
  std::uint64_t sum = 0;
  for (const RuleState& rule : rules_) sum += rule.fired;
  return sum;
}

void FaultyBackend::tear_failed_writes(std::uint64_t seed) {
  MutexLock lock(mu_);
  tear_.emplace(seed);
}

void FaultyBackend::set_hook(std::function<void(const Operation&)> hook) {
  MutexLock lock(mu_);
  hook_ = std::move(hook);
}

std::vector<Operation> FaultyBackend::trace() const {
  MutexLock lock(mu_);
  return trace_;
}

void FaultyBackend::clear_trace() {
  MutexLock lock(mu_);
  trace_.clear();
}

bool FaultyBackend::RuleState::touches(std::uint64_t begin,
                                       std::uint64_t end) const {
  const auto next = bad.lower_bound(end);
  return begin < end && next != bad.begin() && std::prev(next)->second > begin;
}

void FaultyBackend::RuleState::mend(std::uint64_t begin, std::uint64_t end) {
  auto next = bad.lower_bound(begin);
  if (next != bad.begin() && std::prev(next)->second > begin) --next;
  while (next != bad.end() && next->first < end) {
    const auto [bad_begin, bad_end] = *next;
    next = bad.erase(next);
    if (bad_begin < begin) bad[bad_begin] = begin;
    if (bad_end > end) bad[end] = bad_end;
  }
}

bool FaultyBackend::RuleState::strikes(const Operation& operation) {
  if (removed || !ops.has(operation.op)) return false;
  if (by_range) {
    if (times == 0 ||
        !touches(operation.offset, end_of(operation.offset, operation.length)))
      return false;
    if (times != kForEver) --times;
    return true;
  }
  if (countdown == 0) return sticky;
  return --countdown == 0;
}

std::vector<std::uint64_t> FaultyBackend::torn_blocks(
    const Operation& operation) {
  std::vector<std::uint64_t> blocks;
  if (!tear_) return blocks;
  const std::uint64_t unit = info().logical_block_bytes;
  const std::uint64_t end = end_of(operation.offset, operation.length);
  for (std::uint64_t at = operation.offset; at < end; at += unit) {
    const bool bad =
        std::any_of(rules_.begin(), rules_.end(), [&](const RuleState& rule) {
          return !rule.removed && rule.ops.has(operation.op) &&
                 rule.touches(at, at + unit);
        });
    if (!bad && ((*tear_)() & 1U) != 0) blocks.push_back(at);
  }
  return blocks;
}

void FaultyBackend::do_it(const Operation& operation, const std::byte* data) {
  const DeviceOffset at{operation.offset};
  const auto durability = operation.fua ? Durability::fua : Durability::cached;
  Status lost;
  if (operation.op == FaultOp::write)
    lost = inner_.write(at, {data, operation.length}, durability);
  else if (operation.op == FaultOp::zero)
    lost =
        inner_.zero(at, operation.length, ZeroMode::keep_allocated, durability);
  else if (operation.op == FaultOp::trim)
    lost = inner_.trim(at, operation.length);
  else if (operation.op == FaultOp::flush)
    lost = inner_.flush();
}

Status FaultyBackend::begin(Operation operation, const std::byte* data) {
  std::function<void(const Operation&)> hook;
  {
    MutexLock lock(mu_);
    hook = hook_;
  }
  if (hook) hook(operation);
  const bool stores =
      operation.op == FaultOp::write || operation.op == FaultOp::zero;
  std::vector<std::uint64_t> torn;
  bool done = false;
  {
    MutexLock lock(mu_);
    for (RuleState& rule : rules_) {
      if (!rule.strikes(operation)) continue;
      ++rule.fired;
      operation.injected = rule.errnum;
      done = rule.done;
      break;
    }
    trace_.push_back(operation);
    const std::uint64_t end = end_of(operation.offset, operation.length);
    if (operation.injected == 0) {
      if (stores)
        for (RuleState& rule : rules_)
          if (rule.heal_on_write) rule.mend(operation.offset, end);
      return {};
    }
    if (stores && !done) torn = torn_blocks(operation);
  }
  if (done) do_it(operation, data);
  const std::uint64_t unit = info().logical_block_bytes;
  const std::vector<std::byte> zeroes(data ? 0 : unit);
  for (std::uint64_t at : torn) {
    const std::byte* source =
        data ? data + (at - operation.offset) : zeroes.data();
    if (Status s = inner_.write({at}, {source, unit}, Durability::cached); !s)
      break;
  }
  const auto* name = kNames.at(static_cast<std::size_t>(operation.op));
  return make_error(
      operation.injected,
      io_place(info(), name, {operation.offset}, operation.length) +
          " (injected)");
}

Status FaultyBackend::read(DeviceOffset offset, Bytes buffer) {
  if (Status s = begin({FaultOp::read, offset.value, buffer.size()}, nullptr);
      !s)
    return s;
  return inner_.read(offset, buffer);
}

Status FaultyBackend::write(DeviceOffset offset, ConstBytes data,
                            Durability durability) {
  if (Status s = begin({FaultOp::write, offset.value, data.size(),
                        durability == Durability::fua},
                       data.data());
      !s)
    return s;
  return inner_.write(offset, data, durability);
}

Status FaultyBackend::zero(DeviceOffset offset, std::uint64_t length,
                           ZeroMode mode, Durability durability) {
  if (Status s = begin(
          {FaultOp::zero, offset.value, length, durability == Durability::fua},
          nullptr);
      !s)
    return s;
  return inner_.zero(offset, length, mode, durability);
}

Status FaultyBackend::trim(DeviceOffset offset, std::uint64_t length) {
  if (Status s = begin({FaultOp::trim, offset.value, length}, nullptr); !s)
    return s;
  return inner_.trim(offset, length);
}

Result<Extent> FaultyBackend::extent(DeviceOffset offset,
                                     std::uint64_t length) {
  if (Status s = begin({FaultOp::extents, offset.value, length}, nullptr); !s)
    return std::move(s).error();
  return inner_.extent(offset, length);
}

Status FaultyBackend::cache(DeviceOffset offset, std::uint64_t length) {
  if (Status s = begin({FaultOp::cache, offset.value, length}, nullptr); !s)
    return s;
  return inner_.cache(offset, length);
}

Status FaultyBackend::flush() {
  if (Status s = begin({FaultOp::flush}, nullptr); !s) return s;
  return inner_.flush();
}

}  // namespace nbd_remap
