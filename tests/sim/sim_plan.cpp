// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/sim_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

using Kind = SimOp::Kind;

constexpr unsigned kRounds = 12;

constexpr std::array<const char*, 27> kNames{
    "read",       "write",          "zero",
    "trim",       "flush",          "extents",
    "cache",      "remap",          "unmap",
    "retest",     "check",          "clear",
    "scan",       "replace",        "abort-replace",
    "grow-spare", "bad-read",       "bad-read-later",
    "bad-write",  "mend",           "bad-other",
    "trouble",    "bad-slot-write", "bad-slot-read",
    "bad-copy",   "fail-flush",     "look"};

class Maker {
 public:
  explicit Maker(std::uint64_t seed) : random_(seed) {}

  SimPlan plan(std::uint64_t seed) {
    SimPlan out;
    out.seed = seed;
    out.clients = static_cast<unsigned>(pick(4) == 0 ? 1 : 2 + pick(4));
    out.stay_percent = std::array{0U, 30U, 80U}.at(pick(3));
    out.slots = std::array{2ULL, 16ULL, 16ULL, 64ULL}.at(pick(4));
    out.on_pending_write =
        pick(2) == 0 ? PendingWrite::main_first : PendingWrite::spare_first;
    out.tail_copy = pick(2) == 0;
    // What is copied whole costs time: not in every world.
    out.state_area = state_area_ = pick(4) == 0;
    // Few blocks are used much, so that requests meet.
    hot_ = 1 + pick(8);
    faults_ = pick(4);  // 0: a sound disk
    for (unsigned r = 0; r < kRounds; ++r) out.rounds.push_back(round());
    return out;
  }

 private:
  std::uint64_t pick(std::uint64_t n) { return random_() % n; }

  SimRound round() {
    SimRound out;
    const std::uint64_t ops = 4 + pick(36);
    while (out.ops.size() < ops) {
      if (faults_ != 0 && pick(12) < faults_) {
        if (pick(3) == 0)
          pick(4) == 0 ? scan_story(out.ops) : story(out.ops);
        else
          out.ops.push_back(fault());
      }
      out.ops.push_back(request());
    }
    out.cut_in_spare = pick(2) == 0;
    out.cut_at = 1 + (out.cut_in_spare ? pick(40) : pick(ops * (1 + pick(6))));
    out.ordered_stop = pick(6) == 0;
    if (out.ordered_stop) out.cut_at = ops * 8 + pick(400);
    out.kill = pick(4) == 0;
    out.survivors = static_cast<unsigned>(pick(8));
    out.crash_seed = random_();
    while (out.recovery_cuts.size() < 3 && pick(out.kill ? 2 : 4) == 0)
      out.recovery_cuts.push_back(1 + pick(pick(2) == 0 ? 5 : 12));
    return out;
  }

  std::uint64_t block() { return pick(3) == 0 ? pick(kSimBlocks) : pick(hot_); }

  // Bytes, sectors or blocks.
  void range(SimOp& op) {
    const std::uint64_t unit = std::array{1ULL, 512ULL, 4096ULL}.at(pick(3));
    op.offset = block() * kSimBlockBytes;
    if (unit != 4096) op.offset += pick(kSimBlockBytes / unit) * unit;
    const std::uint64_t most =
        pick(50) == 0 ? kSimBlocks : std::array{1ULL, 2ULL, 12ULL}.at(pick(3));
    op.length = unit == 1
                    ? 1 + pick(std::array{8ULL, 600ULL, 9000ULL}.at(pick(3)))
                    : unit * (1 + pick(unit == 512 ? 2 * most : most));
    fit(op);
  }

  // Within the window, and the volume.
  static void fit(SimOp& op) {
    const std::uint64_t end =
        std::min(kSimBytes, (op.offset / kSimWindow + 1) * kSimWindow);
    op.offset = std::min(op.offset, end - kSectorBytes);
    op.length = std::min(op.length, end - op.offset);
  }

  // What meets seldom by chance: one block gets bad sectors, is written in
  // part, read, and written there while others look.
  void story(std::vector<SimOp>& ops) {
    const std::uint64_t start = block() * kSimBlockBytes;
    SimOp bad{Kind::bad_read, start + pick(7) * kSectorBytes,
              kSectorBytes * (1 + pick(2)), false};
    fit(bad);
    ops.push_back(bad);
    if (pick(2) == 0) {
      SimOp whole{Kind::bad_write, start, kSimBlockBytes, false};
      fit(whole);
      ops.push_back(whole);
    }
    for (std::uint64_t n = 2 + pick(5); n != 0; --n) {
      SimOp op{pick(3) == 0 ? Kind::read : Kind::write, bad.offset, bad.length,
               pick(3) == 0};
      if (pick(4) == 0) {
        op.offset = start + pick(8) * kSectorBytes;
        op.length = kSectorBytes;
      }
      if (pick(8) == 0) op.kind = Kind::flush;
      fit(op);
      ops.push_back(op);
    }
  }

