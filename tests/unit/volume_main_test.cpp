// SPDX-License-Identifier: BSD-3-Clause
// MAIN as a whole: what never remaps, the breaker, flushes, the stop.
#include <gtest/gtest.h>

#include <cerrno>
#include <future>

// The fixture comes first, see there.
// clang-format off
#include "tests/fakes/volume_fixture.hpp"
#include "plugins/volume/health.hpp"
// clang-format on

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;

// Mistake 27, contract C10.
TEST(VolumeMain, only_errors_of_the_medium_remap) {
  struct Case {
    int errnum;
    int told;
  };
  const std::vector<Case> never{
      {ENODEV, EIO},       {ENXIO, EIO},       {ENOMEDIUM, EIO},
      {ENOLINK, EIO},      {EBADE, EIO},       {ETIMEDOUT, EIO},
      {ENOTCONN, EIO},     {ECONNRESET, EIO},  {EPIPE, EIO},
      {EHOSTUNREACH, EIO}, {EPROTO, EIO},      {EAGAIN, EIO},
      {EINTR, EIO},        {EBUSY, EIO},       {ESHUTDOWN, ESHUTDOWN},
      {ENOSPC, ENOSPC},    {EDQUOT, ENOSPC},   {EFBIG, ENOSPC},
      {ENOMEM, ENOMEM},    {ENOBUFS, ENOMEM},  {EMFILE, EIO},
      {EROFS, EPERM},      {EACCES, EPERM},    {EPERM, EPERM},
      {EINVAL, EINVAL},    {ENOTSUP, ENOTSUP}, {EFAULT, EIO},
      {EBADF, EIO},        {ENOTTY, EIO},
  };
  Rig rig;
  for (const Case& c : never) {
    const auto rule = rig.main.add_bad_range({FaultOp::read, FaultOp::write}, 0,
                                             8192, c.errnum);
    EXPECT_EQ(rig.write(0, 8192, 1), c.told) << c.errnum;
    EXPECT_EQ(rig.write(100, 10, 1), c.told) << c.errnum;
    EXPECT_EQ(rig.read(0, 8192), c.told) << c.errnum;
    EXPECT_GE(rig.main.fired(rule), 3U) << c.errnum;
    EXPECT_TRUE(rig.entries().empty()) << c.errnum;
    rig.main.remove(rule);
    EXPECT_EQ(rig.write(0, 8192, 1), 0) << "and it is over when it is over";
  }
  EXPECT_EQ(rig.store().slots.used, 0U);
}

// Mistake 30.
TEST(VolumeMain, each_error_of_the_medium_heals_a_write_and_is_eio_to_a_read) {
  std::uint64_t block = 10;
  Rig rig;
  for (int errnum : {EIO, ENODATA, EREMOTEIO, EILSEQ, EBADMSG, EUCLEAN}) {
    const auto rule = rig.main.add_bad_range({FaultOp::read, FaultOp::write},
                                             rig.at(block), 8192, errnum);
    EXPECT_EQ(rig.read(rig.at(block), 4096), EIO) << errnum;
    EXPECT_EQ(rig.write(rig.at(block + 1), 4096, 1), 0) << errnum;
    EXPECT_GE(rig.main.fired(rule), 2U);
    EXPECT_FALSE(rig.entry(block).remapped());
    EXPECT_EQ(rig.entry(block).valid, 0U);
    EXPECT_TRUE(rig.entry(block + 1).remapped()) << errnum;
    block += 10;
  }
}

enum class Load { writes, writes_and_flushes, reads, partial_writes };

// Mistake 27.
class DyingCable : public testing::TestWithParam<Load> {};

