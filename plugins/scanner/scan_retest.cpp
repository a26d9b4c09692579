// SPDX-License-Identifier: BSD-3-Clause
// When blocks that could not be read are tried again.
#include <algorithm>
#include <utility>

#include "plugins/scanner/scan_engine.hpp"

namespace nbd_remap {
namespace {

constexpr std::string_view kBack = "it could not be read, and came back";
constexpr std::string_view kTried = "the scanner tried it again";
// Between two looks at the map; a read of a client's adds to it as well.
constexpr std::uint64_t kLookEvery = 30;
constexpr std::uint8_t kMostRetests = 30;  // that double the wait

}  // namespace

std::uint64_t ScanEngine::retest_wait(unsigned retests) const {
  return std::min(static_cast<std::uint64_t>(options_.first_retest.count())
                      << retests,
                  static_cast<std::uint64_t>(options_.longest_retest.count()));
}

std::uint64_t ScanEngine::first_block_of(std::size_t region) const {
  return region * region_bytes_ / volume_.block_bytes();
}

// The map says what is pending, one question for each region.
void ScanEngine::plan_retests(std::uint64_t now) {
  if (now >= retests_planned_ && now < retests_planned_ + kLookEvery) return;
  retests_planned_ = now;
  retest_due_ = 0;
  for (std::size_t r = 0; r < kRegions; ++r) {
    const auto block = volume_.next_pending(BlockNo{first_block_of(r)});
    const std::size_t has =
        block ? region_of(block->value * volume_.block_bytes()) : kRegions;
    for (; r < has; ++r) {
      state_.regions[r].next_retest = 0;
      state_.regions[r].retests = 0;
    }
    if (r < kRegions && state_.regions[r].next_retest == 0)
      state_.regions[r].next_retest = now + retest_wait(0);
  }
}

std::optional<std::size_t> ScanEngine::due_retest(std::uint64_t now) {
  if (options_.rescue == Rescue::off) return std::nullopt;
  plan_retests(now);
  if (retest_due_ == 0) {
    retest_due_ = state_.next_retest();
    if (retest_due_ == 0) retest_due_ = ~std::uint64_t{0};
  }
  if (now < retest_due_) return std::nullopt;
  if (retest_region_ == kRegions) {
    const auto due = std::find_if(state_.regions.begin(), state_.regions.end(),
                                  [at = retest_due_](const RegionRecord& r) {
                                    return r.next_retest == at;
                                  });
    retest_region_ = static_cast<std::size_t>(due - state_.regions.begin());
    retest_from_ = first_block_of(retest_region_);
    retest_back_ = false;
  }
  return retest_region_;
}

// A block of the region, or what becomes of the region after the last.
ScanEngine::Wait ScanEngine::try_region(const Work& work) {
  const std::uint64_t bytes = volume_.block_bytes();
  const auto block = volume_.next_pending(work.block);
  if (!block || region_of(block->value * bytes) != work.region) {
    MutexLock lock(mu_);
    RegionRecord& region = state_.regions[work.region];
    region.retests =
        retest_back_ ? std::uint8_t{0}
                     : std::min<std::uint8_t>(region.retests + 1, kMostRetests);
    region.next_retest = clock_.unix_seconds() + retest_wait(region.retests);
    retest_region_ = kRegions;
    retests_planned_ = 0;  // nothing may be pending there any more
    retest_due_ = 0;
    return {};
  }
  auto back = try_again(*block);
  if (back) {
    MutexLock lock(mu_);
    retest_back_ |= *back;
    retest_from_ = block->value + 1;
  }
  return after(work, bytes, back ? Status() : std::move(back).error());
}

ScanEngine::Wait ScanEngine::try_pending(const Work& work) {
  const auto block = volume_.next_pending(work.block);
  if (!block) {
    MutexLock lock(mu_);
    if (work.run == run_) finish_pass();
    return {};
  }
  auto back = try_again(*block);
  if (back) {
    MutexLock lock(mu_);
    if (work.run == run_) state_.next_block = block->value + 1;
  }
  return after(work, volume_.block_bytes(),
               back ? Status() : Status(std::move(back).error()));
}

// True: it can be read. What is left on MAIN then, for want of budget or room,
// can be read there.
Result<bool> ScanEngine::try_again(BlockNo block) {
  auto back = volume_.retest(block, kTried);
  if (!back || !*back) return back;
  bool rescues = false;
  {
    MutexLock lock(mu_);
    ++state_.came_back;
    const bool dry = state_.dry_run && state_.run == RunState::running;
    rescues = options_.rescue != Rescue::off && !dry && take_budget();
  }
  if (rescues) (void)rescue(block, kBack);
  return true;
}

}  // namespace nbd_remap
