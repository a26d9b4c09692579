// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend when the server fails, dies, hangs or never answers.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "tests/unit/fake_nbd_server.hpp"
#include "tests/unit/nbd_test_tools.hpp"
#include "tests/unit/nbdkit_server.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

TEST(NbdFaults, an_error_reply_is_classified_by_its_errno) {
  struct Row {
    const char* errnum;
    ErrorClass error_class;
  };
  for (const Row& row :
       {Row{"EIO", ErrorClass::medium}, Row{"ENOSPC", ErrorClass::full},
        Row{"ENOMEM", ErrorClass::full}, Row{"EPERM", ErrorClass::full},
        Row{"EINVAL", ErrorClass::bug},
        Row{"ESHUTDOWN", ErrorClass::transport}}) {
    const NbdkitServer server({"--filter=log", "--filter=error", "memory", "1M",
                               std::string("error=") + row.errnum,
                               "error-rate=100%", "error-file=@DIR@/fail",
                               "logfile=@DIR@/log"});
    // A server that says it is shutting down is waited for.
    const bool waits = row.error_class == ErrorClass::transport;
    const auto disk =
        open_nbd(server.uri(), waits ? milliseconds(300) : seconds(20));
    const auto data = pattern(512, 1);
    ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
    std::ofstream(server.file("fail")).put('x');
    std::vector<std::byte> buffer(512);
    const Status read = disk->read({0}, buffer);
    const Status written = disk->write({0}, data, Durability::cached);
    ASSERT_FALSE(read.ok());
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(read.error().error_class, row.error_class) << row.errnum;
    EXPECT_EQ(written.error().error_class, row.error_class) << row.errnum;
    EXPECT_NE(read.error().place.find("read 512 bytes at 0"),
              std::string::npos);
    // The fault fired, and a connection outlived it.
    EXPECT_GE(server.logged("return=-1"), 2) << server.log();
    EXPECT_EQ(server.logged(" Connect ") > 4, waits) << server.log();
    std::filesystem::remove(server.file("fail"));
    EXPECT_TRUE(eventually([&] { return reads_as(*disk, 0, data); }));
  }
}

TEST(NbdFaults, a_killed_server_fails_what_waits_in_time_and_the_rest_at_once) {
  NbdkitServer server({"-t", "8", "--filter=log", "--filter=delay", "memory",
                       "1M", "rdelay=60", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri(), seconds(1));
  std::vector<Status> results(8);
  std::vector<steady_clock::duration> took(8);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < results.size(); ++t)
      threads.emplace_back([&, t] {
        std::vector<std::byte> buffer(4096);
        const auto start = steady_clock::now();
        results[t] = disk->read({t * 4096}, buffer);
        took[t] = steady_clock::now() - start;
      });
    EXPECT_TRUE(eventually([&] { return server.logged(" Read id=") == 8; }))
        << server.log();
    server.kill();
  }
  for (std::size_t t = 0; t < results.size(); ++t) {
    ASSERT_FALSE(results[t].ok());
    EXPECT_EQ(results[t].error().error_class, ErrorClass::transport);
    EXPECT_LT(took[t], milliseconds(1500));
  }
  // It has been down for the whole time-out.
  EXPECT_TRUE(eventually([&] {
    const auto start = steady_clock::now();
    const Status flushed = disk->flush();
    return !flushed.ok() && steady_clock::now() - start < milliseconds(50);
  }));
  const auto later = steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    const Status flushed = disk->flush();
    ASSERT_FALSE(flushed.ok());
    EXPECT_EQ(flushed.error().error_class, ErrorClass::transport);
    EXPECT_NE(flushed.error().place.find("no connection for"),
              std::string::npos)
        << flushed.error().place;
  }
  EXPECT_LT(steady_clock::now() - later, seconds(1));
}

TEST(NbdFaults, a_server_that_hangs_is_given_up_at_the_deadline) {
  const NbdkitServer server({"memory", "1M"});
  const auto disk = open_nbd(server.uri(), milliseconds(300));
  server.hang();
  std::vector<std::byte> buffer(65536, std::byte{0x5A});
  const auto start = steady_clock::now();
  const Status result = disk->read({0}, buffer);
  const auto took = steady_clock::now() - start;
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().error_class, ErrorClass::transport);
  EXPECT_EQ(result.error().errnum, ETIMEDOUT);
  EXPECT_GE(took, milliseconds(300));
  EXPECT_LT(took, seconds(2));
  server.go_on();
  EXPECT_TRUE(eventually([&] { return disk->flush().ok(); }));
  EXPECT_EQ(std::count(buffer.begin(), buffer.end(), std::byte{0x5A}), 65536);
}