TEST_P(DyingCable, opens_the_breaker_and_does_not_eat_the_spare) {
  Rig rig({.main_bytes = 16 << 20});
  const auto bad = rig.spoil({FaultOp::read, FaultOp::write}, 1000, 2);
  ASSERT_EQ(rig.write(rig.at(1000), 8192, 7), 0);
  ASSERT_EQ(rig.entries().size(), 2U);
  ASSERT_GE(rig.main.fired(bad), 1U);
  const auto cable = rig.main.add_failing_call(
      {FaultOp::read, FaultOp::write, FaultOp::zero, FaultOp::trim}, EIO,
      {.sticky = true});
  const std::uint64_t breaker = rig.options.volume.breaker;
  std::uint64_t succeeded = 0;
  for (std::uint64_t i = 0; i < 200; ++i) {
    switch (GetParam()) {
      case Load::writes_and_flushes:  // a dead disk may answer these
        (void)rig.volume->flush();
        [[fallthrough]];
      case Load::writes:
        succeeded += rig.write(rig.at(i * 4), 4096, i) == 0;
        break;
      case Load::reads:
        succeeded += rig.read(rig.at(i * 4), 4096) == 0;
        break;
      case Load::partial_writes:
        succeeded += rig.write(rig.at(i * 4) + 512, 1024, i) == 0;
        break;
    }
  }
  EXPECT_GE(rig.main.fired(cable), breaker);
  EXPECT_LT(succeeded, breaker);
  EXPECT_TRUE(rig.volume->status().breaker_open);
  EXPECT_EQ(assess_health(rig.volume->status()).state, HealthState::failed);
  EXPECT_LT(rig.entries().size(), 2 + breaker);
  EXPECT_LT(rig.store().slots.used, 2 + breaker);
  // Nothing is asked of MAIN any more, and what is mapped is served.
  rig.main.clear_trace();
  EXPECT_EQ(rig.read(rig.at(3000), 512), EIO);
  EXPECT_EQ(rig.write(rig.at(3000), 512, 1), EIO);
  EXPECT_EQ(rig.write(rig.at(3000) + 1, 5, 1), EIO);
  EXPECT_EQ(told(rig.volume->zero(VolumeOffset{rig.at(3000)}, 4096,
                                  ZeroMode::may_punch, Durability::cached)),
            EIO);
  EXPECT_TRUE(rig.holds(rig.at(1000), 8192, 7));
  EXPECT_EQ(rig.write(rig.at(1000), 4096, 8), 0);
  EXPECT_EQ(rig.write(rig.at(1001), 4096, 9, Durability::fua), 0);
  const auto nine = pattern(9, 4096);
  EXPECT_EQ(rig.write(rig.at(1001) + 5, ConstBytes(nine).subspan(5, 20),
                      Durability::fua),
            0)
      << "not aligned, durable, and no business of MAIN's";
  EXPECT_TRUE(rig.main.trace().empty());
  EXPECT_TRUE(rig.holds(rig.at(1001), 4096, 9));
  // A new cable.
  rig.main.remove(cable);
  rig.reopen();
  EXPECT_TRUE(rig.holds(rig.at(1000), 4096, 8));
  EXPECT_EQ(rig.write(rig.at(3000), 4096, 1), 0);
}
INSTANTIATE_TEST_SUITE_P(Loads, DyingCable,
                         testing::Values(Load::writes, Load::writes_and_flushes,
                                         Load::reads, Load::partial_writes));

TEST(VolumeMain, one_large_write_to_a_dead_disk_maps_nothing) {
  Rig rig({.main_bytes = 16 << 20});
  const auto cable = rig.main.add_failing_call({FaultOp::read, FaultOp::write},
                                               EIO, {.sticky = true});
  EXPECT_EQ(rig.write(0, 8 << 20, 1), EIO);
  EXPECT_GE(rig.main.fired(cable), 16U);
  EXPECT_TRUE(rig.volume->status().breaker_open);
  EXPECT_EQ(rig.store().slots.used, 0U);
}

