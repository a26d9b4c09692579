// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/disk.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <future>

#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class DiskTest : public testing::Test {
 protected:
  Status write(Durability durability = Durability::cached,
               std::uint64_t offset = 0) {
    return disk_.write(DeviceOffset{offset}, pattern(offset, 4096), durability);
  }
  std::uint64_t flushes() const { return memory_.calls().flush; }

  MemoryBackend memory_{1 << 20};
  FaultyBackend faulty_{memory_};
  Disk disk_{std::make_unique<BorrowedBackend>(faulty_)};
};

TEST_F(DiskTest, a_disk_is_flushed_if_something_may_not_be_durable) {
  ASSERT_TRUE(disk_.flush());
  EXPECT_EQ(flushes(), 1U) << "an earlier server's writes count as well";
  ASSERT_TRUE(disk_.flush());
  EXPECT_EQ(flushes(), 1U) << "nothing was written since";
  ASSERT_TRUE(write(Durability::fua));
  ASSERT_TRUE(
      disk_.zero(DeviceOffset{0}, 4096, ZeroMode::may_punch, Durability::fua));
  ASSERT_TRUE(disk_.flush());
  EXPECT_EQ(flushes(), 1U) << "FUA is durable already";
  std::uint64_t expected = 1;
  auto flush_is_sent = [&] {
    EXPECT_TRUE(disk_.flush());
    EXPECT_EQ(flushes(), ++expected);
  };
  ASSERT_TRUE(write());
  flush_is_sent();
  ASSERT_TRUE(disk_.zero(DeviceOffset{0}, 4096, ZeroMode::may_punch,
                         Durability::cached));
  flush_is_sent();
  ASSERT_TRUE(disk_.trim(DeviceOffset{0}, 4096));
  flush_is_sent();
  // One that failed may have reached the disk in part.
  faulty_.add_failing_call(FaultOp::write, EIO);
  ASSERT_FALSE(write());
  flush_is_sent();
  faulty_.add_failing_call(FaultOp::write, EIO);
  ASSERT_FALSE(write(Durability::fua));
  flush_is_sent();
  EXPECT_EQ(faulty_.fired(), 2U);
}

TEST_F(DiskTest, another_threads_write_is_flushed) {
  ASSERT_TRUE(disk_.flush());
  ASSERT_TRUE(std::async(std::launch::async, [&] { return write(); }).get());
  ASSERT_TRUE(disk_.flush());
  EXPECT_EQ(flushes(), 2U);
}

// Mistake 26: a flush that began before the write does not count for it.
TEST_F(DiskTest, flushes_that_come_during_one_share_the_next) {
  Barrier barrier;
  std::atomic<int> seen{0};
  faulty_.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::flush && seen++ == 0)
      barrier.arrive_and_wait();
  });
  auto flush = [&] { return disk_.flush(); };
  auto first = std::async(std::launch::async, flush);
  ASSERT_TRUE(barrier.wait_for_arrival());
  ASSERT_TRUE(write());
  std::vector<std::future<Status>> later;
  for (int i = 0; i < 8; ++i)
    later.push_back(std::async(std::launch::async, flush));
  for (auto& f : later)
    EXPECT_EQ(f.wait_for(milliseconds(20)), std::future_status::timeout);
  barrier.open();
  EXPECT_TRUE(first.get());
  for (auto& f : later) EXPECT_TRUE(f.get());
  const auto trace = faulty_.trace();
  ASSERT_GE(trace.size(), 3U);
  EXPECT_EQ(trace[0].op, FaultOp::write) << "the held one is noted when let go";
  EXPECT_EQ(trace[1].op, FaultOp::flush);
  EXPECT_EQ(trace[2].op, FaultOp::flush);
  EXPECT_LE(trace.size(), 5U) << "eight callers share; one may come late";
}

// Mistake 26.
TEST_F(DiskTest, a_write_that_ends_during_a_flush_is_flushed_by_the_next) {
  Barrier barrier;
  std::atomic<int> seen{0};
  faulty_.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::flush && seen++ == 0)
      barrier.arrive_and_wait();
  });
  auto first = std::async(std::launch::async, [&] { return disk_.flush(); });
  ASSERT_TRUE(barrier.wait_for_arrival());
  ASSERT_TRUE(write());
  barrier.open();
  ASSERT_TRUE(first.get());
  ASSERT_TRUE(disk_.flush());
  EXPECT_EQ(flushes(), 2U);
}

// Mistake 29, contract C12.
TEST_F(DiskTest, a_failed_flush_is_not_forgotten) {
  ASSERT_TRUE(write());
  const auto rule = faulty_.add_failing_call(FaultOp::flush, EIO);
  EXPECT_FALSE(disk_.in_doubt());
  EXPECT_FALSE(disk_.flush());
  EXPECT_EQ(faulty_.fired(rule), 1U);
  EXPECT_TRUE(disk_.in_doubt());
  for (int i = 0; i < 3; ++i) {
    const Status flush = disk_.flush();
    ASSERT_FALSE(flush);
    EXPECT_EQ(nbd_errno(flush.error()), EIO);
    EXPECT_NE(flush.error().error_class, ErrorClass::medium)
        << "no place is bad: nothing may be remapped for it";
    EXPECT_FALSE(write(Durability::fua));
    EXPECT_FALSE(disk_.zero(DeviceOffset{0}, 4096, ZeroMode::may_punch,
                            Durability::fua));
  }
  EXPECT_TRUE(write()) << "a plain write promises nothing";
  EXPECT_FALSE(disk_.flush());
}

