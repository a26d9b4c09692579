// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/shrink.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace nbd_remap {
namespace {

class Shrinker {
 public:
  Shrinker(SimPlan plan, const std::function<bool(const SimPlan&)>& fails,
           std::uint64_t tries)
      : best_(std::move(plan)), fails_(fails), tries_(tries) {}

  SimPlan run() {
    bool better = true;
    while (better && tries_ != 0) {
      better = drop_rounds();
      for (std::size_t r = 0; r < best_.rounds.size(); ++r) {
        better |= drop_ops(r);
        better |= smaller_round(r);
      }
      better |= simpler_plan();
    }
    return best_;
  }

 private:
  template <class Edit>
  bool take(Edit&& edit) {
    if (tries_ == 0) return false;
    SimPlan candidate = best_;
    edit(candidate);
    --tries_;
    if (!fails_(candidate)) return false;
    best_ = std::move(candidate);
    return true;
  }

  // The end of a round counts calls, of which there are fewer now.
  bool take_with_cut(std::size_t r, const std::function<void(SimPlan&)>& edit) {
    if (take(edit)) return true;
    for (std::uint64_t cut = best_.rounds[r].cut_at; cut > 1;) {
      cut -= 1 + cut / 8;
      if (take([&](SimPlan& plan) {
            edit(plan);
            plan.rounds[r].cut_at = cut;
          }))
        return true;
    }
    return false;
  }

  bool drop_rounds() {
    bool better = false;
    for (std::size_t n = std::max<std::size_t>(best_.rounds.size() / 2, 1);
         n != 0; n /= 2)
      for (std::size_t at = 0; at + n <= best_.rounds.size();) {
        if (take([&](SimPlan& plan) {
              const auto from = plan.rounds.begin() + static_cast<long>(at);
              plan.rounds.erase(from, from + static_cast<long>(n));
            }))
          better = true;
        else
          at += n;
      }
    return better;
  }

  bool drop_ops(std::size_t r) {
    bool better = false;
    for (std::size_t n = std::max<std::size_t>(best_.rounds[r].ops.size(), 1);
         n != 0; n /= 2)
      for (std::size_t at = 0; at + n <= best_.rounds[r].ops.size();) {
        if (take_with_cut(r, [&](SimPlan& plan) {
              auto& ops = plan.rounds[r].ops;
              const auto from = ops.begin() + static_cast<long>(at);
              ops.erase(from, from + static_cast<long>(n));
            }))
          better = true;
        else
          at += n;
      }
    return better;
  }

  bool smaller_round(std::size_t r) {
    bool better = false;
    const auto edit = [&](auto&& change) {
      better |= take([&](SimPlan& plan) { change(plan.rounds[r]); });
    };
    const SimRound now = best_.rounds[r];
    for (std::size_t i = now.recovery_cuts.size(); i-- > 0;)
      edit([&](SimRound& round) {
        round.recovery_cuts.erase(round.recovery_cuts.begin() +
                                  static_cast<long>(i));
      });
    if (now.ordered_stop) edit([](SimRound& x) { x.ordered_stop = false; });
    if (now.survivors > 1) {
      edit([](SimRound& x) { x.survivors = 0; });
      edit([](SimRound& x) { x.survivors = 1; });
    }
    for (std::size_t i = 0; i < best_.rounds[r].ops.size(); ++i) {
      const SimOp op = now.ops[std::min(i, now.ops.size() - 1)];
      if (op.alone()) continue;
      for (const std::uint64_t length : {op.length / 2, op.length - 1})
        if (length != 0 && op.kind < SimOp::Kind::remap)
          edit([&](SimRound& x) { x.ops.at(i).length = length; });
    }
    return better;
  }

  bool simpler_plan() {
    bool better = false;
    if (best_.clients > 1)
      better |= take([](SimPlan& plan) { --plan.clients; });
    for (const unsigned percent : {0U, 100U})
      if (best_.stay_percent != percent && best_.stay_percent % 100 != 0)
        better |= take([&](SimPlan& plan) { plan.stay_percent = percent; });
    return better;
  }

  SimPlan best_;
  const std::function<bool(const SimPlan&)>& fails_;
  std::uint64_t tries_;
};

}  // namespace

SimPlan shrink(SimPlan plan, const std::function<bool(const SimPlan&)>& fails,
               std::uint64_t tries) {
  return Shrinker(std::move(plan), fails, tries).run();
}

}  // namespace nbd_remap
