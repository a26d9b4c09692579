#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// FaultyBackend: another disk, with faults at chosen places or calls.
//
// Rules    Each add_ function makes one and returns its number. The first rule
//          that matches an operation fails it; fired() counts those.
// Ranges   An operation that touches one bad sector fails as a whole.
// Threads  any, at once; no lock is held during the hook and the inner call.

#include <functional>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/mutex.hpp"

namespace nbd_remap {

enum class FaultOp { read, write, zero, trim, extents, cache, flush };

// The operations that a rule is for: {FaultOp::write, FaultOp::zero}.
class OpSet {
 public:
  OpSet(std::initializer_list<FaultOp> ops) {
    for (FaultOp op : ops) bits_ |= 1U << static_cast<unsigned>(op);
  }
  OpSet(FaultOp op) : OpSet({op}) {}  // NOLINT: converts
  bool has(FaultOp op) const { return bits_ >> static_cast<unsigned>(op) & 1U; }

 private:
  unsigned bits_ = 0;
};
inline const OpSet kChanges{FaultOp::write, FaultOp::zero, FaultOp::trim};
inline const OpSet kAnyOp{FaultOp::read, FaultOp::write,   FaultOp::zero,
                          FaultOp::trim, FaultOp::extents, FaultOp::cache,
                          FaultOp::flush};

struct Operation {
  FaultOp op = FaultOp::read;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool fua = false;
  int injected = 0;  // the errno of the rule that failed it
};

class FaultyBackend final : public Backend {
 public:
  using Rule = std::size_t;
  static constexpr std::uint64_t kForEver = ~std::uint64_t{0};

  struct RangeOptions {
    std::uint64_t times = kForEver;  // then the rule is spent: transient
    // A write or zero that this rule does not fail mends what it covers.
    bool heal_on_write = false;
  };
  struct CallOptions {
    std::uint64_t nth = 1;  // the next call of these operations is 1
    bool sticky = false;    // and every one after it
    // It is done all the same, as when the answer is lost or comes too late.
    bool done = false;
  };

  // The inner disk outlives this one.
  explicit FaultyBackend(Backend& inner);

  // length may reach beyond the disk. Sectors of 512 bytes.
  Rule add_bad_range(OpSet ops, std::uint64_t offset, std::uint64_t length,
                     int errnum, RangeOptions options);
  Rule add_bad_range(OpSet ops, std::uint64_t offset, std::uint64_t length,
                     int errnum) {
    return add_bad_range(ops, offset, length, errnum, RangeOptions());
  }
  // One more range for a rule that add_bad_range made.
  void extend(Rule rule, std::uint64_t offset, std::uint64_t length);
  Rule add_failing_call(OpSet ops, int errnum, CallOptions options);
  Rule add_failing_call(OpSet ops, int errnum) {
    return add_failing_call(ops, errnum, CallOptions());
  }
  void remove(Rule rule);
  void remove_all();
  std::uint64_t fired(Rule rule) const;
  std::uint64_t fired() const;

  // A failed write or zero of several blocks stores a seeded choice of the
  // blocks that are not bad.
  void tear_failed_writes(std::uint64_t seed);
  // Called before each operation, in the caller's thread, before its faults
  // are looked up: it may block, and it may add rules.
  void set_hook(std::function<void(const Operation&)> hook);
  // Operations in the order in which they began.
  std::vector<Operation> trace() const;
  void clear_trace();

  const BackendInfo& info() const override { return inner_.info(); }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;
  Result<std::uint64_t> grow() override { return inner_.grow(); }

 private:
  struct RuleState {
    OpSet ops;
    int errnum = 0;
    std::map<std::uint64_t, std::uint64_t> bad;  // begin to end, disjoint
    bool by_range = false;
    bool heal_on_write = false;
    bool sticky = false;
    bool done = false;
    bool removed = false;
    std::uint64_t times = kForEver;  // by range: how often it may still fail
    std::uint64_t countdown = 0;     // by call: 1 fails now
    std::uint64_t fired = 0;

    bool touches(std::uint64_t begin, std::uint64_t end) const;
    void mend(std::uint64_t begin, std::uint64_t end);
    bool strikes(const Operation& operation);
  };

  // What fails and happens all the same; its answer is lost.
  void do_it(const Operation& operation, const std::byte* data);
  // Hook, rules, trace. data: what a torn write would store; null for none.
  Status begin(Operation operation, const std::byte* data);
  // The blocks of a failing change that reach the disk all the same.
  std::vector<std::uint64_t> torn_blocks(const Operation& operation)
      REQUIRES(mu_);

  Backend& inner_;
  mutable Mutex mu_;
  std::vector<RuleState> rules_ GUARDED_BY(mu_);
  std::vector<Operation> trace_ GUARDED_BY(mu_);
  std::function<void(const Operation&)> hook_ GUARDED_BY(mu_);
  std::optional<std::mt19937_64> tear_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