// Mistake 6.
TEST(VolumeFlush, reaches_both_disks_and_fails_if_one_fails) {
  for (bool spare_fails : {false, true}) {
    Rig rig;
    rig.spoil(FaultOp::write, 1);
    ASSERT_EQ(rig.write(0, 8192, 1), 0);
    ASSERT_EQ(rig.entries().size(), 1U);
    const auto before_main = rig.main_disk.calls().flush;
    const auto before_spare = rig.spare_disk.calls().flush;
    ASSERT_EQ(rig.write(0, 8192, 2), 0);  // both disks have it in their caches
    ASSERT_EQ(told(rig.volume->flush()), 0);
    EXPECT_EQ(rig.main_disk.calls().flush, before_main + 1);
    EXPECT_EQ(rig.spare_disk.calls().flush, before_spare + 1);
    ASSERT_EQ(rig.write(0, 8192, 3), 0);
    FaultyBackend& sick = spare_fails ? rig.spare : rig.main;
    const auto rule = sick.add_failing_call(FaultOp::flush, EIO);
    // Mistake 29: and the next does not succeed as if nothing had been.
    for (int i = 0; i < 3; ++i) EXPECT_EQ(told(rig.volume->flush()), EIO) << i;
    EXPECT_EQ(sick.fired(rule), 1U);
    EXPECT_EQ(rig.write(spare_fails ? 4096 : 0, 4096, 4, Durability::fua), EIO);
    EXPECT_EQ(assess_health(rig.volume->status()).state, HealthState::failed);
    EXPECT_EQ(rig.entries().size(), 1U) << "no block is to blame";
    rig.volume.reset();
    rig.open();
    EXPECT_EQ(told(rig.volume->flush()), 0);
  }
}

// Mistake 26.
TEST(VolumeFlush, is_not_answered_before_the_slower_disk) {
  for (bool spare_is_slow : {false, true}) {
    Rig rig;
    rig.spoil(FaultOp::write, 1);
    ASSERT_EQ(rig.write(0, 8192, 1), 0);
    ASSERT_EQ(rig.write(0, 8192, 2), 0);
    Barrier barrier;
    (spare_is_slow ? rig.spare : rig.main)
        .set_hook([&](const Operation& operation) {
          if (operation.op == FaultOp::flush) barrier.arrive_and_wait();
        });
    auto flush = std::async(std::launch::async,
                            [&] { return told(rig.volume->flush()); });
    ASSERT_TRUE(barrier.wait_for_arrival());
    EXPECT_EQ(flush.wait_for(milliseconds(50)), std::future_status::timeout);
    barrier.open();
    EXPECT_EQ(flush.get(), 0);
  }
}

// Mistake 29: a disk that reports its write errors only at writeback.
TEST(VolumeFlush, without_direct_io_a_writeback_error_fails_flush_for_good) {
  Rig rig({.direct = false});
  ASSERT_EQ(rig.write(0, 4096, 1), 0) << "into the page cache";
  const auto rule = rig.main.add_failing_call(FaultOp::flush, EIO);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(told(rig.volume->flush()), EIO);
  EXPECT_EQ(rig.main.fired(rule), 1U);
  EXPECT_EQ(rig.write(0, 4096, 1, Durability::fua), EIO);
  EXPECT_TRUE(rig.volume->status().main.in_doubt);
}
TEST(VolumeFlush, without_direct_io_a_failed_fua_write_is_not_believed_healed) {
  Rig rig({.direct = false});
  const auto rule = rig.main.add_failing_call(FaultOp::write, EIO);
  EXPECT_EQ(rig.write(0, 4096, 1, Durability::fua), EIO);
  EXPECT_EQ(rig.main.fired(rule), 1U);
  EXPECT_EQ(told(rig.volume->flush()), EIO);
}

