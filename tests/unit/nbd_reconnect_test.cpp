// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend over a server that goes away and comes back (contract C1).
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

constexpr std::uint16_t kWrite = 1;

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

}  // namespace
}  // namespace nbd_remap
