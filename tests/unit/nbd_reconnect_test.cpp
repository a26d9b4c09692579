// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend over a server that goes away, comes back, and has lost what
// was not flushed (contract C1, C2, C12).
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

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr std::uint32_t kNbdEio = 5;
constexpr std::uint16_t kWrite = 1;
constexpr std::uint16_t kFlush = 3;

// A backend with a log and counters that a test can look at.
struct Watched {
  explicit Watched(const std::string& uri, milliseconds deadline = seconds(10),
                   std::function<Status(Backend&)> hook = {}) {
    OpenOptions options;
    options.deadline = deadline;
    options.counters = counters;
    options.on_reconnect = std::move(hook);
    options.log = [this](LogLevel, std::string_view text) {
      std::lock_guard lock(mu);
      log += std::string(text) + "\n";
    };
    auto opened = open_nbd_backend(uri, options);
    if (!opened) throw std::runtime_error(opened.error().text());
    disk = *std::move(opened);
  }
  bool logged(const std::string& text) {
    std::lock_guard lock(mu);
    return log.find(text) != std::string::npos;
  }
  std::mutex mu;
  std::string log;
  std::shared_ptr<RemoteCounters> counters = std::make_shared<RemoteCounters>();
  std::unique_ptr<Backend> disk;
};

bool write_ok(Backend& disk, std::uint64_t at, ConstBytes data,
              Durability durability = Durability::cached) {
  return disk.write({at}, data, durability).ok();
}

TEST(NbdReconnect, a_request_waits_for_a_server_that_comes_back) {
  LossyServer server(1 << 20);
  Watched w(server.uri());
  const auto data = pattern(8192, 1);
  ASSERT_TRUE(write_ok(*w.disk, 4096, data));
  ASSERT_TRUE(w.disk->flush().ok());
  server.kill();
  EXPECT_TRUE(eventually([&] { return w.logged("connection lost"); }));
  EXPECT_FALSE(w.counters->connected);
  auto read = std::async(std::launch::async,
                         [&] { return reads_as(*w.disk, 4096, data); });
  server.restart();
  EXPECT_TRUE(read.get());
  EXPECT_EQ(w.counters->reconnects, 1U);
  EXPECT_TRUE(eventually([&] { return w.logged("s, 0 bytes written again"); }))
      << w.log;
  EXPECT_TRUE(w.counters->connected);
}

TEST(NbdReconnect, what_was_not_flushed_is_written_again) {
  LossyServer server(1 << 20);
  Watched w(server.uri());
  const auto a = pattern(65536, 1);
  const auto b = pattern(4096, 2);
  const auto c = pattern(4096, 3);
  ASSERT_TRUE(write_ok(*w.disk, 0, a));
  ASSERT_TRUE(w.disk->flush().ok());
  ASSERT_TRUE(write_ok(*w.disk, 4096, a));  // 4096..69632
  ASSERT_TRUE(
      w.disk->zero({8192}, 4096, ZeroMode::may_punch, Durability::cached).ok());
  ASSERT_TRUE(write_ok(*w.disk, 16384, b));
  ASSERT_TRUE(write_ok(*w.disk, 20480, c, Durability::fua));
  server.kill();
  ASSERT_EQ(server.lost(), 1);
  server.restart();
  EXPECT_TRUE(reads_as(*w.disk, 0, ConstBytes(a).first(4096)));
  EXPECT_TRUE(reads_as(*w.disk, 4096, ConstBytes(a).first(4096)));
  EXPECT_TRUE(reads_as(*w.disk, 8192, std::vector<std::byte>(4096)));
  EXPECT_TRUE(reads_as(*w.disk, 12288, ConstBytes(a).subspan(8192, 4096)));
  EXPECT_TRUE(reads_as(*w.disk, 16384, b));
  // Durable when it was acked, and newer than what is written again.
  EXPECT_TRUE(reads_as(*w.disk, 20480, c));
  EXPECT_TRUE(reads_as(*w.disk, 24576, ConstBytes(a).subspan(20480)));
  EXPECT_EQ(w.counters->replayed_bytes, 65536U - 4096);
  ASSERT_TRUE(w.disk->flush().ok());
  server.kill();
  EXPECT_EQ(server.lost(), 1);
  server.restart();
  EXPECT_TRUE(reads_as(*w.disk, 16384, b));
  EXPECT_EQ(w.counters->reconnects, 2U);
  EXPECT_EQ(w.counters->replayed_bytes, 65536U - 4096);
}

