// SPDX-License-Identifier: BSD-3-Clause
// The injector tests itself: what is bad fails, its neighbours do not.

#include "tests/fakes/faulty_backend.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSize = 1U << 20;

class Faulty : public ::testing::Test {
 protected:
  int read(std::uint64_t offset, std::uint64_t length) {
    std::vector<std::byte> got(length);
    return errnum(disk_.read({offset}, got));
  }
  int write(std::uint64_t offset, std::uint64_t length,
            std::byte value = std::byte{1}) {
    return errnum(disk_.write({offset}, std::vector<std::byte>(length, value),
                              Durability::cached));
  }
  static int errnum(const Status& s) { return s.ok() ? 0 : s.error().errnum; }

  MemoryBackend inner_{kSize};
  FaultyBackend disk_{inner_};
};

// Mistake 56
TEST_F(Faulty, bad_sectors_fail_and_their_neighbours_do_not) {
  const auto rule =
      disk_.add_bad_range(FaultOp::read, 4096 + 512, 1024, ENODATA);
  std::uint64_t expected = 0;
  for (std::uint64_t at = 0; at < 16384; at += 512) {
    const bool bad = at == 4608 || at == 5120;
    EXPECT_EQ(read(at, 512), bad ? ENODATA : 0) << at;
    EXPECT_EQ(write(at, 512), 0);
    expected += bad ? 1 : 0;
  }
  EXPECT_EQ(disk_.fired(rule), expected);
  // To the byte.
  EXPECT_EQ(read(4607, 1), 0);
  EXPECT_EQ(read(4608, 1), ENODATA);
  EXPECT_EQ(read(5631, 1), ENODATA);
  EXPECT_EQ(read(5632, 1), 0);
  // One bad sector fails all of a request.
  EXPECT_EQ(read(0, kSize), ENODATA);
  EXPECT_EQ(read(4096, 513), ENODATA);
  EXPECT_EQ(disk_.fired(), expected + 4);
}

TEST_F(Faulty, a_rule_is_for_its_operations_only) {
  const auto rule =
      disk_.add_bad_range({FaultOp::write, FaultOp::zero}, 0, kSize, EIO);
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(write(0, 512), EIO);
  EXPECT_EQ(
      errnum(disk_.zero({0}, 512, ZeroMode::may_punch, Durability::cached)),
      EIO);
  EXPECT_EQ(errnum(disk_.trim({0}, 512)), 0);
  EXPECT_EQ(errnum(disk_.flush()), 0);
  EXPECT_EQ(disk_.fired(rule), 2U);
  const auto flush = disk_.add_failing_call(FaultOp::flush, EIO);
  EXPECT_EQ(errnum(disk_.flush()), EIO);
  EXPECT_EQ(errnum(disk_.flush()), 0);
  EXPECT_EQ(disk_.fired(flush), 1U);
}

TEST_F(Faulty, a_transient_fault_is_spent) {
  const auto rule =
      disk_.add_bad_range(FaultOp::read, 0, 512, EIO, {.times = 2});
  EXPECT_EQ(read(0, 512), EIO);
  EXPECT_EQ(read(512, 512), 0);
  EXPECT_EQ(read(0, 512), EIO);
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(disk_.fired(rule), 2U);
}

TEST_F(Faulty, a_write_heals_just_what_it_covers) {
  disk_.add_bad_range(FaultOp::read, 4096, 4096, EIO, {.heal_on_write = true});
  EXPECT_EQ(write(4096 + 1024, 512), 0);
  EXPECT_EQ(read(4096 + 1024, 512), 0);
  EXPECT_EQ(read(4096 + 512, 512), EIO);
  EXPECT_EQ(read(4096 + 1536, 512), EIO);
  EXPECT_EQ(
      errnum(disk_.zero({4096}, 1024, ZeroMode::may_punch, Durability::fua)),
      0);
  EXPECT_EQ(read(4096, 1536), 0);
  EXPECT_EQ(write(0, 16384), 0);
  EXPECT_EQ(read(0, 16384), 0);
}

TEST_F(Faulty, the_nth_call_fails_once_or_from_then_on) {
  const auto once = disk_.add_failing_call(FaultOp::read, EIO, {.nth = 3});
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(write(0, 512), 0);
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(read(0, 512), EIO);
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(disk_.fired(once), 1U);
  const auto sticky =
      disk_.add_failing_call(kAnyOp, ESHUTDOWN, {.nth = 2, .sticky = true});
  EXPECT_EQ(write(0, 512), 0);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(errnum(disk_.flush()), ESHUTDOWN);
  EXPECT_EQ(disk_.fired(sticky), 5U);
  disk_.remove(sticky);
  EXPECT_EQ(errnum(disk_.flush()), 0);
}

