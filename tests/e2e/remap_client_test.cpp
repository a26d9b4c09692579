// SPDX-License-Identifier: BSD-3-Clause
// Clients that vanish and clients that lie: one of them cannot stop another
// (contract C14).

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <thread>

#include "tests/e2e/harness.hpp"
#include "tests/e2e/raw_client.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMain = 16 << 20;

class RemapClient : public testing::Test {
 protected:
  RemapClient()
      : main_(dir_.make_file("main.img", kMain)),
        spare_(dir_.make_file("spare.img", 2 << 20)) {
    format(main_, spare_);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_, spare_);
    volume_->verbose = false;
    volume_->start();
    old_ = std::make_unique<Client>(volume_->uri());
    EXPECT_EQ(old_->write(kMain - 8192, pattern(99, 8192)), 0);
    pid_ = volume_->child().pid();
  }
  void old_connection_answers() {
    std::string data;
    ASSERT_EQ(old_->read(kMain - 8192, 8192, &data), 0) << volume_->log();
    ASSERT_TRUE(data == pattern(99, 8192));
    ASSERT_TRUE(volume_->child().running());
    ASSERT_EQ(volume_->show()["pid"], pid_);
  }
  std::size_t in_proc(const char* what) const {
    return count_entries("/proc/" + std::to_string(pid_) + "/" + what);
  }
  void TearDown() override {
    old_connection_answers();
    old_.reset();
    const Ended ended = volume_->stop();
    EXPECT_EQ(ended.code, 0) << ended.err;
  }
  ScratchDir dir_;
  std::string main_;
  std::string spare_;
  std::unique_ptr<RemapServer> volume_;
  std::unique_ptr<Client> old_;
  pid_t pid_ = 0;
};

TEST_F(RemapClient, hundreds_vanish_with_requests_in_flight) {
  const int clients = in_long_form(10'000, 300);
  const std::size_t threads = in_proc("task");
  const std::size_t descriptors = in_proc("fd");
  const std::string data = pattern(1, 65'536);
  for (int i = 0; i < clients; ++i) {
    RawClient c(volume_->socket());
    c.shake_hands();
    if (i % 3 == 0) {
      EXPECT_TRUE(c.ask_read(0, 262'144, 1 + i % 7));
    } else {
      for (int n = 0; n <= i % 5; ++n)
        EXPECT_TRUE(c.ask(0, 1, 0, 65'536, data));  // NBD_CMD_WRITE
      // Half a request, and gone.
      EXPECT_TRUE(c.ask(0, 1, 0, 65'536, data.substr(0, 1000)));
    }
    if (i % 2) c.receive(16);  // it is at work on them
    if (i % 100 == 99) old_connection_answers();
  }
  // Contract L5: neither threads nor descriptors are left behind.
  EXPECT_TRUE(eventually([&] {
    return in_proc("task") <= threads && in_proc("fd") <= descriptors;
  })) << in_proc("task")
      << " " << threads << " " << in_proc("fd") << " " << descriptors;
}

TEST_F(RemapClient, libnbd_clients_are_killed_at_work) {
  const std::string image = dir_.make_file("image", kMain);
  std::filesystem::resize_file(image, kMain - 8192);
  for (int i = 0; i < in_long_form(500, 30); ++i) {
    const Words words =
        i % 2 ? Words{"nbdcopy", "--connections=4", image, volume_->uri()}
              : Words{"nbdcopy", "--connections=4", volume_->uri(), "null:"};
    const std::uint64_t before = volume_->show()["in_flight"];
    Child copy(words);
    eventually(
        [&] {
          return !copy.running() || volume_->show()["in_flight"] > before;
        },
        50ms);
    copy.send(SIGKILL);
    copy.wait(10s);
  }
}

TEST_F(RemapClient, some_leave_in_the_middle_of_the_handshake) {
  for (int i = 0; i < 300; ++i) {
    RawClient c(volume_->socket());
    if (i % 3 == 1) {
      EXPECT_TRUE(c.send(std::string(1 + i % 20, '\3')));
    }
    if (i % 3 == 2) {
      c.receive(18);
      EXPECT_TRUE(c.send(std::string("\0\0\0\3IHAVEOPT\0\0\0\7", 16)));
    }
  }
}

// The option phase: names and lengths that no one should believe.
TEST_F(RemapClient, some_lie_in_the_handshake) {
  for (const std::uint32_t length :
       {0U, 1U, 256U, 4096U, 4097U, 0x8000'0000U, 0xFFFF'FFFFU})
    for (unsigned char option = 0; option < 12; ++option) {
      RawClient c(volume_->socket());
      ASSERT_EQ(c.receive(18).size(), 18U);
      std::string text("\0\0\0\3IHAVEOPT\0\0\0", 15);
      text += static_cast<char>(option);
      for (int shift = 24; shift >= 0; shift -= 8)
        text += static_cast<char>(length >> shift);
      text += std::string(std::min(length, 4097U), 'x');
      c.send(text);
    }
}

TEST_F(RemapClient, one_that_does_not_read_delays_nobody) {
  RawClient c(volume_->socket());
  c.shake_hands();
  while (c.ask_read(0, 1 << 20)) {
  }
  RawClient half(volume_->socket());
  half.shake_hands();
  EXPECT_TRUE(half.ask(0, 1, 0, 65'536, "x"));  // the rest never comes
  const Client other(volume_->uri());
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(other.write(0, pattern(3, 65'536)), 0);
    ASSERT_EQ(other.flush(), 0);
  }
}

TEST_F(RemapClient, a_request_that_makes_no_sense_is_refused) {
  RawClient c(volume_->socket());
  c.shake_hands();
  EXPECT_TRUE(c.ask(0, 77, 0, 512));  // no such command
  EXPECT_EQ(c.receive(16).substr(4, 4), std::string("\0\0\0\x16", 4));
  EXPECT_TRUE(c.ask(0xFF00, 0, 0, 512));  // no such flags
  EXPECT_EQ(c.receive(16).substr(4, 4), std::string("\0\0\0\x16", 4));
  EXPECT_TRUE(c.ask_read(0, 512));
  EXPECT_EQ(c.receive(16 + 512).size(), 528U);
  RawClient huge(volume_->socket());
  huge.shake_hands();
  huge.ask_read(0, 0xFFFF'FFFF);
  huge.ask(0, 1, 0, 0xFFFF'FFFF, "x");
  RawClient noise(volume_->socket());
  noise.shake_hands();
  noise.send(pattern(4, 4096));
}

}  // namespace
}  // namespace nbd_remap
