// SPDX-License-Identifier: BSD-3-Clause
// Whether what six clients of a real server see at once could have happened on
// a plain disk (contract C1, C7, C8, C13; mistakes 2, 5, 16, 22), while blocks
// move to SPARE and back, scans go on, and sectors go bad under them.
//
// In rounds, so that any number of requests is judged in bounded memory: at the
// end of each all is read, which is where the next one begins. The threads are
// real, hence a seed repeats the requests, not the race:
//   NBD_REMAP_HISTORY_SEED  another beginning
//   NBD_REMAP_LONG=1        15,000,000 requests

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <thread>

#include "tests/history/load.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kClients = 6;

std::uint64_t seed_of_run() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* text = std::getenv("NBD_REMAP_HISTORY_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

class VolumeHistory : public testing::Test {
 protected:
  void serve(const std::string& main) {
    const std::string spare = dir_.make_file("spare.img", 8 << 20);
    format(main, spare);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main, spare);
    volume_->verbose = false;
    volume_->start();
  }

  void one_round(std::uint64_t round, HistoryOwner& owner) {
    std::atomic<bool> stop{false};
    const auto done = [&] {
      std::uint64_t sum = 0;
      for (const auto& client : clients_) sum += client->done();
      return sum;
    };
    std::thread moving([&] { owner.work(stop, done); });
    std::vector<std::thread> asking;
    for (auto& client : clients_)
      asking.emplace_back([&] { client->work(kRequests, round); });
    for (std::thread& thread : asking) thread.join();
    stop = true;
    moving.join();
    const std::vector<Tag> content = clients_[0]->settle();
    std::vector<Operation> history;
    for (auto& client : clients_) {
      ASSERT_EQ(client->surprise(), "");
      for (Operation& o : client->take_history())
        history.push_back(std::move(o));
    }
    ASSERT_EQ(owner.surprise(), "");
    for (const Operation& o : history) errors_ += !o.acked;
    const auto wrong = anomalies(history, content_);
    const auto errors = unexcused_errors(history, owner.take_bad());
    for (const std::string& words : wrong) ADD_FAILURE() << words;
    for (const std::string& words : errors)
      ADD_FAILURE() << "an error without a bad sector: " << words;
    ASSERT_TRUE(wrong.empty() && errors.empty())
        << "round " << round << " of seed " << seed_of_run();
    content_ = content;
  }

  // As many requests, in the ordinary form only until the time is over.
  void run(const HistoryLoad& load, const BadDisk* disk,
           std::chrono::seconds longest) {
    const std::uint64_t requests = in_long_form(5'000'000, 300'000);
    const std::uint64_t seed = seed_of_run();
    for (std::uint64_t i = 0; i < kClients; ++i)
      clients_.push_back(
          std::make_unique<HistoryClient>(volume_->uri(), load, i + 1, seed));
    HistoryOwner owner(*volume_, disk, load, seed);
    content_.assign(load.words(), kZeroes);
    const auto until = std::chrono::steady_clock::now() + longest;
    std::uint64_t done = 0;
    std::uint64_t rounds = 0;
    do {
      ASSERT_NO_FATAL_FAILURE(one_round(seed * 1'000'003 + rounds, owner));
      ++rounds;
      done += kClients * kRequests;
    } while (done < requests &&
             (long_form() || std::chrono::steady_clock::now() < until));
    std::cout << done << " requests in " << rounds << " rounds, " << errors_
              << " of them failed; " << owner.actions()
              << " actions of the owner";
    for (const auto& [name, count] : owner.counts())
      std::cout << ", " << count << " " << name;
    const json scans = owner.scans();
    std::cout << ", " << scans["passes"] << " scans, " << scans["rescued"]
              << " rescued\n";
    // Contract E1: what was to happen beside it did happen.
    const auto happened = [&](const char* name) {
      const auto it = owner.counts().find(name);
      return it == owner.counts().end() ? 0 : it->second;
    };
    EXPECT_GE(happened("remapped"), 1U);
    EXPECT_GE(happened("unmapped"), 1U);
    EXPECT_GE(scans["passes"], 1);
    EXPECT_EQ(volume_->show()["main"]["failed"], false);
    clients_.clear();
    EXPECT_EQ(volume_->stop().code, 0) << volume_->log();
    EXPECT_TRUE(survey(volume_->spare).copies_agree());
  }

  static constexpr std::uint64_t kRequests = 1'000;  // a client's, in a round
  ScratchDir dir_;
  std::unique_ptr<RemapServer> volume_;
  std::vector<std::unique_ptr<HistoryClient>> clients_;
  std::vector<Tag> content_;
  std::uint64_t errors_ = 0;
};

TEST_F(VolumeHistory, blocks_move_while_six_clients_ask) {
  const HistoryLoad load;
  serve(dir_.make_file("main.img", load.bytes()));
  run(load, nullptr, 6s);
  EXPECT_EQ(errors_, 0U);
}

class BadDiskHistory : public VolumeHistory {
 protected:
  void run_on_bad_disk(const HistoryLoad& load, std::chrono::seconds longest) {
    const std::string image = dir_.make_file("main.img", load.bytes());
    const BadDisk disk(dir_, "disk", image, {"heal-on-write=yes"});
    serve(disk.uri());
    run(load, &disk, longest);
    EXPECT_GE(disk.fired("read"), 1U);
    EXPECT_GE(disk.fired("write"), 1U);
    EXPECT_GE(errors_, 1U) << "no sector was lost";
  }
};

TEST_F(BadDiskHistory, sectors_go_bad_while_six_clients_ask) {
  run_on_bad_disk({}, 7s);
}

// So small that most requests overlap, and one in ten meets new bad sectors:
// what the slow way does beside the fast one.
TEST_F(BadDiskHistory, all_meet_on_a_few_blocks_that_go_bad) {
  run_on_bad_disk({.sectors = 96, .requests_per_action = 10, .spoiling = 39},
                  15s);
}

}  // namespace
}  // namespace nbd_remap
