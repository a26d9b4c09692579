// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/scanner/scan_state.hpp"

#include <algorithm>
#include <utility>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kVersion = 2;
constexpr std::uint64_t kMostSeconds = std::uint64_t{1} << 40;

// Both directions of one list of fields, so that they cannot differ.
class Packer {
 public:
  bool good() const { return true; }
  template <class T>
  void field(T& value, std::uint64_t /*most*/ = 0,
             std::uint64_t /*least*/ = 0) {
    put(static_cast<std::uint64_t>(value), sizeof(T));
  }
  std::vector<std::byte> take() { return std::move(out_); }

 private:
  void put(std::uint64_t n, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i)
      out_.push_back(static_cast<std::byte>(n >> (8 * i)));
  }
  std::vector<std::byte> out_;
};

class Unpacker {
 public:
  explicit Unpacker(ConstBytes in) : in_(in) {}
  bool good() const { return good_; }
  bool at_end() const { return good_ && in_.empty(); }
  template <class T>
  void field(T& value, std::uint64_t most = ~std::uint64_t{0},
             std::uint64_t least = 0) {
    if (in_.size() < sizeof(T)) good_ = false;
    if (!good_) return;
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      n |= static_cast<std::uint64_t>(in_[i]) << (8 * i);
    in_ = in_.subspan(sizeof(T));
    if (n > most || n < least) good_ = false;
    value = static_cast<T>(n);
  }

 private:
  ConstBytes in_;
  bool good_ = true;
};

template <class Io>
void plan_fields(Io& io, ScanPlan& plan) {
  io.field(plan.kind, 4);
  std::uint64_t older = static_cast<std::uint64_t>(plan.older.count());
  io.field(older, kMostSeconds);
  plan.older = std::chrono::seconds(older);
  io.field(plan.range.from);
  io.field(plan.range.to);
}

template <class Io>
void range_fields(Io& io, ScanRange& r) {
  io.field(r.from);
  io.field(r.to);
}

template <class Io>
void head_fields(Io& io, ScanState& s) {
  std::uint64_t version = kVersion;
  io.field(version, kVersion, kVersion);
  io.field(s.size);
  io.field(s.run, 2);
  io.field(s.halted, 1);
  io.field(s.dry_run, 1);
  io.field(s.rate.bytes_per_second);
  io.field(s.rate.percent, 100);
  io.field(s.phase, 2);
  io.field(s.seeds_left, ScanState::kMaxTodo);
  io.field(s.todo_bytes);
  io.field(s.next_block);
  plan_fields(io, s.pass.plan);
  for (auto* n : {&s.pass.began, &s.pass.ended}) io.field(*n, kMostSeconds);
  for (auto* n :
       {&s.pass.bytes, &s.pass.unreadable_sectors, &s.pass.retried_blocks,
        &s.pass.slow_chunks, &s.pass.bad_slots, &s.pass.rescued, &s.passes,
        &s.unreadable_sectors, &s.rescued, &s.came_back, &s.budget_used})
    io.field(*n);
  for (auto* n : {&s.last_full, &s.budget_hour}) io.field(*n, kMostSeconds);
}

template <class Io>
void watch_fields(Io& io, Watch& w) {
  io.field(w.slow);
  io.field(w.fast);
  io.field(w.suspect, 1);
  io.field(w.noted, 1);
  io.field(w.next_check, kMostSeconds);
}

template <class Io>
void region_fields(Io& io, RegionRecord& r) {
  io.field(r.errors);
  io.field(r.retries);
  io.field(r.scanned_at, kMostSeconds);
  io.field(r.slowest_us);
  io.field(r.mean_us);
  io.field(r.next_retest, kMostSeconds);
  io.field(r.retests);
}

// A region of the larger volume inherits from those that began in it. It was
// scanned as a whole only if it is what it was.
void lay_out_anew(ScanState& s, std::uint64_t size) {
  const std::uint64_t was = region_bytes_for(s.size);
  const std::uint64_t now = region_bytes_for(size);
  s.size = size;
  if (was == now) return;
  std::vector<RegionRecord> fresh(kRegions);
  for (std::size_t i = 0; i < kRegions; ++i) {
    const std::uint64_t to = i * was / now;
    if (to >= kRegions) break;
    fresh[to].errors += s.regions[i].errors;
    fresh[to].retries += s.regions[i].retries;
  }
  s.regions = std::move(fresh);
}

}  // namespace

std::uint64_t ScanState::next_retest() const {
  std::uint64_t first = 0;
  for (const RegionRecord& r : regions)
    if (r.next_retest != 0 && (first == 0 || r.next_retest < first))
      first = r.next_retest;
  return first;
}

std::vector<std::byte> pack_scan_state(const ScanState& state) {
  ScanState s = state;
  Packer io;
  head_fields(io, s);
  std::uint32_t n =
      static_cast<std::uint32_t>(std::min(s.todo.size(), ScanState::kMaxTodo));
  io.field(n);
  for (std::uint32_t i = 0; i < n; ++i) range_fields(io, s.todo[i]);
  n = static_cast<std::uint32_t>(
      std::min(s.watches.size(), ScanState::kMaxWatches));
  io.field(n);
  for (auto& [block, watch] : s.watches) {
    if (n-- == 0) break;
    std::uint64_t number = block.value;
    io.field(number);
    watch_fields(io, watch);
  }
  for (RegionRecord& r : s.regions) region_fields(io, r);
  return io.take();
}

std::optional<ScanState> unpack_scan_state(ConstBytes bytes, std::uint64_t size,
                                           std::uint32_t block_bytes) {
  Unpacker io(bytes);
  ScanState s;
  head_fields(io, s);
  std::uint32_t n = 0;
  io.field(n, ScanState::kMaxTodo);
  for (std::uint32_t i = 0; io.good() && i < n; ++i) {
    ScanRange r;
    range_fields(io, r);
    if (r.from >= r.to || r.to > size || r.from % block_bytes != 0)
      return std::nullopt;
    s.todo.push_back(r);
  }
  io.field(n, ScanState::kMaxWatches);
  for (std::uint32_t i = 0; io.good() && i < n; ++i) {
    std::uint64_t block = 0;
    io.field(block, size / block_bytes);
    Watch w;
    watch_fields(io, w);
    s.watches[BlockNo{block}] = w;
  }
  for (RegionRecord& r : s.regions) region_fields(io, r);
  if (!io.at_end() || s.seeds_left > s.todo.size() || s.size == 0 ||
      s.size > size || s.rate.percent == 0)
    return std::nullopt;
  lay_out_anew(s, size);
  return s;
}

}  // namespace nbd_remap
