// SPDX-License-Identifier: BSD-3-Clause
// Contract C1 to C9 and C12, M2 and M2a, E5: random requests of several clients
// at once, faults of both disks, and an end of the server at any call, again
// and again. The same seed is the same run.
//
//   NBD_REMAP_SIM_SEED   the first seed (1)
//   NBD_REMAP_SIM_CUTS   how many power cuts (20000, fewer with a sanitizer;
//                        1000000 by tests/run --soak)
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/shrink.hpp"
#include "tests/sim/sim_world.hpp"

namespace nbd_remap {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kCuts = 3000;
#else
constexpr std::uint64_t kCuts = 20'000;
#endif
constexpr std::uint64_t kShrinkTries = 6000;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// "sector 12: ..." and "sector 13: ..." are the same failure.
std::string kind_of(const std::string& violation) {
  return violation.substr(0, violation.find_first_of("0123456789"));
}

void report(const SimPlan& plan, const SimOutcome& outcome) {
  ADD_FAILURE() << outcome.violation << "\nin round " << outcome.round
                << "; again by: NBD_REMAP_SIM_SEED=" << plan.seed
                << " NBD_REMAP_SIM_CUTS=1 sim_test "
                   "--gtest_filter=Sim.*any_call*";
  SimPlan failing = plan;
  failing.rounds.resize(outcome.round + 1);
  const std::string kind = kind_of(outcome.violation);
  const SimPlan least = shrink(
      failing,
      [&](const SimPlan& candidate) {
        return kind_of(run_sim(candidate).violation) == kind;
      },
      kShrinkTries);
  ADD_FAILURE() << "what is needed of it:\n"
                << describe(least) << run_sim(least).violation;
}

TEST(Sim, after_an_end_at_any_call_each_sector_is_durable_or_newer) {
  // A third of the time was spent on giving pages back and asking for them.
  constexpr int kKeep = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kKeep);
  mallopt(M_TRIM_THRESHOLD, kKeep);
  const std::uint64_t first = from_environment("NBD_REMAP_SIM_SEED", 1);
  const std::uint64_t cuts = from_environment("NBD_REMAP_SIM_CUTS", kCuts);
  SimStats all;
  for (std::uint64_t seed = first; all.cuts < cuts; ++seed) {
    const SimPlan plan = make_sim_plan(seed);
    const SimOutcome outcome = run_sim(plan);
    if (!outcome.violation.empty()) return report(plan, outcome);
    all.add(outcome.stats);
  }
  const auto record = [](const char* name, std::uint64_t n) {
    RecordProperty(name, std::to_string(n));
    std::printf("%14llu %s\n", static_cast<unsigned long long>(n), name);
  };
  record("ends of the server", all.ends);
  record("power cuts", all.cuts);
  record("of these at a start", all.cut_starts);
  record("requests", all.requests);
  record("refused", all.refused);
  record("without a slot", all.full);
  record("errors of disks", all.medium_errors);
  record("flushes that failed", all.failed_flushes);
  record("unreadable sectors", all.unreadable);
  record("blocks healed", all.healed);
  record("blocks moved", all.moved);
  record("slots retired", all.retired);
  record("scans that ended", all.scan_passes);
  record("unreadable sectors that a scan found", all.found);
  record("blocks rescued", all.rescued);
  record("MAINs replaced", all.replaced);
  record("MAINs not replaced", all.not_replaced);
  record("ends while one was", all.cut_replacing);
  record("SPAREs grown", all.grown);
  record("waits for another", all.waits);
  record("switches", all.switches);
  if (cuts < 1000) return;
  // E1: what should be met is met.
  EXPECT_GT(all.cut_starts, cuts / 10);
  EXPECT_GT(all.ends, all.cuts / 2);
  EXPECT_GT(all.requests, 5 * cuts);
  EXPECT_GT(all.medium_errors, cuts);
  EXPECT_GT(all.healed, cuts / 2);
  EXPECT_GT(all.moved, cuts / 2);
  EXPECT_GT(all.waits, cuts);
  EXPECT_GT(all.retired, cuts / 500);
  EXPECT_GT(all.full, cuts / 100);
  EXPECT_GT(all.unreadable, cuts / 10);
  EXPECT_GT(all.failed_flushes, cuts / 500);
  EXPECT_GT(all.scan_passes, cuts / 20);
  EXPECT_GT(all.found, cuts / 200);
  EXPECT_GT(all.rescued, cuts / 1000);
  EXPECT_GT(all.replaced, cuts / 200);
  EXPECT_GT(all.not_replaced, cuts / 400);
  EXPECT_GT(all.cut_replacing, cuts / 40);
  EXPECT_GT(all.grown, cuts / 500);
}

