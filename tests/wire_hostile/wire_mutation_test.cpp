// SPDX-License-Identifier: BSD-3-Clause
// Sessions that a seed has spoilt (wire_session.hpp), thousands of them: each
// ends within the bound, no other client notices, nothing is left behind
// (contract C14).
//
//   NBD_REMAP_WIRE_SEED      the first seed; a failure prints its own
//   NBD_REMAP_WIRE_SESSIONS  how many (1500; 20000 by NBD_REMAP_LONG=1)

#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>

#include "tests/wire_hostile/wire_fixture.hpp"
#include "tests/wire_hostile/wire_session.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSize = 16 << 20;

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// How a client leaves: after the last reply, in the middle of them, at once.
enum class Leaves { last, amid, at_once };

// Sends and receives at once, so that neither side waits for the other. False:
// the server neither took nor gave anything, nor ended, for 30 s.
bool play(RawClient& client, const std::string& bytes, Leaves leaves,
          std::uint64_t* received) {
  std::size_t sent = 0;
  std::string sink(1 << 20, '\0');
  bool writing = true;
  for (;;) {
    if (writing && sent == bytes.size()) {
      ::shutdown(client.fd(), SHUT_WR);
      writing = false;
      if (leaves == Leaves::at_once) return true;
    }
    pollfd p{client.fd(), static_cast<short>(POLLIN | (writing ? POLLOUT : 0)),
             0};
    if (::poll(&p, 1, 30'000) != 1) return false;
    if (writing && p.revents & POLLOUT) {
      const ssize_t n =
          ::send(client.fd(), bytes.data() + sent, bytes.size() - sent,
                 MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0)
        sent += static_cast<std::size_t>(n);
      else
        writing = false;  // the server has ended the connection
    }
    if (p.revents & ~POLLOUT) {
      const ssize_t n =
          ::recv(client.fd(), sink.data(), sink.size(), MSG_DONTWAIT);
      if (n <= 0) return true;
      *received += static_cast<std::uint64_t>(n);
      if (leaves == Leaves::amid && !writing) return true;
    }
  }
}

class WireMutation : public HostileWire {};

TEST_F(WireMutation, no_session_harms_another_one) {
  auto world = make_world(kSize);
  const std::uint64_t first = setting("NBD_REMAP_WIRE_SEED", 1);
  const std::uint64_t count =
      setting("NBD_REMAP_WIRE_SESSIONS", in_long_form(20'000, 1'500));
  std::uint64_t received = 0;
  const std::uint64_t reads = world->volume->show()["requests"]["read"];
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    std::mt19937_64 random(seed);
    Session session = make_session(random, kSize);
    // Some stay whole: those must be heard to the end.
    if (seed % 16 != 0) mutate(random, session);
    const auto leaves = static_cast<Leaves>(random() % 3);
    {
      RawClient client(world->volume->socket());
      ASSERT_TRUE(play(client, bytes_of(session), leaves, &received))
          << "seed " << seed << " hangs";
    }
    if (seed % 50 == 0) {
      ASSERT_NO_FATAL_FAILURE(check_old(*world)) << "seed " << seed;
    }
  }
  check_world(*world);
  std::cout << count << " sessions, " << received << " bytes of replies\n";
  // They got as far as the volume.
  EXPECT_GE(world->volume->show()["requests"]["read"], reads + count / 20);
  EXPECT_GE(received, count * 100);
  end_world(world);
}

// What tests/fuzz/wire keeps. It begins in the first 32 blocks: they are bad,
// and, as sessions heal them, bad again after some.
TEST_F(WireMutation, no_session_that_was_kept_harms_another_one) {
  std::set<std::filesystem::path> files;
  for (const auto& file : std::filesystem::directory_iterator(WIRE_CORPUS))
    files.insert(file.path());
  EXPECT_GE(files.size(), 50U);
  std::unique_ptr<World> world;
  std::uint64_t received = 0;
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  const auto finish = [&] {
    check_world(*world);
    reads += world->disk->fired("read");
    writes += world->disk->fired("write");
    end_world(world);
  };
  std::size_t count = 0;
  for (const auto& file : files) {
    if (!world) world = make_world(kSize, "bad=0-255");
    std::ifstream in(file, std::ios::binary);
    const std::string session(std::istreambuf_iterator<char>(in), {});
    for (const Leaves leaves : {Leaves::last, Leaves::amid, Leaves::at_once}) {
      RawClient client(world->volume->socket());
      ASSERT_TRUE(play(client, session, leaves, &received)) << file << " hangs";
    }
    if (++count % 8 == 0) finish();
  }
  if (world) finish();
  EXPECT_GE(received, count * 100);
  EXPECT_GE(reads, count);
  EXPECT_GE(writes, count);
}

TEST(WireSession, a_seed_is_a_session_to_the_byte) {
  for (std::uint64_t seed = 1; seed < 50; ++seed) {
    std::mt19937_64 a(seed);
    std::mt19937_64 b(seed);
    Session one = make_session(a, kSize);
    Session two = make_session(b, kSize);
    mutate(a, one);
    mutate(b, two);
    EXPECT_EQ(bytes_of(one), bytes_of(two));
  }
}

}  // namespace
}  // namespace nbd_remap