  // A block that a scan meets: bad, or readable with patience, and clients
  // beside it.
  void scan_story(std::vector<SimOp>& ops) {
    const std::uint64_t start = block() * kSimBlockBytes;
    SimOp bad{pick(2) == 0 ? Kind::bad_read : Kind::trouble,
              start + pick(7) * kSectorBytes, kSectorBytes * (3 + pick(9)),
              true};
    if (bad.kind == Kind::bad_read) bad.length = kSectorBytes;
    fit(bad);
    ops.push_back(bad);
    SimOp scan{Kind::scan, start - start % kSimWindow,
               kSectorBytes * (20 + pick(100)), false};
    fit(scan);
    for (std::uint64_t n = 1 + pick(4); n != 0; --n) {
      ops.push_back(scan);
      ops.push_back(SimOp{pick(2) == 0 ? Kind::read : Kind::write,
                          start + pick(7) * kSectorBytes, kSectorBytes,
                          pick(4) == 0});
      fit(ops.back());
    }
  }

  // Steps of what runs in the background.
  SimOp background() {
    SimOp op;
    op.kind = Kind::scan;
    range(op);
    op.flag = pick(2) == 0;
    if (state_area_ && pick(2) == 0)
      op.kind = pick(16) == 0 ? Kind::abort_replace : Kind::replace;
    if (pick(60) == 0) op.kind = Kind::grow_spare;
    return op;
  }

  SimOp request() {
    if (pick(state_area_ ? 8 : 16) == 0) return background();
    static constexpr std::array<std::pair<Kind, unsigned>, 12> kWeights{
        {{Kind::write, 38},
         {Kind::read, 16},
         {Kind::zero, 7},
         {Kind::trim, 3},
         {Kind::flush, 10},
         {Kind::extents, 2},
         {Kind::cache, 1},
         {Kind::remap, 6},
         {Kind::unmap, 9},
         {Kind::retest, 3},
         {Kind::check, 3},
         {Kind::clear, 2}}};
    SimOp op;
    std::uint64_t point = pick(100);
    for (const auto& [kind, weight] : kWeights) {
      op.kind = kind;
      if (point < weight) break;
      point -= weight;
    }
    range(op);
    op.flag = pick(4) == 0;
    if (op.kind >= Kind::remap) {
      const std::uint64_t unit = op.kind == Kind::clear ? 512 : kSimBlockBytes;
      const std::uint64_t end = op.offset + op.length;
      op.offset = op.offset / unit * unit;
      op.length = (end - op.offset + unit - 1) / unit * unit;
      fit(op);
    }
    return op;
  }

  SimOp fault() {
    static constexpr std::array<Kind, 20> kKinds{
        Kind::bad_write,      Kind::bad_write,
        Kind::bad_write,      Kind::bad_write,
        Kind::bad_write,      Kind::bad_read,
        Kind::bad_read,       Kind::bad_read,
        Kind::bad_read,       Kind::bad_read_later,
        Kind::mend,           Kind::mend,
        Kind::mend,           Kind::trouble,
        Kind::trouble,        Kind::bad_slot_write,
        Kind::bad_slot_write, Kind::bad_slot_read,
        Kind::bad_copy,       Kind::look};
    SimOp op;
    op.kind = kKinds.at(pick(kKinds.size()));
    op.flag = pick(2) == 0;
    if (pick(60) == 0) op.kind = Kind::fail_flush;
    if (state_area_ && pick(24) == 0) op.kind = Kind::bad_other;
    if (op.kind == Kind::trouble) op.flag = false;
    op.offset = block() * kSimBlockBytes + pick(8) * 512;
    op.length = 512 * (1 + (pick(3) == 0 ? pick(16) : pick(2)));
    fit(op);
    if (op.kind == Kind::bad_slot_write || op.kind == Kind::bad_slot_read) {
      op.offset = pick(pick(2) == 0 ? 4 : 64);
      op.length = pick(8);
    }
    if (op.kind == Kind::bad_copy) {
      op.offset = pick(pick(2) == 0 ? 8 : 200) * 512;
      op.length = 512;
    }
    return op;
  }

  std::mt19937_64 random_;
  std::uint64_t hot_ = 1;
  std::uint64_t faults_ = 0;
  bool state_area_ = false;
};

}  // namespace

SimPlan make_sim_plan(std::uint64_t seed) { return Maker(seed).plan(seed); }

std::string describe(const SimOp& op) {
  return fmt::format("{} {} {}{}", kNames.at(static_cast<std::size_t>(op.kind)),
                     op.offset, op.length, op.flag ? " flag" : "");
}

std::string describe(const SimPlan& plan) {
  std::string out = fmt::format(
      "seed {}: {} clients, stay {}%, {} slots{}, pending writes {} first, bad "
      "sectors in the {} copy\n",
      plan.seed, plan.clients, plan.stay_percent, plan.slots,
      plan.state_area ? " and many more" : "",
      plan.on_pending_write == PendingWrite::main_first ? "MAIN" : "SPARE",
      plan.tail_copy ? "tail" : "head");
  for (const SimRound& round : plan.rounds) {
    out += "round\n";
    for (const SimOp& op : round.ops) out += "  " + describe(op) + "\n";
    out += fmt::format("  end at call {}{}{}: {}, survivors {}", round.cut_at,
                       round.cut_in_spare ? " that changes SPARE" : "",
                       round.ordered_stop ? " (ordered stop before)" : "",
                       round.kill ? "kill" : "power cut", round.survivors);
    for (std::uint64_t cut : round.recovery_cuts)
      out += fmt::format(", start cut at change {}", cut);
    out += "\n";
  }
  return out;
}

}  // namespace nbd_remap
