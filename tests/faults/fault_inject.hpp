#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Replays a scenario once for each thing that can go wrong in it, one at a
// time, and says what came of it.
//
//   error     a call of a disk fails, with each class of error; alone, or it
//             and all later calls of that disk
//   cut       the power goes before a call, or in the middle of it
//   step      the power goes between two steps
//   memory    an allocation of the product fails; alone, or it and all later
//             ones of that request
//
// An injection has a name that says all of it:
//   NBD_REMAP_FAULT=7/main-12/late/once/mixed   runs that one alone.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/faults/fault_world.hpp"

namespace nbd_remap {

struct FaultScenario {
  const char* name;
  // How the disks come to be what they are.
  void (*before)(FaultWorld&);
  bool running;  // a server was started before the first step
  std::vector<void (*)(FaultWorld&)> steps;
  // After the steps, without faults: that they did what the name says.
  bool (*shows)(FaultWorld&);
};

const std::vector<FaultScenario>& fault_scenarios();

enum class Inject { errors, cuts, steps, memory };

struct InjectCounts {
  std::uint64_t possible = 0;
  std::uint64_t done = 0;
  std::uint64_t unfired = 0;
};

class FaultInjector {
 public:
  explicit FaultInjector(std::size_t scenario);

  // Without faults, with each end. Empty: as it should be.
  std::string baseline();
  // One in `stride` of them. Empty: all is as promised.
  std::string replay(Inject kind, std::uint64_t stride, InjectCounts& counts);

 private:
  struct Injection {
    std::string name;
    std::function<void(FaultWorld&)> arm;
    std::size_t stop_before = ~std::size_t{0};  // step
    bool must_fire = true;
    bool medium = false;
  };
  using Each = std::function<void(const Injection&, FaultWorld::End)>;

  void each_error(const Each& each) const;
  void each_cut(const Each& each) const;
  void each_step(const Each& each) const;
  void each_memory(const Each& each) const;
  void run_steps(FaultWorld& world, std::size_t end) const;
  std::string run(const Injection& injection, FaultWorld::End end,
                  std::uint64_t seed, InjectCounts& counts) const;

  const std::size_t index_;
  const FaultScenario& scenario_;
  FaultWorld fresh_;
  // Of the run without faults.
  FaultWorld::Outcomes outcomes_;
  std::vector<Operation> main_calls_;
  std::vector<Operation> spare_calls_;
  std::uint64_t calls_ = 0;
  std::uint64_t allocations_ = 0;
};

}  // namespace nbd_remap
