// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/sim_world.hpp"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>

#include "plugins/remap/remap_grow.hpp"
#include "tests/sim/sim_run.hpp"

namespace nbd_remap {
namespace {

SimDisk::Choice survivors(unsigned mode, std::uint64_t seed) {
  return [mode, random = std::mt19937_64(seed)](
             std::uint64_t, std::size_t n) mutable -> std::size_t {
    const std::uint64_t word = random();
    const bool rarely = word % 16 == 0;
    const std::size_t any = (word >> 8) % (n + 1);
    switch (mode) {
      case 0:
        return 0;
      case 1:
        return n;
      case 2:
      case 3:
        return rarely ? any : 0;
      case 4:
      case 5:
        return rarely ? any : n;
      default:
        return any;
    }
  };
}

}  // namespace

SimRun::SimRun(const SimPlan& plan)
    : plan_(plan), fibers_(plan.seed, plan.stay_percent) {
  seed_random_device(plan.seed);
  FormatRequest request;
  request.block_bytes = kSimBlockBytes;
  request.uuid.emplace();
  request.uuid->fill(7);
  if (auto made = format_spare(spare_, main(), request); !made)
    throw std::runtime_error(made.error().text());
  options_.on_pending_write = plan.on_pending_write;
  start();
}

SimOutcome SimRun::run() {
  SimOutcome out;
  for (; out.round < plan_.rounds.size(); ++out.round) {
    try {
      run_round(plan_.rounds[out.round]);
    } catch (const std::runtime_error& error) {
      violate("it does not start: " + std::string(error.what()));
    }
    if (!violation_.empty()) break;
  }
  if (volume_) stats_.retired += volume_->status().store.slots.retired;
  for (const SimDisk* disk : {&disks_[0], &disks_[1], &spare_})
    stats_.medium_errors += disk->fired().reads + disk->fired().writes +
                            disk->fired().transient + disk->fired().flushes;
  stats_.failed_flushes = disks_[0].fired().flushes +
                          disks_[1].fired().flushes + spare_.fired().flushes;
  stats_.waits = fibers_.waits();
  stats_.switches = fibers_.switches();
  out.violation = violation_;
  out.trace = power_.trace;
  out.stats = stats_;
  return out;
}

void SimRun::start() {
  spare_.opened();
  if (spare_grown_ != 0) {
    // A growth that was cut is completed by its owner.
    const auto grown =
        nbd_remap::grow_spare(spare_, [](LogLevel, std::string_view) {});
    if (power_.off) return;
    if (!grown && grown.error().error_class != ErrorClass::caller)
      throw std::runtime_error(grown.error().text());
  }
  if (!may_be_other_) return open(main_at_);
  // Contract M3: SPARE knows which of the two it belongs to.
  std::string refused;
  std::array<bool, 2> opens{};
  for (std::size_t i = 0; i < 2 && !power_.off; ++i) {
    try {
      open(i);
      opens.at(i) = true;
    } catch (const std::runtime_error& error) {
      refused = error.what();
    }
    kill_server();
  }
  if (power_.off) return;
  if (opens[0] == opens[1])
    throw std::runtime_error(opens[0]
                                 ? "SPARE accepts the old MAIN and the new one"
                                 : "SPARE accepts neither MAIN: " + refused);
  open(opens[0] ? 0 : 1);
  may_be_other_ = replacer_->status().phase == ReplacePhase::copying;
}

void SimRun::open(std::size_t which) {
  main_at_ = which;
  tell("start with " + main().info().name);
  volume_ = open_volume(main(), spare_, options_, clock_, log());
  main_flushes_ = main().fired().flushes;
  spare_flushes_ = spare_.fired().flushes;
  if (plan_.state_area) open_replacer();
}

// The scanner and the volume hold what the replacer waits for.
void SimRun::kill_server() {
  if (scanner_) count_scan();
  scanner_.reset();
  scan_volume_.reset();
  volume_.reset();
  replacer_.reset();
}

void SimRun::tell(const std::string& words) {
  static const bool wanted = std::getenv("NBD_REMAP_SIM_TELL") != nullptr;
  if (wanted) std::printf("%u %s\n", Fibers::current(), words.c_str());
}

void SimRun::run_round(const SimRound& round) {
  round_ = &round;
  power_.only_second = round.cut_in_spare;
  power_.cut_at = power_.calls + round.cut_at;
  for (next_ = 0; next_ < round.ops.size() && going();) {
    segment_end_ = next_;
    while (segment_end_ < round.ops.size() && !round.ops[segment_end_].alone())
      ++segment_end_;
    if (segment_end_ == next_) {
      alone(round.ops[next_++]);
      continue;
    }
    fibers_.run(std::vector<std::function<void()>>(plan_.clients,
                                                   [this] { client(); }));
    running_most_ = 0;
    violate(fibers_.faults());
    check_doubt();
  }
  if (going() && round.ordered_stop) {
    volume_->close_gate();
    if (!volume_->drain(std::chrono::milliseconds(0)))
      violate("a request has ended and is still inside");
    if (replacer_) replacer_->stop();
    if (Status closed = volume_->close(); !closed)
      excuse_change(closed, model_.now());
  }
  if (!violation_.empty()) return;
  stats_.healed += volume_->stats().healed_blocks;
  const std::uint64_t retired = volume_->status().store.slots.retired;
  end(round);
  if (volume_->status().store.slots.retired < retired)
    violate("a retired slot is forgotten by a start");
  look(crashed_);
  if (violation_.empty()) check_map(round);
  model_.tidy();
}

void SimRun::end(const SimRound& round) {
  if (volume_ && replacer_ &&
      replacer_->status().phase == ReplacePhase::copying)
    ++stats_.cut_replacing;
  tell(round.kill ? "kill" : "power cut");
  power_.off = true;
  power_.only_second = false;
  kill_server();
  crashed_ = false;
  std::uint64_t seed = round.crash_seed;
  ++stats_.ends;
  if (round.kill) {
    power_on();
    for (SimDisk& disk : disks_) disk.survive();
    spare_.survive();
  } else {
    crash(round.survivors, seed);
  }
  for (std::uint64_t cut : round.recovery_cuts) {
    power_.only_second = true;
    power_.cut_at = power_.calls + cut;
    try {
      start();
    } catch (const std::runtime_error&) {
      if (!power_.off) throw;
    }
    kill_server();
    seed = seed * 6364136223846793005 + 1;
    crash(static_cast<unsigned>((seed >> 16) % 8), seed);
    ++stats_.cut_starts;
  }
  start();
}

void SimRun::power_on() {
  power_.off = false;
  power_.only_second = false;
  power_.cut_at.reset();
  for (SimDisk& disk : disks_) disk.fail_next_flush(false);
  spare_.fail_next_flush(false);
}

void SimRun::crash(unsigned mode, std::uint64_t seed) {
  power_on();
  main().crash(survivors(mode, seed));
  // Chosen apart from MAIN's.
  other().crash(survivors(static_cast<unsigned>((seed >> 12) % 8), seed + 2));
  spare_.crash(survivors(static_cast<unsigned>((seed >> 8) % 8), seed + 1));
  model_.crash();
  crashed_ = true;
  ++stats_.cuts;
}

void SimStats::add(const SimStats& o) {
  ends += o.ends;
  cuts += o.cuts;
  cut_starts += o.cut_starts;
  requests += o.requests;
  refused += o.refused;
  unreadable += o.unreadable;
  medium_errors += o.medium_errors;
  moved += o.moved;
  healed += o.healed;
  retired += o.retired;
  full += o.full;
  failed_flushes += o.failed_flushes;
  scan_passes += o.scan_passes;
  found += o.found;
  rescued += o.rescued;
  replaced += o.replaced;
  not_replaced += o.not_replaced;
  cut_replacing += o.cut_replacing;
  grown += o.grown;
  waits += o.waits;
  switches += o.switches;
}

SimOutcome run_sim(const SimPlan& plan) { return SimRun(plan).run(); }

}  // namespace nbd_remap
