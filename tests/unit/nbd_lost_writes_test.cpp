// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend over a server that has lost what was not flushed (contract
// C1, C2, C12).
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <future>
#include <random>
#include <thread>

#include "tests/unit/lossy_server.hpp"
#include "tests/unit/nbd_test_tools.hpp"
#include "tests/unit/nbdkit_server.hpp"
#include "tests/unit/watched_disk.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr std::uint32_t kNbdEio = 5;
constexpr std::uint16_t kWrite = 1;
constexpr std::uint16_t kFlush = 3;

// A backend with a log and counters that a test can look at.

TEST(NbdLostWrites, a_flush_that_failed_goes_on_failing) {
  LossyServer server(1 << 20);
  std::atomic<int> failing{1};
  server.fault = [&](const FakeRequest& r) {
    return r.type == kFlush && failing.fetch_sub(1) > 0 ? kNbdEio : 0U;
  };
  Watched w(server.uri());
  const auto data = pattern(4096, 1);
  ASSERT_TRUE(write_ok(*w.disk, 0, data));
  EXPECT_FALSE(w.disk->flush().ok());
  EXPECT_LE(failing, 0);
  const Status again = w.disk->flush();
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().error_class, ErrorClass::transport);
  EXPECT_FALSE(write_ok(*w.disk, 0, data, Durability::fua));
  EXPECT_TRUE(write_ok(*w.disk, 0, data));
  EXPECT_TRUE(reads_as(*w.disk, 0, data));
  EXPECT_EQ(server.flushes(), 0);
}

TEST(NbdLostWrites, what_cannot_be_written_again_is_an_error_and_not_old) {
  LossyServer server(1 << 20);
  std::atomic<bool> bad{false};
  std::atomic<int> fired{0};
  server.fault = [&](const FakeRequest& r) {
    const bool hit = bad && r.type == kWrite && r.offset < 69632 &&
                     r.offset + r.length > 65536;
    fired += hit;
    return hit ? kNbdEio : 0U;
  };
  Watched w(server.uri());
  const auto data = pattern(262144, 1);
  ASSERT_TRUE(write_ok(*w.disk, 0, data));
  server.kill();
  ASSERT_EQ(server.lost(), 1);
  bad = true;
  server.restart();
  EXPECT_TRUE(reads_as(*w.disk, 0, ConstBytes(data).first(65536)));
  EXPECT_TRUE(reads_as(*w.disk, 69632, ConstBytes(data).subspan(69632)));
  EXPECT_GE(fired, 2);
  std::vector<std::byte> buffer(512);
  const Status read = w.disk->read({65536}, buffer);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().error_class, ErrorClass::medium);
  EXPECT_FALSE(w.disk->flush().ok());
  EXPECT_FALSE(w.disk->flush().ok());
  EXPECT_TRUE(w.logged("cannot write 4096 bytes at 65536 again")) << w.log;
}

TEST(NbdLostWrites, a_place_that_was_known_to_be_bad_does_not_fail_the_flush) {
  LossyServer server(1 << 20);
  std::atomic<bool> bad{false};
  server.fault = [&](const FakeRequest& r) {
    return bad && r.type == kWrite && r.offset == 4096 ? kNbdEio : 0U;
  };
  Watched w(server.uri());
  const auto data = pattern(4096, 1);
  ASSERT_TRUE(write_ok(*w.disk, 4096, data));
  bad = true;
  // Whoever wrote this has put it elsewhere.
  ASSERT_EQ(w.disk->write({4096}, data, Durability::cached).error().errnum,
            EIO);
  server.kill();
  ASSERT_EQ(server.lost(), 1);
  server.restart();
  EXPECT_TRUE(w.disk->flush().ok());
  EXPECT_EQ(w.counters->reconnects, 1U);
}

TEST(NbdLostWrites,
     the_journal_is_flushed_in_the_background_before_it_is_full) {
  LossyServer server(8 << 20);
  Watched w(server.uri());
  const auto data = pattern(1 << 20, 1);
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(write_ok(*w.disk, (i % 8) << 20, data));
  EXPECT_GE(server.flushes(), 1);
  EXPECT_TRUE(eventually([&] { return server.flushes() >= 2; }));
  EXPECT_FALSE(w.logged("connection lost"));
}

