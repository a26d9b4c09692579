// SPDX-License-Identifier: BSD-3-Clause
// A disk that nobody waits for longer than a bound, and one that is the
// beginning of a larger one.
#include "plugins/backend/bounded_backend.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>

#include "plugins/backend/clipped_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

std::vector<std::byte> filled(std::size_t n, int with) {
  return std::vector<std::byte>(n, static_cast<std::byte>(with));
}

// Holds the calls that come to it.
class Latch {
 public:
  void wait() {
    std::unique_lock lock(mu_);
    ++held_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  bool wait_until_held() {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(60),
                             [&] { return held_ != 0; });
  }
  void open() {
    const std::lock_guard lock(mu_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  int held_ = 0;
  bool open_ = false;
};

struct Bounded {
  explicit Bounded(std::chrono::milliseconds bound) {
    auto faulty = std::make_unique<FaultyBackend>(memory);
    disk = faulty.get();
    backend = std::make_unique<BoundedBackend>(std::move(faulty), bound);
  }
  MemoryBackend memory{kMiB};
  FaultyBackend* disk = nullptr;
  std::unique_ptr<BoundedBackend> backend;
};

TEST(BoundedBackend, is_the_disk_as_long_as_that_answers) {
  Bounded b(std::chrono::seconds(60));
  EXPECT_EQ(b.backend->info().identity, b.memory.info().identity);
  ASSERT_TRUE(b.backend->write(DeviceOffset{4096}, filled(8192, 7),
                               Durability::cached));
  std::vector<std::byte> back(8192);
  ASSERT_TRUE(b.backend->read(DeviceOffset{4096}, back));
  EXPECT_EQ(back, filled(8192, 7));
  ASSERT_TRUE(b.backend->zero(DeviceOffset{4096}, 4096,
                              ZeroMode::keep_allocated, Durability::cached));
  ASSERT_TRUE(b.backend->read(DeviceOffset{4096}, back));
  EXPECT_EQ(back[0], std::byte{});
  EXPECT_EQ(back[4096], std::byte{7});
  ASSERT_TRUE(b.backend->flush());
  ASSERT_TRUE(b.backend->trim(DeviceOffset{0}, 4096));
  ASSERT_TRUE(b.backend->cache(DeviceOffset{0}, 4096));
  const auto extent = b.backend->extent(DeviceOffset{0}, kMiB);
  ASSERT_TRUE(extent);
  EXPECT_EQ(extent->length, 4096U);
  EXPECT_TRUE(extent->hole);
  b.memory.enlarge(2 * kMiB);
  EXPECT_EQ(*b.backend->grow(), 2 * kMiB);
  const auto calls = b.memory.calls();
  EXPECT_EQ(calls.flush, 1U);
  EXPECT_EQ(calls.trim, 1U);
  EXPECT_FALSE(b.backend->hangs());
}

TEST(BoundedBackend, hands_on_what_the_disk_says_of_itself) {
  Bounded b(std::chrono::seconds(60));
  const auto rule = b.disk->add_bad_range(kAnyOp, 0, 512, EIO);
  const Status status =
      b.backend->write(DeviceOffset{0}, filled(4096, 1), Durability::fua);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().error_class, ErrorClass::medium);
  EXPECT_EQ(b.disk->fired(rule), 1U);
  EXPECT_TRUE(
      b.backend->write(DeviceOffset{4096}, filled(4096, 1), Durability::fua))
      << "one error is not the end of it";
}

// Contract L3, mistake 25.
TEST(BoundedBackend, gives_a_disk_up_that_does_not_answer_in_time) {
  Bounded b(std::chrono::milliseconds(100));
  Latch latch;
  b.disk->set_hook([&](const Operation& o) {
    if (o.op == FaultOp::write) latch.wait();
  });
  Status status;
  {
    // The caller's bytes are gone when the late call comes to its end.
    const auto data = filled(4096, 9);
    status = b.backend->write(DeviceOffset{0}, data, Durability::cached);
  }
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().errnum, ETIMEDOUT);
  EXPECT_EQ(status.error().error_class, ErrorClass::transport);
  ASSERT_TRUE(latch.wait_until_held());
  EXPECT_TRUE(b.backend->hangs());
  // Nothing more reaches it, although it would answer.
  std::vector<std::byte> back(4096);
  EXPECT_FALSE(b.backend->read(DeviceOffset{8192}, back));
  EXPECT_FALSE(b.backend->flush());
  EXPECT_EQ(b.memory.calls().read, 0U);
  EXPECT_EQ(b.memory.calls().flush, 0U);
  latch.open();
  b.backend.reset();  // waits for the late one
  ASSERT_TRUE(b.memory.read(DeviceOffset{0}, back));
  EXPECT_EQ(back, filled(4096, 9));
}

