// SPDX-License-Identifier: BSD-3-Clause
// kill -9 at any moment is an ordinary way to stop (contract L4, C2, C3).

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <random>
#include <thread>

#include "tests/e2e/block_writer.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlocks = 2048;
constexpr unsigned kWriters = 4;

TEST(RemapCrash, killed_under_load_again_and_again_loses_nothing_flushed) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchDir dir;
  const std::string image = dir.make_file("main.img", kBlocks * kWrittenBlock);
  const std::string spare = dir.make_file("spare.img", 16 << 20);
  const BadDisk disk(
      dir, "disk", image,
      {"bad-percent=2", "mode=write", "seed=" + std::to_string(seed % 1000)});
  format(disk.uri(), spare);
  RemapServer volume(dir, "volume", disk.uri(), spare);
  volume.verbose = false;
  const BlockWriters writers = make_writers(kWriters, kBlocks, seed);
  const int cycles = in_long_form(1'000, 20);
  std::uint64_t remapped = 0;
  std::uint64_t durable = 0;
  std::vector<std::chrono::duration<double, std::milli>> serving;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    const auto began = std::chrono::steady_clock::now();
    volume.start();
    ASSERT_EQ(Client(volume.uri()).read(0, 1, nullptr), 0);
    serving.push_back(std::chrono::steady_clock::now() - began);
    const std::uint64_t now = volume.show()["blocks"]["remapped"];
    EXPECT_GE(now, remapped);  // a durable mapping is never lost
    // What was read is what is there; the next numbers go on from it.
    verify_blocks(Client(volume.uri()), writers, &durable);
    ASSERT_FALSE(testing::Test::HasFatalFailure()) << "cycle " << cycle;
    std::vector<std::thread> threads;
    const std::uint64_t begin = writers[0]->done;
    for (const auto& writer : writers)
      threads.emplace_back(
          [&writer, c = Client(volume.uri())] { writer->work(c); });
    const std::uint64_t target = begin + 20 + random() % 150;
    EXPECT_TRUE(eventually([&] { return writers[0]->done > target; }));
    remapped = volume.show()["blocks"]["remapped"];
    volume.kill();
    for (std::thread& t : threads) t.join();
  }
  std::sort(serving.begin(), serving.end());
  std::cout << fmt::format(
      "serving again {:.0f} ms after its start (median), {:.0f} ms (p99)\n",
      serving[serving.size() / 2].count(),
      serving[serving.size() * 99 / 100].count());
  EXPECT_GT(durable, 100U);
  EXPECT_GT(remapped, 20U);
  EXPECT_GT(disk.fired("write"), 20U);
  volume.start();
  EXPECT_EQ(volume.stop().code, 0);
  EXPECT_TRUE(survey(spare).chosen().closed);
}

// Contract L1, mistake 10: a remapped block is right from the first moment.
TEST(RemapCrash, a_client_that_connects_at_once_sees_the_map) {
  const ScratchDir dir;
  const std::string image = dir.make_file("main.img", 4 << 20);
  const std::string spare = dir.make_file("spare.img", 4 << 20);
  const BadDisk disk(dir, "disk", image, {"bad=0-63:write"});
  format(disk.uri(), spare);
  RemapServer volume(dir, "volume", disk.uri(), spare);
  volume.start();
  ASSERT_EQ(Client(volume.uri()).write(0, pattern(8, 32'768)), 0);
  disk.heal({{"all", true}});  // MAIN would now answer, with old content
  for (int i = 0; i < 10; ++i) {
    volume.kill();
    volume.start();
    std::string data;
    ASSERT_EQ(Client(volume.uri()).read(0, 32'768, &data), 0);
    ASSERT_TRUE(data == pattern(8, 32'768));
  }
  EXPECT_EQ(volume.show()["blocks"]["remapped"], 8);
  EXPECT_EQ(volume.stop().code, 0);
}

}  // namespace
}  // namespace nbd_remap