TEST(NbdLostWrites, a_full_journal_makes_writes_wait_in_bounds) {
  LossyServer server(8 << 20);
  std::atomic<bool> hold{true};
  server.fault = [&](const FakeRequest& r) {
    return hold && r.type == kFlush ? LossyServer::kNoReply : 0U;
  };
  Watched w(server.uri(), milliseconds(600));
  const auto data = pattern(1 << 20, 1);
  int written = 0;
  steady_clock::duration longest{};
  for (; written < 100; ++written) {
    const auto start = steady_clock::now();
    const bool ok = write_ok(*w.disk, (written % 8) << 20, data);
    longest = std::max(longest, steady_clock::now() - start);
    if (!ok) break;
  }
  EXPECT_EQ(written, 64);  // MiB
  EXPECT_LT(longest, milliseconds(1200));
  hold = false;
  server.kill();
  server.restart();
  EXPECT_TRUE(eventually([&] { return write_ok(*w.disk, 0, data); }));
  EXPECT_EQ(w.counters->reconnects, 1U);
}

// Each thread has places of its own and knows what they hold.
TEST(NbdLostWrites, kills_under_a_verifying_load_lose_nothing) {
  const bool long_form = std::getenv("NBD_REMAP_LONG") != nullptr;
  const int kills = long_form ? 100 : 8;
  constexpr unsigned kThreads = 6;
  constexpr std::uint64_t kBlock = 4096;
  constexpr std::uint64_t kBlocks = 64;  // of each thread
  LossyServer server(kThreads * kBlocks * kBlock);
  constexpr auto kDeadline = seconds(10);
  Watched w(server.uri(), kDeadline);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::atomic<int> failed{0};
  std::atomic<std::uint64_t> done{0};
  std::atomic<std::int64_t> longest_ms{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        std::mt19937 random(t + 1);
        std::vector<std::uint64_t> seeds(kBlocks);  // 0: zeroes
        while (!stop) {
          const std::uint64_t block = random() % kBlocks;
          const DeviceOffset at{(t * kBlocks + block) * kBlock};
          const std::uint64_t seed = random() + 1ULL;
          const auto start = steady_clock::now();
          bool ok = true;
          switch (random() % 8) {
            case 0:
              ok = w.disk->flush().ok();
              break;
            case 1:
              ok = w.disk
                       ->zero(at, kBlock, ZeroMode::may_punch,
                              Durability::cached)
                       .ok();
              seeds[block] = 0;
              break;
            case 2:
              ok = write_ok(*w.disk, at.value, pattern(kBlock, seed),
                            Durability::fua);
              seeds[block] = seed;
              break;
            case 3:
            case 4: {
              std::vector<std::byte> buffer(kBlock);
              ok = w.disk->read(at, buffer).ok();
              wrong +=
                  buffer != (seeds[block] ? pattern(kBlock, seeds[block])
                                          : std::vector<std::byte>(kBlock));
              break;
            }
            default:
              ok = write_ok(*w.disk, at.value, pattern(kBlock, seed));
              seeds[block] = seed;
          }
          const auto took = std::chrono::duration_cast<milliseconds>(
              steady_clock::now() - start);
          if (took.count() > longest_ms) longest_ms = took.count();
          failed += !ok;
          ++done;
        }
        for (std::uint64_t block = 0; block < kBlocks; ++block)
          wrong += !reads_as(*w.disk, (t * kBlocks + block) * kBlock,
                             seeds[block] ? pattern(kBlock, seeds[block])
                                          : std::vector<std::byte>(kBlock));
      });
    std::mt19937 random(99);
    // One right after a flush loses nothing: until half of them have.
    for (int k = 0; k < kills || (server.lost() < kills / 2 && k < 10 * kills);
         ++k) {
      const std::uint64_t before = done;
      const std::uint64_t more = random() % 400;
      EXPECT_TRUE(
          eventually([&] { return done >= before + more; }, seconds(9)));
      server.kill();
      server.restart();
      EXPECT_TRUE(eventually(
          [&] { return w.counters->reconnects > static_cast<unsigned>(k); },
          seconds(9)));
    }
    stop = true;
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(failed, 0);
  EXPECT_GE(server.lost(), kills / 2);  // the fault fired
  EXPECT_GE(w.counters->reconnects, static_cast<unsigned>(kills));
  EXPECT_GT(w.counters->replayed_bytes, 0U);
  EXPECT_LT(longest_ms, milliseconds(kDeadline).count());
  EXPECT_TRUE(w.disk->flush().ok());
  EXPECT_EQ(server.durable(), server.cached());
}

}  // namespace
}  // namespace nbd_remap