TEST(BoundedBackend, more_calls_than_threads_all_come_to_their_end) {
  Bounded b(std::chrono::seconds(60));
  std::vector<BoundedBackend::CallPtr> calls;
  for (int i = 0; i < 100; ++i)
    calls.push_back(b.backend->start_write(
        DeviceOffset{static_cast<std::uint64_t>(i) * 4096}, filled(4096, i),
        Durability::cached));
  for (const auto& call : calls) EXPECT_TRUE(b.backend->wait(call));
  for (int i = 0; i < 100; ++i) {
    std::vector<std::byte> back(4096);
    ASSERT_TRUE(b.memory.read(
        DeviceOffset{static_cast<std::uint64_t>(i) * 4096}, back));
    EXPECT_EQ(back, filled(4096, i)) << i;
  }
}

TEST(ClippedBackend, is_the_beginning_of_a_larger_disk_until_it_grows) {
  auto memory = std::make_unique<MemoryBackend>(kMiB);
  MemoryBackend& disk = *memory;
  ASSERT_TRUE(
      disk.write(DeviceOffset{kMiB / 2}, filled(4096, 5), Durability::cached));
  const auto clipped = clip(std::move(memory), kMiB / 2);
  EXPECT_EQ(clipped->info().size_bytes, kMiB / 2);
  EXPECT_EQ(clipped->info().identity, disk.info().identity);
  std::vector<std::byte> back(4096);
  const DeviceOffset last{kMiB / 2 - 4096};
  EXPECT_TRUE(clipped->write(last, filled(4096, 1), Durability::cached));
  EXPECT_TRUE(clipped->read(last, back));
  EXPECT_EQ(back, filled(4096, 1));
  EXPECT_TRUE(clipped->flush());
  // One byte too far is too far, and nothing there is touched.
  const DeviceOffset across{kMiB / 2 - 4096 + 512};
  EXPECT_FALSE(clipped->write(across, filled(4096, 2), Durability::cached));
  EXPECT_FALSE(clipped->read(across, back));
  EXPECT_FALSE(clipped->zero(across, 4096, ZeroMode::keep_allocated,
                             Durability::cached));
  EXPECT_FALSE(clipped->trim(across, 4096));
  EXPECT_FALSE(clipped->cache(across, 4096));
  EXPECT_FALSE(clipped->extent(across, 4096));
  ASSERT_TRUE(disk.read(DeviceOffset{kMiB / 2}, back));
  EXPECT_EQ(back, filled(4096, 5));
  // What lies beyond is used after it grew.
  EXPECT_EQ(*clipped->grow(), kMiB);
  EXPECT_TRUE(clipped->write(across, filled(4096, 3), Durability::cached));
  EXPECT_TRUE(clipped->read(DeviceOffset{kMiB / 2}, back));
  EXPECT_EQ(back[0], std::byte{3});
}

TEST(ClippedBackend, a_disk_of_that_size_is_itself) {
  auto memory = std::make_unique<MemoryBackend>(kMiB);
  const Backend* const disk = memory.get();
  EXPECT_EQ(clip(std::move(memory), kMiB).get(), disk);
}

}  // namespace
}  // namespace nbd_remap