TEST(NbdReconnect, an_ack_of_a_dead_server_does_not_count) {
  // The write is done there and its reply is cut off.
  std::atomic<int> writes{0};
  const FakeNbdServer server(
      {1 << 20, LossyServer::kFlags}, [&](const FakeRequest& request) {
        std::string reply = simple_reply(request, 0);
        if (request.type == kWrite && ++writes == 1)
          reply = reply.substr(0, 7) + std::string(kHangUp);
        return reply;
      });
  Watched w(server.uri());
  EXPECT_TRUE(write_ok(*w.disk, 0, pattern(4096, 1)));
  EXPECT_EQ(writes, 2);
  EXPECT_EQ(w.counters->reconnects, 1U);
  EXPECT_EQ(w.counters->replayed_bytes, 0U);
}

TEST(NbdReconnect, a_reply_cut_in_the_middle_is_asked_for_again) {
  for (const std::size_t keep : {1U, 19U, 20U, 28U, 5000U}) {
    std::atomic<int> reads{0};
    const FakeNbdServer server({1 << 20}, [&](const FakeRequest& request) {
      std::string reply =
          structured_reply(request, 1,
                           WireBytes()
                               .u64(request.offset)
                               .text(std::string(request.length, 'x'))
                               .bytes);
      if (++reads == 1) reply = reply.substr(0, keep) + std::string(kHangUp);
      return reply;
    });
    Watched w(server.uri());
    EXPECT_TRUE(
        reads_as(*w.disk, 512, std::vector<std::byte>(65536, std::byte('x'))));
    EXPECT_EQ(reads, 2) << keep;
    EXPECT_EQ(w.counters->reconnects, 1U);
  }
}

TEST(NbdReconnect, after_the_time_out_requests_fail_fast_until_it_is_back) {
  LossyServer server(1 << 20);
  Watched w(server.uri(), milliseconds(400));
  const auto data = pattern(4096, 1);
  ASSERT_TRUE(write_ok(*w.disk, 0, data));
  server.kill();
  const auto start = steady_clock::now();
  Status read = w.disk->flush();
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().error_class, ErrorClass::transport);
  EXPECT_GE(steady_clock::now() - start, milliseconds(300));
  EXPECT_LT(steady_clock::now() - start, milliseconds(900));
  const auto later = steady_clock::now();
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(write_ok(*w.disk, 512, data));
  EXPECT_LT(steady_clock::now() - later, milliseconds(300));
  EXPECT_TRUE(eventually([&] { return w.logged("requests fail until"); }));
  server.restart();
  EXPECT_TRUE(eventually([&] { return reads_as(*w.disk, 0, data); }));
  EXPECT_TRUE(w.disk->flush().ok());
  EXPECT_EQ(server.durable().substr(0, 4096),
            std::string(reinterpret_cast<const char*>(data.data()), 4096));
}

TEST(NbdReconnect, a_server_that_accepts_and_never_answers_is_left_in_time) {
  LossyServer server(1 << 20);
  std::atomic<bool> silent{false};
  std::atomic<int> held{0};
  server.fault = [&](const FakeRequest&) {
    if (silent) ++held;
    while (silent) std::this_thread::sleep_for(milliseconds(1));
    return 0U;
  };
  Watched w(server.uri(), milliseconds(300));
  const auto data = pattern(4096, 1);
  ASSERT_TRUE(write_ok(*w.disk, 0, data));
  silent = true;
  const auto start = steady_clock::now();
  std::vector<std::byte> buffer(4096);
  const Status result = w.disk->read({0}, buffer);
  EXPECT_EQ(result.error().errnum, ETIMEDOUT);
  EXPECT_EQ(result.error().error_class, ErrorClass::transport);
  EXPECT_LT(steady_clock::now() - start, seconds(1));
  EXPECT_GE(held, 1);
  silent = false;
  EXPECT_TRUE(eventually([&] { return reads_as(*w.disk, 0, data); }));
}

