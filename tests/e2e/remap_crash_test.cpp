// SPDX-License-Identifier: BSD-3-Clause
// kill -9 at any moment is an ordinary way to stop (contract L4, C2, C3).

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kBlocks = 2048;
constexpr unsigned kWriters = 4;

// Each block belongs to one writer, who numbers what he writes to it. Kept
// here, outside the server.
struct BlockHistory {
  std::uint64_t issued = 0;   // the last number sent
  std::uint64_t acked = 0;    // the last one acknowledged
  std::uint64_t durable = 0;  // the last one flushed since, or written with FUA
};

// Each sector says block, number and its own place.
std::string stamped(std::uint64_t block, std::uint64_t number) {
  std::string data;
  for (std::uint64_t s = 0; s < kBlock / 512; ++s) {
    std::string sector = pattern(block * 1'000'003 + number * 17 + s, 512);
    std::memcpy(sector.data(), &number, sizeof number);
    data += sector;
  }
  return data;
}

class Writer {
 public:
  Writer(unsigned index, std::uint64_t seed)
      : index_(index), random_(seed * kWriters + index) {}

  // Until the connection ends.
  void work(const Client& c) {
    std::vector<std::uint64_t> unflushed;
    for (;;) {
      const std::uint64_t block =
          random_() % (kBlocks / kWriters) * kWriters + index_;
      BlockHistory& h = history[block];
      const bool fua = random_() % 16 == 0;
      ++h.issued;
      if (c.write(block * kBlock, stamped(block, h.issued),
                  fua ? LIBNBD_CMD_FLAG_FUA : 0) != 0)
        return;
      h.acked = h.issued;
      if (fua) h.durable = h.acked;
      unflushed.push_back(block);
      ++done;
      if (random_() % 24 != 0) continue;
      if (c.flush() != 0) return;
      for (std::uint64_t b : unflushed) history[b].durable = history[b].acked;
      unflushed.clear();
    }
  }
  std::vector<BlockHistory> history = std::vector<BlockHistory>(kBlocks);
  std::atomic<std::uint64_t> done{0};

 private:
  const unsigned index_;
  std::mt19937_64 random_;
};

TEST(RemapCrash, killed_under_load_again_and_again_loses_nothing_flushed) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchDir dir;
  const std::string image = dir.make_file("main.img", kBlocks * kBlock);
  const std::string spare = dir.make_file("spare.img", 16 << 20);
  const BadDisk disk(
      dir, "disk", image,
      {"bad-percent=2", "mode=write", "seed=" + std::to_string(seed % 1000)});
  format(disk.uri(), spare);
  RemapServer volume(dir, "volume", disk.uri(), spare);
  volume.verbose = false;
  std::vector<std::unique_ptr<Writer>> writers;
  for (unsigned i = 0; i < kWriters; ++i)
    writers.push_back(std::make_unique<Writer>(i, seed));
  const int cycles = in_long_form(1'000, 20);
  std::uint64_t remapped = 0;
  std::uint64_t durable = 0;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    volume.start();
    const std::uint64_t now = volume.show()["blocks"]["remapped"];
    EXPECT_GE(now, remapped);  // a durable mapping is never lost
    {
      const Client c(volume.uri());
      for (std::uint64_t block = 0; block < kBlocks; ++block) {
        BlockHistory& h = writers[block % kWriters]->history[block];
        std::string data;
        ASSERT_EQ(c.read(block * kBlock, kBlock, &data), 0) << block;
        for (std::uint64_t s = 0; s < kBlock; s += 512) {
          std::uint64_t number = 0;
          std::memcpy(&number, data.data() + s, sizeof number);
          ASSERT_GE(number, h.durable)
              << "cycle " << cycle << " block " << block;
          ASSERT_LE(number, h.issued)
              << "cycle " << cycle << " block " << block;
          const std::string right = number == 0
                                        ? std::string(512, '\0')
                                        : stamped(block, number).substr(s, 512);
          ASSERT_TRUE(data.compare(s, 512, right) == 0) << block;
        }
        if (h.durable != 0) ++durable;
      }
      // What was read is what is there; the next numbers go on from it.
    }
    std::vector<std::thread> threads;
    const std::uint64_t begin = writers[0]->done;
    for (auto& writer : writers)
      threads.emplace_back(
          [&writer, c = Client(volume.uri())] { writer->work(c); });
    const std::uint64_t target = begin + 20 + random() % 150;
    EXPECT_TRUE(eventually([&] { return writers[0]->done > target; }));
    remapped = volume.show()["blocks"]["remapped"];
    volume.kill();
    for (std::thread& t : threads) t.join();
  }
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