TEST_F(Faulty, ten_thousand_ranges_are_one_rule) {
  const auto rule = disk_.add_bad_range(FaultOp::read, 0, 512, EIO);
  for (std::uint64_t at = 0; at < kSize; at += 1024)
    disk_.extend(rule, at, 512);
  for (std::uint64_t at = 0; at < kSize; at += 512)
    ASSERT_EQ(read(at, 512), at % 1024 == 0 ? EIO : 0) << at;
  // Ranges that meet become one.
  disk_.extend(rule, 512, 512);
  EXPECT_EQ(read(512, 512), EIO);
  disk_.remove_all();
  EXPECT_EQ(read(0, kSize), 0);
}

TEST_F(Faulty, a_failing_write_changes_nothing_unless_it_is_torn) {
  disk_.add_bad_range(FaultOp::write, 2048, 512, EIO);
  EXPECT_EQ(write(0, 4096), EIO);
  std::vector<std::byte> got(8192);
  ASSERT_TRUE(inner_.read({0}, got).ok());
  EXPECT_EQ(std::count(got.begin(), got.end(), std::byte{1}), 0);

  disk_.tear_failed_writes(42);
  EXPECT_EQ(write(0, 4096), EIO);
  ASSERT_TRUE(inner_.read({0}, got).ok());
  const auto written = std::count(got.begin(), got.end(), std::byte{1});
  EXPECT_GT(written, 0);
  EXPECT_LT(written, 7 * 512 + 1);
  EXPECT_EQ(written % 512, 0);
  // Never the bad one, never beyond the request.
  EXPECT_EQ(std::count(got.begin() + 2048, got.begin() + 2560, std::byte{1}),
            0);
  EXPECT_EQ(std::count(got.begin() + 4096, got.end(), std::byte{1}), 0);

  // The same seed tears in the same way.
  MemoryBackend other_inner(kSize);
  FaultyBackend other(other_inner);
  other.add_bad_range(FaultOp::write, 2048, 512, EIO);
  other.tear_failed_writes(42);
  EXPECT_FALSE(other
                   .write({0}, std::vector<std::byte>(4096, std::byte{1}),
                          Durability::cached)
                   .ok());
  std::vector<std::byte> other_got(8192);
  ASSERT_TRUE(other_inner.read({0}, other_got).ok());
  EXPECT_EQ(got, other_got);
}

TEST_F(Faulty, the_trace_has_the_operations_in_order) {
  disk_.add_bad_range(FaultOp::read, 0, 512, EIO);
  EXPECT_EQ(write(512, 1024), 0);
  EXPECT_EQ(errnum(disk_.zero({0}, 512, ZeroMode::may_punch, Durability::fua)),
            0);
  EXPECT_EQ(read(0, 1), EIO);
  EXPECT_EQ(errnum(disk_.flush()), 0);
  const auto trace = disk_.trace();
  ASSERT_EQ(trace.size(), 4U);
  EXPECT_EQ(trace[0].op, FaultOp::write);
  EXPECT_EQ(trace[0].offset, 512U);
  EXPECT_EQ(trace[0].length, 1024U);
  EXPECT_FALSE(trace[0].fua);
  EXPECT_EQ(trace[1].op, FaultOp::zero);
  EXPECT_TRUE(trace[1].fua);
  EXPECT_EQ(trace[2].injected, EIO);
  EXPECT_EQ(trace[3].op, FaultOp::flush);
  disk_.clear_trace();
  EXPECT_TRUE(disk_.trace().empty());
}

TEST_F(Faulty, a_hook_may_block_one_call_while_others_go_on) {
  std::atomic<bool> held = false;
  std::atomic<bool> release = false;
  disk_.set_hook([&](const Operation& operation) {
    if (operation.op != FaultOp::flush) return;
    held = true;
    held.notify_all();
    release.wait(false);
    // Rules may be added from within.
    disk_.add_bad_range(FaultOp::read, 0, 512, EIO);
  });
  std::jthread flusher([&] { EXPECT_EQ(errnum(disk_.flush()), 0); });
  held.wait(false);
  EXPECT_EQ(read(0, 512), 0);
  EXPECT_EQ(inner_.calls().flush, 0U);
  release = true;
  release.notify_all();
  flusher.join();
  EXPECT_EQ(inner_.calls().flush, 1U);
  EXPECT_EQ(read(0, 512), EIO);
}

}  // namespace
}  // namespace nbd_remap
