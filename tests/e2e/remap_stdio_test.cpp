// SPDX-License-Identifier: BSD-3-Clause
// nbdkit -s: one client, which started the server and whose socket is the
// server's standard input (nbd_connect_command(3)). It listens on nothing, and
// nobody tells it to end (contract L2).

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>

#include "plugins/wire/http_client.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

class RemapStdio : public testing::Test {
 protected:
  RemapStdio() { format(main_, spare_); }

  // Started with the socket of a client that is through its handshake.
  void start() {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);
    ASSERT_EQ(::fcntl(ours.get(), F_SETFD, FD_CLOEXEC), 0);
    // The server finds it open too, and it is none of its own.
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    foreign_ = UniqueFd(ends[0]);
    foreign_peer_ = UniqueFd(ends[1]);
    const std::string n = std::to_string(theirs.get());
    server_ = std::make_unique<Child>(
        Words{"bash", "-c", "exec \"$@\" <&" + n + " >&" + n + " " + n + "<&-",
              "bash", nbdkit_program(), "-v", "-s", REMAP_PLUGIN, main_,
              "spare=" + spare_, "control=" + control_},
        nbdkit_environment());
    client_.reset(nbd_create());
    ASSERT_EQ(nbd_connect_socket(client_.get(), ours.release()), 0)
        << nbd_get_error();
    ASSERT_EQ(nbd_pwrite(client_.get(), data_.data(), data_.size(), 4096, 0), 0)
        << nbd_get_error();
    ASSERT_TRUE(std::filesystem::exists(control_));
  }

  // In time, nothing lost, nothing left behind.
  void expect_good_end() {
    const Ended ended = server_->wait(20s);
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_LT(ended.took, promised_stop()) << ended.err;
    EXPECT_EQ(count_of(ended.err, "marked clean"), 1U) << ended.err;
    EXPECT_FALSE(std::filesystem::exists(control_));
    EXPECT_EQ(::send(foreign_.get(), "x", 1, MSG_NOSIGNAL), 1);
    std::ifstream main(main_, std::ios::binary);
    std::string found(4096 + data_.size(), '\0');
    EXPECT_TRUE(
        main.read(found.data(), static_cast<std::streamsize>(found.size())));
    EXPECT_EQ(found.substr(4096), data_);
  }

  ScratchDir dir_;
  const std::string main_ = dir_.make_file("main.img", 8 << 20);
  const std::string spare_ = dir_.make_file("spare.img", 2 << 20);
  const std::string control_ = dir_.file("ctl");
  const std::string data_ = pattern(1, 4096);
  UniqueFd foreign_;
  UniqueFd foreign_peer_;
  std::unique_ptr<Child> server_;
  std::unique_ptr<nbd_handle, decltype(&nbd_close)> client_{nullptr, nbd_close};
};

TEST_F(RemapStdio, ends_when_its_client_says_goodbye) {
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_EQ(nbd_shutdown(client_.get(), 0), 0);
  expect_good_end();
}

TEST_F(RemapStdio, ends_when_its_client_vanishes) {
  ASSERT_NO_FATAL_FAILURE(start());
  client_.reset();
  expect_good_end();
}

TEST_F(RemapStdio, ends_when_told_to_with_a_client_that_says_nothing) {
  ASSERT_NO_FATAL_FAILURE(start());
  server_->send(SIGTERM);
  expect_good_end();
}

TEST_F(RemapStdio, ends_when_its_control_socket_is_told_to) {
  ASSERT_NO_FATAL_FAILURE(start());
  const auto volumes = http_request(control_, "GET", "/v1/volumes", "", {10s});
  ASSERT_TRUE(volumes && volumes->status == 200);
  const std::string name = json::parse(volumes->body)["volumes"][0]["name"];
  const auto told =
      http_request(control_, "POST",
                   "/v1/volumes/" + percent_encode(name) + "/stop", "", {10s});
  ASSERT_TRUE(told && told->status == 202);
  expect_good_end();
}

// The other way: libnbd opens the socket that the server listens on, ends the
// server and waits for it.
TEST_F(RemapStdio, a_program_that_starts_its_own_server_comes_back) {
  Words words{"nbdinfo", "--size",          "--",
              "[",       nbdkit_program(),  REMAP_PLUGIN,
              main_,     "spare=" + spare_, "]"};
  const Words environment = nbdkit_environment();
  if (!environment.empty()) {
    words.insert(words.begin() + 4, environment.begin(), environment.end());
    words.insert(words.begin() + 4, "env");
  }
  const Ended ended = run(words, 20s);
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.out, std::to_string(8 << 20) + "\n");
}

}  // namespace
}  // namespace nbd_remap
