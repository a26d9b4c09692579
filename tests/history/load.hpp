#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the history test does to a volume, all at once: clients that read,
// write, zero, trim and flush overlapping ranges and record what they saw, and
// an owner who moves blocks to SPARE and back, begins scans, makes sectors of
// the disk bad, and heals them.
//
// Ranges   Begin and end at a sector, or at one odd word of it that the round
//          chooses: that keeps the number of different histories small, which
//          is what the judge's time depends on.
// Threads  each object in one; the owner until told to stop.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/e2e/harness.hpp"
#include "tests/history/word_history.hpp"

namespace nbd_remap {

struct HistoryLoad {
  std::uint64_t sectors = 512;  // of the volume, a multiple of 8
  std::uint64_t requests_per_action = 40;
  // Of 64 actions of the owner, so many make sectors bad or heal them all.
  std::uint64_t spoiling = 21;

  std::uint64_t words() const { return sectors * kWordsPerSector; }
  std::uint64_t bytes() const { return sectors * kSectorBytes; }
};

// Nanoseconds, never 0.
Operation::Time history_clock();

class HistoryClient {
 public:
  HistoryClient(const std::string& uri, const HistoryLoad& load,
                std::uint64_t number, std::uint64_t seed);
  // So many requests. Recorded are those that have a place in a history.
  void work(std::uint64_t requests, std::uint64_t round);
  // All of the volume, sector by sector. What cannot be read is written.
  // Answers with the content afterwards.
  std::vector<Tag> settle();
  std::vector<Operation> take_history();
  std::uint64_t done() const { return done_; }  // from any thread
  // By an errno that is not EIO; empty: none.
  const std::string& surprise() const { return surprise_; }

 private:
  void random_range(std::uint64_t round, Operation& operation);
  void read(Operation operation);
  void write(Operation operation, std::uint32_t flags);
  void ended(Operation& operation, int result);

  const Client client_;
  const HistoryLoad load_;
  const std::uint64_t number_;
  std::uint64_t requests_ = 0;  // numbers what is written
  std::atomic<std::uint64_t> done_{0};
  std::mt19937_64 random_;
  std::vector<std::uint64_t> buffer_;
  std::vector<Operation> history_;
  std::string surprise_;
};

class HistoryOwner {
 public:
  // disk: null if MAIN is not one that goes bad.
  HistoryOwner(const RemapServer& volume, const BadDisk* disk,
               const HistoryLoad& load, std::uint64_t seed);
  // Until told to stop; one action for so many requests, of which done() tells
  // how many there were, so that neither starves the other on a busy machine.
  void work(const std::atomic<bool>& stop,
            const std::function<std::uint64_t()>& done);
  std::vector<BadSectors> take_bad() { return std::move(bad_); }
  // Blocks, by what became of them ("remapped", "unmapped"), of all actions.
  const std::map<std::string, std::uint64_t>& counts() const { return counts_; }
  std::uint64_t actions() const { return actions_; }
  json scans();  // what the control socket says of them
  const std::string& surprise() const { return surprise_; }

 private:
  void act(const std::string& action);
  void quiesce();
  void spoil();
  int post(const std::string& path, json* answer = nullptr);

  const std::string control_;
  const BadDisk* const disk_;
  const HistoryLoad load_;
  std::string volume_path_;
  std::mt19937_64 random_;
  std::vector<BadSectors> bad_;
  std::map<std::string, std::uint64_t> counts_;
  std::uint64_t actions_ = 0;
  std::string surprise_;
};

}  // namespace nbd_remap