TEST(VolumeStop, after_the_gate_is_closed_every_request_is_told_so) {
  Rig rig;
  ASSERT_EQ(rig.write(0, 4096, 1), 0);
  rig.volume->close_gate();
  EXPECT_EQ(rig.read(0, 512), ESHUTDOWN);
  EXPECT_EQ(rig.write(0, 512, 1), ESHUTDOWN);
  EXPECT_EQ(told(rig.volume->flush()), ESHUTDOWN);
  EXPECT_EQ(told(rig.volume->trim(VolumeOffset{0}, 512, Durability::cached)),
            ESHUTDOWN);
  EXPECT_EQ(told(rig.volume->zero(VolumeOffset{0}, 512, ZeroMode::may_punch,
                                  Durability::cached)),
            ESHUTDOWN);
  EXPECT_FALSE(rig.volume->extent(VolumeOffset{0}, 512));
  EXPECT_TRUE(rig.volume->status().stopping);
  EXPECT_TRUE(rig.stop());
}

// Mistake 31.
TEST(VolumeStop, waits_no_longer_than_told_for_a_disk_that_hangs) {
  Rig rig;
  Barrier barrier;
  rig.main.set_hook([&](const Operation&) { barrier.arrive_and_wait(); });
  auto write =
      std::async(std::launch::async, [&] { return rig.write(0, 4096, 1); });
  ASSERT_TRUE(barrier.wait_for_arrival());
  rig.volume->close_gate();
  const auto began = std::chrono::steady_clock::now();
  EXPECT_FALSE(rig.volume->drain(milliseconds(100)));
  EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(5000));
  EXPECT_EQ(rig.volume->status().in_flight, 1U);
  barrier.open();
  EXPECT_EQ(write.get(), 0) << "it was there before the gate was closed";
  EXPECT_TRUE(rig.volume->drain(milliseconds(30'000)));
}

// Mistake 25.
TEST(VolumeStop, a_request_that_waited_in_vain_does_nothing_later) {
  RigOptions options;
  options.volume.lock_bound = milliseconds(30);
  Rig rig(options);
  Barrier barrier;
  rig.main.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::write) barrier.arrive_and_wait();
  });
  // Not aligned, so it has its region alone.
  auto first =
      std::async(std::launch::async, [&] { return rig.write(1, 10, 1); });
  ASSERT_TRUE(barrier.wait_for_arrival());
  EXPECT_EQ(rig.write(4096, 4096, 2), EIO);
  EXPECT_EQ(rig.read(4096, 4096), EIO);
  EXPECT_EQ(rig.volume->stats().lock_timeouts, 2U);
  EXPECT_EQ(rig.read(2 << 20, 4096), 0) << "other regions are not held up";
  barrier.open();
  EXPECT_EQ(first.get(), 0);
  EXPECT_TRUE(rig.holds(1, 10, 1));
  EXPECT_TRUE(rig.zeroes(4096, 4096));
  EXPECT_TRUE(rig.entries().empty());
}

// Contract C14.
TEST(VolumeRequests, beyond_the_end_are_refused_and_of_no_length_do_nothing) {
  Rig rig;
  const std::uint64_t size = rig.volume->size();
  std::vector<std::byte> two(2);
  for (std::uint64_t offset : {size - 1, size, ~std::uint64_t{0}}) {
    EXPECT_EQ(told(rig.volume->read(VolumeOffset{offset}, two)), EINVAL);
    EXPECT_EQ(
        told(rig.volume->write(VolumeOffset{offset}, two, Durability::cached)),
        EINVAL);
    EXPECT_FALSE(rig.volume->extent(VolumeOffset{offset}, 2));
    EXPECT_EQ(
        told(rig.volume->trim(VolumeOffset{offset}, 2, Durability::cached)),
        EINVAL);
    EXPECT_EQ(told(rig.volume->zero(VolumeOffset{offset}, ~std::uint64_t{0},
                                    ZeroMode::may_punch, Durability::cached)),
              EINVAL);
  }
  rig.main.clear_trace();
  EXPECT_EQ(rig.read(size, 0), 0);
  EXPECT_EQ(rig.write(0, ConstBytes()), 0);
  EXPECT_TRUE(rig.main.trace().empty());
}

}  // namespace
}  // namespace nbd_remap