TEST(NbdReconnect, a_server_that_is_another_one_is_never_used) {
  struct Row {
    std::uint64_t size;
    std::uint16_t flags;
    const char* why;
  };
  for (const Row& row :
       {Row{2 << 20, LossyServer::kFlags, "its size is 2097152 now"},
        Row{1 << 19, LossyServer::kFlags, "its size is 524288 now"},
        Row{1 << 20, LossyServer::kFlags | 2, "read-only"},
        Row{1 << 20, LossyServer::kFlags & ~4, "FLUSH"},
        Row{1 << 20, LossyServer::kFlags & ~256, "multi-conn"}}) {
    LossyServer server(1 << 20);
    Watched w(server.uri());
    const auto data = pattern(4096, 1);
    ASSERT_TRUE(write_ok(*w.disk, 0, data));
    server.kill();
    server.restart(row.size, row.flags);
    const Status result = w.disk->flush();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().error_class, ErrorClass::transport);
    EXPECT_NE(result.error().place.find(row.why), std::string::npos)
        << result.error().text();
    EXPECT_TRUE(w.logged(row.why)) << w.log;
    EXPECT_EQ(server.server().requests(), 0);
    // For good, even if the right one comes back.
    server.kill();
    server.restart();
    EXPECT_FALSE(w.disk->flush().ok());
    EXPECT_EQ(server.server().connections(), 0);
  }
}

TEST(NbdReconnect, the_hook_reads_the_new_server_before_anything_is_written) {
  LossyServer server(1 << 20);
  std::atomic<int> looked{0};
  Status refusal;
  const auto mark = pattern(512, 7);
  Watched w(server.uri(), seconds(10), [&](Backend& fresh) -> Status {
    ++looked;
    EXPECT_EQ(server.server().requests(), 0);
    EXPECT_EQ(fresh.write({0}, mark, Durability::cached).error().errnum, EROFS);
    if (reads_as(fresh, 512, mark)) return {};
    return make_error(ErrorClass::caller, EBUSY, "another server has taken it");
  });
  ASSERT_TRUE(write_ok(*w.disk, 512, mark, Durability::fua));
  ASSERT_TRUE(write_ok(*w.disk, 4096, mark));
  EXPECT_EQ(looked, 0);
  server.kill();
  server.restart();
  EXPECT_TRUE(reads_as(*w.disk, 4096, mark));
  EXPECT_EQ(looked, 1);
  server.kill();
  server.scribble(512, "taken over");
  server.restart();
  const Status fenced = w.disk->flush();
  ASSERT_FALSE(fenced.ok());
  EXPECT_EQ(looked, 2);
  EXPECT_EQ(fenced.error().error_class, ErrorClass::transport);
  EXPECT_NE(fenced.error().place.find("another server has taken it"),
            std::string::npos);
  // Not one of the unflushed writes reached it.
  EXPECT_EQ(server.server().requests(), 1);
  EXPECT_EQ(server.cached().substr(4096, 8), std::string(8, '\0'));
}

TEST(NbdReconnect, a_hook_that_cannot_tell_yet_is_asked_again) {
  LossyServer server(1 << 20);
  std::atomic<int> looked{0};
  Watched w(server.uri(), seconds(10), [&](Backend&) -> Status {
    if (++looked < 3)
      return make_error(ErrorClass::transport, ETIMEDOUT, "not yet");
    return {};
  });
  server.kill();
  server.restart();
  EXPECT_TRUE(w.disk->flush().ok());
  EXPECT_EQ(looked, 3);
}

TEST(NbdReconnect, a_flush_that_failed_goes_on_failing) {
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

TEST(NbdReconnect, what_cannot_be_written_again_is_an_error_and_not_old) {
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

TEST(NbdReconnect, a_place_that_was_known_to_be_bad_does_not_fail_the_flush) {
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

TEST(NbdReconnect, the_journal_is_flushed_in_the_background_before_it_is_full) {
  LossyServer server(8 << 20);
  Watched w(server.uri());
  const auto data = pattern(1 << 20, 1);
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(write_ok(*w.disk, (i % 8) << 20, data));
  EXPECT_GE(server.flushes(), 1);
  EXPECT_TRUE(eventually([&] { return server.flushes() >= 2; }));
  EXPECT_FALSE(w.logged("connection lost"));
}

TEST(NbdReconnect, a_full_journal_makes_writes_wait_in_bounds) {
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
TEST(NbdReconnect, kills_under_a_verifying_load_lose_nothing) {
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
    for (int k = 0; k < kills; ++k) {
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