TEST_F(DiskTest, all_who_wait_for_a_flush_that_fails_are_told) {
  Barrier barrier;
  std::atomic<int> seen{0};
  faulty_.add_failing_call(FaultOp::flush, ENODATA, {.nth = 2});
  faulty_.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::flush && seen++ == 0)
      barrier.arrive_and_wait();
  });
  auto flush = [&] { return disk_.flush(); };
  auto first = std::async(std::launch::async, flush);
  ASSERT_TRUE(barrier.wait_for_arrival());
  ASSERT_TRUE(write());
  std::vector<std::future<Status>> later;
  for (int i = 0; i < 4; ++i)
    later.push_back(std::async(std::launch::async, flush));
  barrier.open();
  EXPECT_TRUE(first.get());
  for (auto& f : later) EXPECT_FALSE(f.get());
  EXPECT_EQ(faulty_.fired(), 1U);
}

// A remote that keeps what is not flushed and writes it again.
TEST(DiskCovered, a_failed_flush_that_the_next_covers_is_sent_again) {
  BackendInfo info = fake_disk_info("remote", 1 << 20, 512, 4096);
  info.remote = true;
  info.flush_covers_failed = true;
  MemoryBackend memory(info);
  FaultyBackend faulty(memory);
  Disk disk(std::make_unique<BorrowedBackend>(faulty));
  ASSERT_TRUE(disk.write(DeviceOffset{0}, pattern(1, 512), Durability::cached));
  Barrier barrier;
  std::atomic<int> seen{0};
  // The second one and all that follow.
  const auto rule = faulty.add_failing_call(FaultOp::flush, ETIMEDOUT,
                                            {.nth = 2, .sticky = true});
  faulty.set_hook([&](const Operation& operation) {
    if (operation.op == FaultOp::flush && seen++ == 0)
      barrier.arrive_and_wait();
  });
  auto flush = [&] { return disk.flush(); };
  auto first = std::async(std::launch::async, flush);
  ASSERT_TRUE(barrier.wait_for_arrival());
  ASSERT_TRUE(disk.write(DeviceOffset{0}, pattern(2, 512), Durability::cached));
  std::vector<std::future<Status>> later;
  for (int i = 0; i < 4; ++i)
    later.push_back(std::async(std::launch::async, flush));
  barrier.open();
  EXPECT_TRUE(first.get());
  for (auto& f : later) EXPECT_FALSE(f.get()) << "all who wait are told";
  EXPECT_GE(faulty.fired(rule), 1U);
  EXPECT_FALSE(disk.in_doubt());
  faulty.remove(rule);
  const std::uint64_t sent = memory.calls().flush;
  EXPECT_TRUE(disk.flush()) << "nothing was written since, and yet:";
  EXPECT_EQ(memory.calls().flush, sent + 1);
  EXPECT_TRUE(disk.write(DeviceOffset{0}, pattern(3, 512), Durability::fua));
}

// Mistake 29: its error may be that of an earlier write.
TEST(DiskDoubt,
     a_fua_write_that_fails_through_the_page_cache_puts_all_in_doubt) {
  for (bool direct : {false, true}) {
    BackendInfo info = fake_disk_info("disk", 1 << 20, 512, 4096);
    info.direct = direct;
    MemoryBackend memory(info);
    FaultyBackend faulty(memory);
    Disk disk(std::make_unique<BorrowedBackend>(faulty));
    const auto data = pattern(1, 512);
    faulty.add_failing_call({FaultOp::write, FaultOp::zero}, EIO);
    EXPECT_FALSE(disk.write(DeviceOffset{0}, data, Durability::fua));
    EXPECT_EQ(faulty.fired(), 1U);
    EXPECT_EQ(disk.in_doubt(), !direct);
    EXPECT_EQ(disk.flush().ok(), direct);
  }
}

TEST_F(DiskTest, errors_are_counted_by_class_and_only_data_counts_as_success) {
  for (int errnum : {EIO, ENODATA, ENXIO, ENOSPC}) {
    faulty_.add_failing_call(FaultOp::write, errnum);
    EXPECT_FALSE(write());
  }
  EXPECT_EQ(faulty_.fired(), 4U);
  const auto errors = disk_.errors();
  EXPECT_EQ(errors.at(static_cast<int>(ErrorClass::medium)), 2U);
  EXPECT_EQ(errors.at(static_cast<int>(ErrorClass::transport)), 1U);
  EXPECT_EQ(errors.at(static_cast<int>(ErrorClass::full)), 1U);
  EXPECT_EQ(disk_.successes(), 0U);
  ASSERT_TRUE(disk_.flush());
  ASSERT_TRUE(disk_.trim(DeviceOffset{0}, 4096));
  EXPECT_EQ(disk_.successes(), 0U);
  ASSERT_TRUE(write());
  std::vector<std::byte> buffer(512);
  ASSERT_TRUE(disk_.read(DeviceOffset{0}, buffer));
  EXPECT_EQ(disk_.successes(), 2U);
}

}  // namespace
}  // namespace nbd_remap
