// SPDX-License-Identifier: BSD-3-Clause
// The faults of nbdkit-baddisk-plugin.so that take time or take the whole
// device, in the real nbdkit, as its clients see them. Mistake 56: where no
// fault was asked for, all is as it should be.

#include <gtest/gtest.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <future>
#include <map>
#include <random>
#include <sstream>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;
constexpr std::uint64_t kSize = 1 << 20;

class BaddiskFaults : public testing::Test {
 protected:
  BaddiskFaults() : image_(dir_.make_file("disk.img", kSize)) {}
  std::unique_ptr<BadDisk> start(const Words& words = {}) {
    return std::make_unique<BadDisk>(dir_, "disk", image_, words);
  }
  std::string image() const {
    std::ifstream in(image_, std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();
    return all.str();
  }

  ScratchDir dir_;
  const std::string image_;
};

std::chrono::milliseconds time_of(const std::function<void()>& work) {
  const auto began = steady_clock::now();
  work();
  return std::chrono::duration_cast<std::chrono::milliseconds>(
      steady_clock::now() - began);
}

TEST_F(BaddiskFaults, slow_sectors_are_slow_and_hold_nobody_else_up) {
  const auto disk = start({"slow=8-15", "slow-ms=700"});
  const Client slow(disk->uri());
  const Client other(disk->uri());
  EXPECT_GE(time_of([&] { EXPECT_EQ(slow.read(15 * 512, 4096, nullptr), 0); }),
            700ms);
  EXPECT_EQ(disk->fired("slow"), 1U);
  auto reading = std::async(std::launch::async, [&] {
    return time_of([&] { EXPECT_EQ(slow.write(8 * 512, pattern(1, 512)), 0); });
  });
  ASSERT_TRUE(eventually([&] { return disk->fired("slow") == 2; }));
  // Meanwhile the neighbours answer, many times over.
  int answered = 0;
  while (reading.wait_for(0ms) != std::future_status::ready) {
    EXPECT_EQ(other.read(7 * 512, 512, nullptr), 0);
    EXPECT_EQ(other.write(16 * 512, pattern(2, 512)), 0);
    ++answered;
  }
  EXPECT_GE(reading.get(), 700ms);
  EXPECT_GE(answered, 10);
  EXPECT_EQ(disk->fired("slow"), 2U);
  disk->post("slow", {{"ranges", "0-2047"}, {"delay_ms", 0}});
  EXPECT_EQ(slow.read(8 * 512, 4096, nullptr), 0);
  EXPECT_EQ(disk->fired("slow"), 2U);
  EXPECT_EQ(disk->state()["slow"], json::array());
}

TEST_F(BaddiskFaults, a_stop_does_not_wait_for_a_slow_sector) {
  const auto disk = start({"slow=0", "slow-ms=600000"});
  const Client c(disk->uri());
  auto reading =
      std::async(std::launch::async, [&] { return c.read(0, 512, nullptr); });
  ASSERT_TRUE(eventually([&] { return disk->fired("slow") == 1; }));
  const Ended ended = disk->stop();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_LT(ended.took, 5s);
  EXPECT_NE(reading.get(), 0);
}

TEST_F(BaddiskFaults, a_dead_device_fails_everything_until_it_is_revived) {
  const auto disk = start({"die-after=3", "die-errno=ESHUTDOWN"});
  const Client c(disk->uri());
  ASSERT_EQ(c.write(0, pattern(1, 4096)), 0);
  EXPECT_EQ(c.read(0, 4096, nullptr), 0);
  EXPECT_EQ(c.flush(), 0);
  EXPECT_EQ(c.read(0, 4096, nullptr), ESHUTDOWN);
  EXPECT_EQ(c.write(0, "x"), ESHUTDOWN);
  EXPECT_EQ(c.zero(0, 4096), ESHUTDOWN);
  EXPECT_EQ(c.flush(), ESHUTDOWN);
  EXPECT_EQ(Client(disk->uri()).read(0, 1, nullptr), ESHUTDOWN);
  EXPECT_EQ(disk->fired("dead"), 5U);
  disk->post("revive");
  std::string data;
  EXPECT_EQ(c.read(0, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(1, 4096));
  disk->post("die", {{"errno", "EIO"}});
  EXPECT_EQ(c.read(0, 4096, nullptr), EIO);
  EXPECT_EQ(disk->fired("dead"), 6U);
}

// Mistake 31
TEST_F(BaddiskFaults,
       a_hung_device_answers_when_it_is_told_and_can_be_stopped) {
  const auto disk = start();
  std::vector<Client> clients;
  for (int i = 0; i < 4; ++i) clients.emplace_back(disk->uri());
  const auto ask_all = [&] {
    std::vector<std::future<int>> answers;
    for (const Client& c : clients)
      answers.push_back(std::async(
          std::launch::async, [&c] { return c.write(0, pattern(1, 512)); }));
    EXPECT_TRUE(
        eventually([&] { return disk->state()["device"]["waiting"] == 4; }));
    return answers;
  };
  disk->post("hang");
  auto answers = ask_all();
  for (auto& answer : answers)
    EXPECT_EQ(answer.wait_for(0ms), std::future_status::timeout);
  EXPECT_EQ(disk->fired("hung"), 4U);
  disk->post("unhang");
  for (auto& answer : answers) EXPECT_EQ(answer.get(), 0);
  EXPECT_EQ(disk->state()["device"]["waiting"], 0);
  EXPECT_EQ(clients[0].flush(), 0);

  disk->post("hang");
  answers = ask_all();
  const Ended ended = disk->stop();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_LT(ended.took, 5s);
  for (auto& answer : answers) EXPECT_NE(answer.get(), 0);
}

TEST_F(BaddiskFaults, rot_is_silent_and_its_neighbours_are_sound) {
  auto disk = start({"rot=5,9-10", "rot-bits=3", "seed=4"});
  std::string before;
  {
    const Client c(disk->uri());
    ASSERT_EQ(c.write(0, pattern(6, kSize)), 0);
    std::string data;
    ASSERT_EQ(c.read(0, kSize, &data), 0);
    const std::string right = pattern(6, kSize);
    std::map<std::uint64_t, int> turned;
    for (std::uint64_t i = 0; i < kSize; ++i)
      if (data[i] != right[i])
        turned[i / 512] += std::popcount(static_cast<unsigned>(
            static_cast<unsigned char>(data[i] ^ right[i])));
    EXPECT_EQ(turned, (std::map<std::uint64_t, int>{{5, 3}, {9, 3}, {10, 3}}));
    EXPECT_EQ(disk->fired("rot"), 1U);
    std::string again;
    ASSERT_EQ(c.read(0, kSize, &again), 0);
    EXPECT_TRUE(again == data);
    EXPECT_TRUE(image() == right);
    // In the file, it lasts and is mended by a write.
    disk->post("rot", {{"ranges", "5,9-10"}, {"bits", 0}});
    disk->post("rot", {{"ranges", "100"}, {"in_file", true}});
    EXPECT_EQ(disk->fired("rot_in_file"), 1U);
  }
  EXPECT_EQ(disk->stop().code, 0);
  std::string expected = pattern(6, kSize);
  std::string found = image();
  EXPECT_FALSE(found.substr(100 * 512, 512) == expected.substr(100 * 512, 512));
  disk = start();
  {
    const Client c(disk->uri());
    std::string data;
    ASSERT_EQ(c.read(0, kSize, &data), 0);
    EXPECT_TRUE(data == found);
    ASSERT_EQ(c.write(100 * 512, expected.substr(100 * 512, 512)), 0);
    ASSERT_EQ(c.read(0, kSize, &data), 0);
    EXPECT_TRUE(data == expected);
  }
  EXPECT_EQ(disk->stop().code, 0);
}

// Contract C2: writes, FUA and flush over the wire, against a model, and a cut
// of each kind again and again.
TEST_F(BaddiskFaults, what_was_flushed_survives_every_cut) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto disk = start({"write-cache=64K"});
  constexpr std::uint64_t kSectors = 256;
  std::vector<std::vector<std::uint64_t>> allowed(kSectors, {0});
  const auto stamped = [](std::uint64_t count, std::uint64_t number) {
    std::string data(count * 512, '\0');
    for (std::uint64_t i = 0; i < count; ++i)
      std::memcpy(data.data() + i * 512, &number, sizeof number);
    return data;
  };
  std::uint64_t number = 0;
  const char* const kinds[] = {"all", "lost", "reordered", "torn"};
  for (int cycle = 0; cycle < 60; ++cycle) {
    const Client c(disk->uri());
    for (std::uint64_t step = random() % 60; step > 0; --step) {
      const std::uint64_t at = random() % kSectors;
      const std::uint64_t count =
          1 + random() % std::min<std::uint64_t>(kSectors - at, 24);
      if (random() % 12 == 0) {
        ASSERT_EQ(c.flush(), 0);
        for (auto& versions : allowed) versions = {versions.back()};
      }
      const bool fua = random() % 12 == 0;
      ++number;
      ASSERT_EQ(c.write(at * 512, stamped(count, number),
                        fua ? LIBNBD_CMD_FLAG_FUA : 0),
                0);
      for (std::uint64_t i = at; i < at + count; ++i) {
        if (fua) allowed[i].clear();
        allowed[i].push_back(number);
      }
    }
    disk->post("cut", {{"kind", kinds[cycle % 4]}, {"seed", random() % 1000}});
    ASSERT_EQ(c.read(0, 512, nullptr), ESHUTDOWN);
    ASSERT_EQ(Client(disk->uri()).flush(), ESHUTDOWN);
    disk->post("power-on");
    std::string data;
    ASSERT_EQ(c.read(0, kSectors * 512, &data), 0);
    for (std::uint64_t i = 0; i < kSectors; ++i) {
      std::uint64_t found = 0;
      std::memcpy(&found, data.data() + i * 512, sizeof found);
      ASSERT_NE(std::find(allowed[i].begin(), allowed[i].end(), found),
                allowed[i].end())
          << "cycle " << cycle << " sector " << i << " holds write " << found;
      allowed[i] = {found};
    }
  }
  const json cache = disk->state()["write_cache"];
  EXPECT_EQ(cache["cuts"], 60);
  EXPECT_GT(cache["sectors_lost"], 100);
  EXPECT_GT(cache["sectors_kept"], 100);
  EXPECT_GT(cache["destaged"], 0);
  EXPECT_EQ(disk->fired("no_power"), 120U);
}

TEST_F(BaddiskFaults,
       an_orderly_end_keeps_what_was_not_flushed_a_kill_does_not) {
  auto disk = start({"write-cache=1M"});
  ASSERT_EQ(Client(disk->uri()).write(0, pattern(1, 65'536)), 0);
  EXPECT_EQ(disk->state()["write_cache"]["held_bytes"], 65'536);
  EXPECT_TRUE(image() == std::string(kSize, '\0'));
  EXPECT_EQ(disk->stop().code, 0);
  EXPECT_TRUE(image().substr(0, 65'536) == pattern(1, 65'536));
  disk = start({"write-cache=1M"});
  ASSERT_EQ(Client(disk->uri()).write(0, pattern(2, 65'536)), 0);
  disk->kill();
  EXPECT_TRUE(image().substr(0, 65'536) == pattern(1, 65'536));
}

}  // namespace
}  // namespace nbd_remap
