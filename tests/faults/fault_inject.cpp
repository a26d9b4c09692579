// SPDX-License-Identifier: BSD-3-Clause
#include "tests/faults/fault_inject.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace nbd_remap {
namespace {

using End = FaultWorld::End;

constexpr std::array kEnds{End::killed, End::lost, End::kept, End::mixed};
constexpr std::array kEndNames{"killed", "lost", "kept", "mixed"};
constexpr std::array kOpNames{"read",    "write", "zero", "trim",
                              "extents", "cache", "flush"};

struct FaultClass {
  const char* name;
  int errnum;
  bool torn;  // part of what fails is stored
  bool done;  // all of it is, and the answer is lost
};
constexpr std::array kClasses{
    FaultClass{"medium", EIO, false, false},
    FaultClass{"torn", EIO, true, false},
    FaultClass{"transport", ENODEV, false, false},
    FaultClass{"late", ETIMEDOUT, false, true},
    FaultClass{"full", ENOSPC, false, false},
    FaultClass{"odd", EINVAL, false, false},
};

bool stores(const Operation& op) {
  return op.op == FaultOp::write || op.op == FaultOp::zero;
}

const char* name_of(End end) {
  return kEndNames.at(static_cast<std::size_t>(end));
}

// Nothing that fails once may make the product ask for ever.
constexpr std::uint64_t kCallsFor = 20;
constexpr std::uint64_t kCallsMore = 5000;

}  // namespace

FaultInjector::FaultInjector(std::size_t scenario)
    : index_(scenario), scenario_(fault_scenarios().at(scenario)) {
  AllocFault::set(AllocFault::kNever, false);
  scenario_.before(fresh_);
  fresh_.kill();
}

void FaultInjector::run_steps(FaultWorld& world, std::size_t end) const {
  for (std::size_t i = 0; i < scenario_.steps.size() && i < end; ++i) {
    if (world.dead() || !world.violation().empty()) return;
    scenario_.steps[i](world);
  }
}

std::string FaultInjector::baseline() {
  const Injection nothing{"nothing", [](FaultWorld&) {}, ~std::size_t{0}, false,
                          true};
  {
    FaultWorld world(fresh_);
    if (scenario_.running) world.start();
    const std::size_t first = world.outcomes().ok.size();
    world.main.set_hook(
        [this](const Operation& op) { main_calls_.push_back(op); });
    world.spare.set_hook(
        [this](const Operation& op) { spare_calls_.push_back(op); });
    const std::uint64_t before = world.calls();
    AllocFault::set(AllocFault::kNever, false);
    run_steps(world, ~std::size_t{0});
    allocations_ = AllocFault::counted();
    calls_ = world.calls() - before;
    outcomes_ = world.outcomes();
    if (!world.violation().empty()) return world.violation();
    if (scenario_.running && !outcomes_.ok.at(first - 1))
      return "it does not start";
    if (!scenario_.shows(world)) return "it does not do what it is called";
    if (main_calls_.size() + spare_calls_.size() < 3) return "it does nothing";
  }
  InjectCounts counts;
  for (const End end : kEnds)
    if (auto wrong = run(nothing, end, 1, counts); !wrong.empty()) return wrong;
  return {};
}

std::string FaultInjector::run(const Injection& injection, End end,
                               std::uint64_t seed, InjectCounts& counts) const {
  FaultWorld world(fresh_);
  AllocFault::set(AllocFault::kNever, false);
  if (scenario_.running) world.start();
  std::uint64_t calls = 0;
  for (FaultyBackend* disk : {&world.main, &world.spare})
    disk->set_hook([&](const Operation&) {
      if (++calls ==
          kCallsFor * (main_calls_.size() + spare_calls_.size()) + kCallsMore)
        world.violate("it asks its disks without end");
    });
  world.expect(&outcomes_, !injection.medium);
  injection.arm(world);
  run_steps(world, injection.stop_before);
  const bool fired = world.fired() != 0 || world.dead();
  ++counts.done;
  if (injection.must_fire && !fired) ++counts.unfired;
  world.end(end, seed);
  world.verify();
  if (world.violation().empty()) return {};
  return fmt::format("\"{}\": {}\n  again: NBD_REMAP_FAULT={}/{}/{}",
                     scenario_.name, world.violation(), index_, injection.name,
                     name_of(end));
}