TEST(Sim, a_seed_is_a_run_to_the_last_call) {
  std::uint64_t different = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const SimPlan plan = make_sim_plan(seed);
    const SimOutcome one = run_sim(plan);
    const SimOutcome two = run_sim(plan);
    EXPECT_EQ(one.trace, two.trace) << "seed " << seed;
    EXPECT_EQ(one.stats.switches, two.stats.switches) << "seed " << seed;
    different += run_sim(make_sim_plan(seed + 1)).trace != one.trace;
  }
  EXPECT_EQ(different, 60U) << "the trace does not tell runs apart";
}

// Lists as shrink() left them, each tried with many orders of its requests.
TEST(Sim, what_was_found_once_stays_mended) {
  using Kind = SimOp::Kind;
  const auto round = [](std::vector<SimOp> ops, bool kill) {
    SimRound out;
    out.ops = std::move(ops);
    out.cut_at = 1000;
    out.kill = kill;
    out.survivors = 1;
    return out;
  };
  SimPlan doubt;  // a record of pending sectors that failed, and was there
  doubt.rounds = {round({{Kind::fail_flush, 0, 512, true},
                         {Kind::bad_read, 3584, 1024, false},
                         {Kind::read, 0, 32763, false},
                         {Kind::write, 0, 12283, false}},
                        true)};
  SimPlan last;  // the last block, no whole one, un-mapped while it is checked
  last.clients = 2;
  last.rounds = {round({{Kind::remap, 258048, 3072, false}}, false),
                 round({{Kind::unmap, 245760, 15360, false},
                        {Kind::check, 258048, 3072, false}},
                       false)};
  SimPlan back;  // a block goes back to MAIN while its chunk is copied
  back.clients = 2;
  back.state_area = true;
  back.rounds = {round({{Kind::write, 131072, 4096, false},
                        {Kind::remap, 131072, 4096, false},
                        {Kind::replace, 0, 6144, true},
                        {Kind::look, 0, 512, false},
                        {Kind::unmap, 131072, 4096, false},
                        {Kind::replace, 0, 5632, false},
                        {Kind::look, 0, 512, false},
                        {Kind::replace, 0, 5632, false},
                        {Kind::look, 0, 512, false}},
                       true)};
  SimPlan apart;  // of two writes at once each disk keeps another one
  apart.clients = 2;
  apart.state_area = true;
  apart.rounds = {
      round({{Kind::replace, 0, 6144, true},
             {Kind::look, 0, 512, false},
             {Kind::write, 0, 4096, false},
             {Kind::write, 1024, 3072, false},
             {Kind::look, 0, 512, false},
             {Kind::replace, 0, 512, false}},
            false),
      round({{Kind::replace, 0, 5632, false}, {Kind::replace, 0, 5632, false}},
            true)};
  apart.rounds.front().ordered_stop = true;
  SimPlan again;  // trimmed after a move that failed, and was there
  again.rounds = {round({{Kind::write, 0, 488, true},
                         {Kind::fail_flush, 3072, 4608, true},
                         {Kind::remap, 0, 4096, false},
                         {Kind::trim, 0, 4071, false},
                         {Kind::read, 0, 487, false}},
                        true),
                  round({{Kind::look, 0, 512, false}}, true)};
  for (SimPlan* plan : {&doubt, &last, &back, &apart, &again})
    for (plan->seed = 1; plan->seed <= 200; ++plan->seed) {
      const SimOutcome outcome = run_sim(*plan);
      ASSERT_EQ(outcome.violation, "") << describe(*plan);
    }
}

}  // namespace
}  // namespace nbd_remap
