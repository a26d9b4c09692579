#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A verifying load for volumes that are killed: writers that number what they
// write to each block and remember, outside the server, what was issued,
// acknowledged and made durable; and the check of a volume against that.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {

inline constexpr std::uint64_t kWrittenBlock = 4096;

// Each block belongs to one writer, who numbers what he writes to it. Kept
// here, outside the server.
struct BlockHistory {
  std::uint64_t issued = 0;   // the last number sent
  std::uint64_t acked = 0;    // the last one acknowledged
  std::uint64_t durable = 0;  // the last one flushed since, or written with FUA
};

// Says block, number and its own place in the block.
inline std::string stamped_sector(std::uint64_t block, std::uint64_t number,
                                  std::uint64_t s) {
  std::string sector = pattern(block * 1'000'003 + number * 17 + s, 512);
  std::memcpy(sector.data(), &number, sizeof number);
  return sector;
}

inline std::string stamped(std::uint64_t block, std::uint64_t number) {
  std::string data;
  for (std::uint64_t s = 0; s < kWrittenBlock / 512; ++s)
    data += stamped_sector(block, number, s);
  return data;
}

// One of `writers`, each with every writers-th block. Threads: work() in one;
// done and stop from any.
class BlockWriter {
 public:
  BlockWriter(unsigned index, unsigned writers, std::uint64_t blocks,
              std::uint64_t seed)
      : history(blocks),
        index_(index),
        writers_(writers),
        random_(seed * writers + index) {}

  // Until the connection ends, a request fails, or `stop`.
  void work(const Client& c) {
    std::vector<std::uint64_t> unflushed;
    while (!stop) {
      const std::uint64_t block =
          random_() % (history.size() / writers_) * writers_ + index_;
      BlockHistory& h = history[block];
      const bool fua = random_() % 16 == 0;
      ++h.issued;
      if (c.write(block * kWrittenBlock, stamped(block, h.issued),
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
  std::vector<BlockHistory> history;
  std::atomic<std::uint64_t> done{0};
  std::atomic<bool> stop{false};

 private:
  const unsigned index_;
  const unsigned writers_;
  std::mt19937_64 random_;
};

using BlockWriters = std::vector<std::unique_ptr<BlockWriter>>;

inline BlockWriters make_writers(unsigned writers, std::uint64_t blocks,
                                 std::uint64_t seed) {
  BlockWriters all;
  for (unsigned i = 0; i < writers; ++i)
    all.push_back(std::make_unique<BlockWriter>(i, writers, blocks, seed));
  return all;
}

// Every sector holds its last durable content or a later one that was written.
// Counts the blocks that had any durable content. Reads many blocks at once, as
// what is mapped is few of them.
inline void verify_blocks(const Client& c, const BlockWriters& writers,
                          std::uint64_t* durable) {
  constexpr std::uint64_t kAtOnce = 32;
  const std::uint64_t blocks = writers[0]->history.size();
  std::string data;
  for (std::uint64_t block = 0; block < blocks; ++block) {
    if (block % kAtOnce == 0) {
      const std::uint64_t bytes =
          std::min(kAtOnce, blocks - block) * kWrittenBlock;
      ASSERT_EQ(c.read(block * kWrittenBlock, bytes, &data), 0) << block;
      ASSERT_EQ(data.size(), bytes);
    }
    const BlockHistory& h = writers[block % writers.size()]->history[block];
    for (std::uint64_t s = 0; s < kWrittenBlock / 512; ++s) {
      const std::string sector =
          data.substr(block % kAtOnce * kWrittenBlock + s * 512, 512);
      std::uint64_t number = 0;
      std::memcpy(&number, sector.data(), sizeof number);
      ASSERT_GE(number, h.durable) << "block " << block << " sector " << s;
      ASSERT_LE(number, h.issued) << "block " << block << " sector " << s;
      ASSERT_TRUE(sector == (number == 0 ? std::string(512, '\0')
                                         : stamped_sector(block, number, s)))
          << "block " << block << " sector " << s;
    }
    if (h.durable != 0) ++*durable;
  }
}

}  // namespace nbd_remap