void FaultInjector::each_error(const Each& each) const {
  for (const bool on_spare : {false, true}) {
    const auto& calls = on_spare ? spare_calls_ : main_calls_;
    for (std::size_t n = 1; n <= calls.size(); ++n)
      for (const FaultClass& kind : kClasses) {
        if (kind.torn && !stores(calls[n - 1])) continue;
        for (const bool sticky : {false, true}) {
          Injection one;
          one.name = fmt::format(
              "{}-{}-{}/{}/{}", on_spare ? "spare" : "main", n,
              kOpNames.at(static_cast<std::size_t>(calls[n - 1].op)), kind.name,
              sticky ? "sticky" : "once");
          one.medium = kind.errnum == EIO;
          one.arm = [=](FaultWorld& world) {
            FaultyBackend& disk = on_spare ? world.spare : world.main;
            if (kind.torn) disk.tear_failed_writes(n);
            disk.add_failing_call(kAnyOp, kind.errnum, {n, sticky, kind.done});
          };
          for (const End end : kEnds)
            if (end != End::kept) each(one, end);
        }
      }
  }
}

void FaultInjector::each_cut(const Each& each) const {
  for (std::uint64_t n = 1; n <= calls_; ++n)
    for (const bool torn : {false, true}) {
      Injection one;
      one.name = fmt::format("call-{}/{}", n, torn ? "in-it" : "before-it");
      one.arm = [=](FaultWorld& world) {
        const std::uint64_t at = world.power.calls + n;
        if (torn) {
          world.power.cut_at = at;
          return;
        }
        Power& power = world.power;
        power.before_call = [&power, at] {
          if (power.calls + 1 == at) power.off = true;
        };
      };
      for (const End end : kEnds)
        if (end != End::killed) each(one, end);
    }
}

void FaultInjector::each_step(const Each& each) const {
  for (std::size_t step = 0; step <= scenario_.steps.size(); ++step) {
    Injection one;
    one.name = fmt::format("before-step-{}", step);
    one.arm = [](FaultWorld&) {};
    one.stop_before = step;
    one.must_fire = false;
    for (const End end : kEnds) each(one, end);
  }
}

void FaultInjector::each_memory(const Each& each) const {
  for (std::uint64_t n = 1; n <= allocations_; ++n)
    for (const bool sticky : {false, true}) {
      Injection one;
      one.name = fmt::format("allocation-{}/{}", n, sticky ? "sticky" : "once");
      one.arm = [=](FaultWorld&) { AllocFault::set(n, sticky); };
      for (const End end : {End::killed, End::lost}) each(one, end);
    }
}

std::string FaultInjector::replay(Inject kind, std::uint64_t stride,
                                  InjectCounts& counts) {
  const char* only = std::getenv("NBD_REMAP_FAULT");
  std::string wrong;
  std::uint64_t n = index_;  // so that samples differ between scenarios
  const Each each = [&](const Injection& one, End end) {
    ++counts.possible;
    ++n;
    if (!wrong.empty()) return;
    if (only) {
      if (fmt::format("{}/{}/{}", index_, one.name, name_of(end)) != only)
        return;
    } else if (n % stride != 0) {
      return;
    }
    wrong = run(one, end, n, counts);
  };
  switch (kind) {
    case Inject::errors:
      each_error(each);
      break;
    case Inject::cuts:
      each_cut(each);
      break;
    case Inject::steps:
      each_step(each);
      break;
    case Inject::memory:
      each_memory(each);
      break;
  }
  return wrong;
}

}  // namespace nbd_remap
