// SPDX-License-Identifier: BSD-3-Clause
// Quiesce and resume.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;

// Mistake 16: a hundred times under load: no error, the same map, and nothing
// passes in between.
TEST(VolumeQuiesce, a_hundred_times_under_load_nothing_is_lost) {
  Rig rig;
  const auto rule = rig.spoil({FaultOp::write, FaultOp::zero}, 0, 8);
  for (std::uint64_t b = 0; b < 8; ++b)
    ASSERT_EQ(rig.write(rig.at(b), 4096, b), 0);
  EXPECT_GE(rig.main.fired(rule), 8U);
  const auto map = rig.entries();
  ASSERT_EQ(map.size(), 8U);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> done{0};
  std::atomic<int> errors{0};
  std::vector<std::thread> clients;
  for (std::uint64_t c = 0; c < 3; ++c)
    clients.emplace_back([&, c] {
      const std::uint64_t block = 7 + c;  // one of them is remapped
      for (std::uint64_t tag = c; !stop; tag += 3) {
        errors += rig.write(rig.at(block), 4096, tag) != 0;
        errors += !rig.holds(rig.at(block), 4096, tag);
        ++done;
      }
    });
  const auto moves = [&] {
    const std::uint64_t then = done;
    const auto until = std::chrono::steady_clock::now() + milliseconds(5000);
    while (done < then + 3 && std::chrono::steady_clock::now() < until)
      std::this_thread::yield();
    return done >= then + 3;
  };
  for (int i = 0; i < 100 && !testing::Test::HasFailure(); ++i) {
    ASSERT_TRUE(moves());
    const Status quiet =
        rig.volume->quiesce(milliseconds(5000), milliseconds(60'000));
    ASSERT_TRUE(quiet) << quiet.error().text();
    EXPECT_EQ(rig.volume->status().in_flight, 0U);
    EXPECT_TRUE(rig.volume->status().quiesced);
    const auto writes = rig.main_disk.calls().write;
    const auto slot_writes = rig.spare_disk.calls().write;
    std::this_thread::yield();
    EXPECT_EQ(rig.entries(), map);
    EXPECT_EQ(rig.main_disk.calls().write, writes);
    EXPECT_EQ(rig.spare_disk.calls().write, slot_writes);
    rig.volume->resume();
    EXPECT_FALSE(rig.volume->status().quiesced);
  }
  EXPECT_TRUE(moves());
  stop = true;
  for (std::thread& c : clients) c.join();
  EXPECT_EQ(errors, 0);
  rig.reopen();
  EXPECT_EQ(rig.entries(), map);
}

TEST(VolumeQuiesce, what_was_acked_is_durable_then) {
  CrashBackend main(4 << 20);
  CrashBackend spare(4 << 20);
  SystemClock clock;
  format_for(spare, main, std::nullopt);
  auto volume = open_volume(main, spare, {}, clock, [](LogLevel, auto) {});
  const auto data = pattern(7, 4096);
  ASSERT_TRUE(volume->write(VolumeOffset{8192}, data, Durability::cached));
  ASSERT_GT(main.unflushed_sectors(), 0U);
  ASSERT_TRUE(volume->quiesce(milliseconds(1000), milliseconds(1000)));
  EXPECT_EQ(main.unflushed_sectors(), 0U);
  EXPECT_EQ(spare.unflushed_sectors(), 0U);
  volume->resume();
}

TEST(VolumeQuiesce, one_that_was_forgotten_ends_by_itself) {
  Rig rig;
  ASSERT_TRUE(rig.volume->quiesce(milliseconds(0), milliseconds(30)));
  EXPECT_EQ(rig.write(0, 4096, 1), 0);
  EXPECT_FALSE(rig.volume->status().quiesced);
}

TEST(VolumeQuiesce, a_disk_that_hangs_fails_it_and_others_go_on) {
  Rig rig;
  Barrier barrier;
  std::atomic<int> seen{0};
  rig.main.set_hook([&](const Operation& op) {
    if (op.op == FaultOp::write && seen++ == 0) barrier.arrive_and_wait();
  });
  std::thread client([&] { EXPECT_EQ(rig.write(0, 4096, 1), 0); });
  ASSERT_TRUE(barrier.wait_for_arrival());
  const Status quiet =
      rig.volume->quiesce(milliseconds(20), milliseconds(60'000));
  ASSERT_FALSE(quiet);
  EXPECT_EQ(quiet.error().error_class, ErrorClass::transport);
  EXPECT_EQ(rig.write(1 << 20, 4096, 2), 0) << "resumed";
  barrier.open();
  client.join();
}

TEST(VolumeQuiesce, a_stop_ends_the_waiting) {
  Rig rig;
  ASSERT_TRUE(rig.volume->quiesce(milliseconds(100), milliseconds(60'000)));
  std::thread client([&] { EXPECT_EQ(rig.write(0, 4096, 1), ESHUTDOWN); });
  rig.volume->close_gate();
  client.join();
  EXPECT_TRUE(rig.stop());
}

// Contract C12.
TEST(VolumeQuiesce, a_flush_that_fails_fails_it) {
  Rig rig;
  ASSERT_EQ(rig.write(0, 4096, 1), 0);
  const auto rule = rig.main.add_failing_call(FaultOp::flush, EIO);
  EXPECT_FALSE(rig.volume->quiesce(milliseconds(100), milliseconds(60'000)));
  EXPECT_EQ(rig.main.fired(rule), 1U);
  EXPECT_EQ(rig.write(0, 4096, 1), 0) << "resumed";
}

}  // namespace
}  // namespace nbd_remap