// Mistake 25
TEST(NbdFaults, a_late_answer_does_not_touch_the_buffer) {
  std::promise<void> caller_was_told;
  auto told = caller_was_told.get_future().share();
  const FakeNbdServer server({}, [told](const FakeRequest& request) {
    told.wait_for(seconds(10));
    if (request.type != 0) return simple_reply(request, 0);
    return structured_reply(request, 1,
                            WireBytes()
                                .u64(request.offset)
                                .text(std::string(request.length, 'x'))
                                .bytes);
  });
  const auto disk = open_nbd(server.uri(), milliseconds(200));
  std::vector<std::byte> buffer(65536);
  const Status result = disk->read({0}, buffer);
  std::fill(buffer.begin(), buffer.end(), std::byte{0x5A});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().errnum, ETIMEDOUT);
  EXPECT_EQ(server.requests(), 1);
  EXPECT_EQ(server.answers(), 0);
  caller_was_told.set_value();
  EXPECT_TRUE(eventually([&] { return server.answers() == 1; }));
  // Answered over other connections.
  EXPECT_TRUE(eventually([&] { return disk->flush().ok(); }));
  EXPECT_EQ(std::count(buffer.begin(), buffer.end(), std::byte{0x5A}), 65536);
}

TEST(NbdFaults, closing_does_not_wait_long_for_a_server_that_hangs) {
  const NbdkitServer server({"memory", "1M"});
  auto disk = open_nbd(server.uri());
  server.hang();
  const auto start = steady_clock::now();
  disk.reset();
  const auto took = steady_clock::now() - start;
  EXPECT_GE(took, seconds(1));  // it did hang
  EXPECT_LT(took, seconds(4));
}

TEST(NbdFaults, one_lost_connection_of_several_takes_them_all_down) {
  // memory promises multi-conn, so there are four.
  const NbdkitServer server(
      {"--filter=log", "memory", "1M", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  ASSERT_EQ(server.logged(" Connect "), 4);
  int cut = 0;
  for (int fd = 3; fd < 256 && cut == 0; ++fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
        domain == AF_UNIX && ::shutdown(fd, SHUT_RDWR) == 0)
      ++cut;
  }
  ASSERT_EQ(cut, 1);
  EXPECT_TRUE(eventually([&] {
    return disk->flush().ok() && server.logged(" Connect ") == 8;
  })) << server.log();
  EXPECT_TRUE(eventually([&] { return server.logged(" Disconnect ") == 4; }))
      << server.log();
}

TEST(NbdFaults, nobody_listening_is_an_error_at_once) {
  const ScratchDir dir;
  const auto disk = try_open("nbd+unix:///?socket=" + dir.file("none"));
  ASSERT_FALSE(disk.ok());
  EXPECT_EQ(disk.error().error_class, ErrorClass::transport);
  EXPECT_NE(disk.error().place.find("cannot connect"), std::string::npos);
}

TEST(NbdFaults, a_word_that_is_no_uri_is_the_callers_error) {
  for (const char* uri : {"nbd+unix:///x", "http://host/", "nbd+foo://x"}) {
    const auto disk = try_open(uri);
    ASSERT_FALSE(disk.ok()) << uri;
    EXPECT_EQ(disk.error().error_class, ErrorClass::caller)
        << disk.error().text();
    EXPECT_EQ(disk.error().text().find('\n'), std::string::npos);
  }
}

TEST(NbdFaults, a_handshake_that_never_comes_ends_in_time) {
  const FakeNbdServer server{std::string()};
  const auto start = steady_clock::now();
  const auto disk = try_open(server.uri(), milliseconds(300));
  ASSERT_FALSE(disk.ok());
  EXPECT_EQ(disk.error().errnum, ETIMEDOUT);
  EXPECT_EQ(disk.error().error_class, ErrorClass::transport);
  EXPECT_LT(steady_clock::now() - start, seconds(2));
  EXPECT_EQ(server.connections(), 1);
}

TEST(NbdFaults, a_size_that_cannot_be_used_is_refused_in_one_line) {
  for (const char* size : {"0", "1000"}) {
    const NbdkitServer server({"memory", size});
    const auto disk = try_open(server.uri());
    ASSERT_FALSE(disk.ok()) << size;
    EXPECT_NE(disk.error().place.find("multiple of 512"), std::string::npos)
        << disk.error().text();
  }
  const NbdkitServer server({"--filter=blocksize-policy", "memory", "1M",
                             "blocksize-minimum=64K",
                             "blocksize-preferred=64K"});
  const auto disk = try_open(server.uri());
  ASSERT_FALSE(disk.ok());
  EXPECT_NE(disk.error().place.find("minimum block size is 65536"),
            std::string::npos)
      << disk.error().text();
}

}  // namespace
}  // namespace nbd_remap
