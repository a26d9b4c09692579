// SPDX-License-Identifier: BSD-3-Clause
// Hours of everything at once, for what only time shows: load, sectors that go
// bad and are mended, map commands, clients that come and go, kills, power cuts
// and restarts, with every block checked against what the writers remember.
//
// NBD_REMAP_SOAK_SECONDS   how long (default 15)
// NBD_REMAP_SOAK_SEED      to choose the same again (default: by chance)
//
// Two volumes, in turn: one that lives as long as the test, whose process must
// not grow, and one that is ended in every way and started again.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/e2e/block_writer.hpp"
#include "tests/e2e/harness.hpp"
#include "tests/soak/process_usage.hpp"

namespace nbd_remap {
namespace {

constexpr unsigned kWriters = 4;
constexpr std::uint64_t kBlocks = 512;
constexpr std::uint64_t kBytes = kBlocks * kWrittenBlock;
constexpr std::uint64_t kSpareBytes = 8 << 20;  // room for each block

std::uint64_t number_of(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// Writers with a connection each, until stop() or a request that fails.
class Load {
 public:
  Load(const RemapServer& volume, const BlockWriters& writers)
      : writers_(writers) {
    for (const auto& writer : writers_) {
      writer->stop = false;
      threads_.emplace_back(
          [&writer, c = Client(volume.uri())] { writer->work(c); });
    }
  }
  ~Load() { stop(); }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  // Until so many more were acked.
  void wait_for(std::uint64_t more) {
    const std::uint64_t target = done() + more;
    EXPECT_TRUE(eventually([&] { return done() >= target; }, 60s));
  }
  void stop() {
    for (const auto& writer : writers_) writer->stop = true;
    join();
  }
  void join() {
    for (std::thread& t : threads_) t.join();
    threads_.clear();
  }

 private:
  std::uint64_t done() const {
    std::uint64_t sum = 0;
    for (const auto& writer : writers_) sum += writer->done;
    return sum;
  }
  const BlockWriters& writers_;
  std::vector<std::thread> threads_;
};

// The one that lives on.
class LongLife {
 public:
  explicit LongLife(std::uint64_t seed)
      : random_(seed),
        disk_(dir_, "main", dir_.make_file("main.img", kBytes)),
        spare_(dir_.make_file("spare.img", kSpareBytes)),
        writers_(make_writers(kWriters, kBlocks, seed)) {
    format(disk_.uri(), spare_);
    volume_ =
        std::make_unique<RemapServer>(dir_, "volume", disk_.uri(), spare_);
    volume_->verbose = false;
    volume_->start();
    idle_ = usage_of(volume_->child().pid());
  }

  void round() {
    disk_.add_bad(
        {{"count", 16}, {"mode", "write"}, {"seed", random_() % 1000}});
    {
      Load load(*volume_, writers_);
      load.wait_for(60);
      disk_.add_bad({{"count", 16},
                     {"mode", "read"},
                     {"transient", 1},
                     {"seed", random_() % 1000}});
      map("remap");
      load.wait_for(60);
      EXPECT_FALSE(volume_->health().empty());
      if (random_() % 2 == 0) {
        disk_.heal({{"all", true}});
        map("unmap");
      }
      load.wait_for(60);
      remapped_ += volume_->show()["blocks"]["remapped"].get<std::uint64_t>();
    }
    check();
    samples_.push_back(usage_when_idle(volume_->child().pid(), idle_));
    EXPECT_LE(samples_.back().descriptors, idle_.descriptors);
    EXPECT_LE(samples_.back().threads, idle_.threads);
  }

  void finish() {
    EXPECT_GT(disk_.fired("write"), 10U);
    EXPECT_GT(disk_.fired("read"), 10U);
    EXPECT_GT(remapped_, 10U);
    ASSERT_GE(samples_.size(), 6U) << "too short to see growth";
    EXPECT_LE(growth_kib(samples_), kSlackKib);
    EXPECT_EQ(volume_->show()["errors"]["client"]["medium"], 0);
    EXPECT_EQ(volume_->stop().code, 0);
    EXPECT_TRUE(survey(spare_).chosen().closed);
  }
  std::string text() const {
    return fmt::format("{} rounds, growth {} KiB; at first {}, now {}",
                       samples_.size(), growth_kib(samples_), text_of(idle_),
                       samples_.empty() ? "-" : text_of(samples_.back()));
  }

 private:
  // A server that was not ended answers with what was acked last (C1), and
  // never with an error: nothing here is bad beyond a second try.
  void check() {
    for (const auto& writer : writers_)
      for (BlockHistory& h : writer->history) {
        ASSERT_EQ(h.issued, h.acked) << "a write was refused";
        h.durable = h.acked;
      }
    std::uint64_t seen = 0;
    verify_blocks(Client(volume_->uri()), writers_, &seen);
  }
  void map(const std::string& verb) {
    const std::uint64_t first = random_() % (kBlocks - 64);
    // Some may have to stay where they are: 1 says so.
    const Ended ended = run(
        {NBD_REMAPCTL, "map", verb, std::to_string(first * kWrittenBlock),
         std::to_string(64 * kWrittenBlock), "--socket=" + volume_->control()},
        120s);
    EXPECT_TRUE(ended.code == 0 || ended.code == 1) << ended.err;
  }

  std::mt19937_64 random_;
  ScratchDir dir_;
  BadDisk disk_;
  std::string spare_;
  BlockWriters writers_;
  std::unique_ptr<RemapServer> volume_;
  Usage idle_;
  std::vector<Usage> samples_;
  std::uint64_t remapped_ = 0;
};

// The one that is ended in every way, on disks with volatile caches.
class ManyLives {
 public:
  explicit ManyLives(std::uint64_t seed)
      : random_(seed + 1),
        main_(dir_, "main", dir_.make_file("main.img", kBytes),
              {"write-cache=4M", "bad-percent=2", "mode=write"}),
        spare_(dir_, "spare", dir_.make_file("spare.img", kSpareBytes),
               {"write-cache=4M"}),
        writers_(make_writers(kWriters, kBlocks, seed + 1)) {
    format(main_.uri(), spare_.uri());
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_.uri(),
                                            spare_.uri());
    volume_->verbose = false;
  }

  void round() {
    volume_->start();
    const std::uint64_t now = volume_->show()["blocks"]["remapped"];
    EXPECT_GE(now, remapped_) << "a durable mapping is lost";
    verify_blocks(Client(volume_->uri()), writers_, &durable_);
    if (testing::Test::HasFatalFailure()) return;
    Load load(*volume_, writers_);
    load.wait_for(40 + random_() % 200);
    remapped_ = volume_->show()["blocks"]["remapped"];
    switch (kills_ == stops_ ? 0 : cuts_ == stops_ ? 1 : 2) {
      case 0:
        volume_->kill();
        ++kills_;
        break;
      case 1:
        cut();
        ++cuts_;
        break;
      default:
        EXPECT_EQ(volume_->stop(60s).code, 0);
        ++stops_;
    }
    load.join();
  }
  void finish() {
    EXPECT_GT(kills_, 0U);
    EXPECT_GT(cuts_, 0U);
    EXPECT_GT(stops_, 0U);
    EXPECT_EQ(main_.state()["write_cache"]["cuts"], cuts_);
    EXPECT_GT(main_.fired("write"), 10U);
    EXPECT_GT(remapped_, 10U);
    EXPECT_GT(durable_, 50U);
    volume_->start();
    verify_blocks(Client(volume_->uri()), writers_, &durable_);
    EXPECT_EQ(volume_->stop().code, 0);
  }
  std::string text() const {
    return fmt::format("{} kills, {} cuts, {} stops under load", kills_, cuts_,
                       stops_);
  }

 private:
  // The disks lose their power, and the server's machine its own.
  void cut() {
    const bool server_first = random_() % 2 == 0;
    if (server_first) volume_->kill();
    for (const BadDisk* disk : {&main_, &spare_}) {
      const char* const kinds[] = {"lost", "reordered", "torn", "all"};
      disk->post("cut",
                 {{"kind", kinds[random_() % 4]}, {"seed", random_() % 1000}});
    }
    if (!server_first) volume_->kill();
    main_.post("power-on");
    spare_.post("power-on");
  }

  std::mt19937_64 random_;
  ScratchDir dir_;
  BadDisk main_;
  BadDisk spare_;
  BlockWriters writers_;
  std::unique_ptr<RemapServer> volume_;
  std::uint64_t remapped_ = 0;
  std::uint64_t durable_ = 0;
  std::uint64_t kills_ = 0;
  std::uint64_t cuts_ = 0;
  std::uint64_t stops_ = 0;
};

TEST(Soak, load_faults_kills_and_restarts_lose_nothing_and_nothing_grows) {
  const std::uint64_t seed =
      number_of("NBD_REMAP_SOAK_SEED", std::random_device()() % 1'000'000);
  SCOPED_TRACE(fmt::format("NBD_REMAP_SOAK_SEED={}", seed));
  const std::chrono::seconds length(number_of("NBD_REMAP_SOAK_SECONDS", 15));
  LongLife long_life(seed);
  ManyLives many_lives(seed);
  const auto began = std::chrono::steady_clock::now();
  auto told = began;
  // Not by time alone: a slow machine needs as many to say anything.
  for (unsigned rounds = 0;
       rounds < 9 || std::chrono::steady_clock::now() - began < length;
       ++rounds) {
    long_life.round();
    many_lives.round();
    ASSERT_FALSE(HasFailure()) << "round " << rounds;
    const auto now = std::chrono::steady_clock::now();
    if (now - told < 1min) continue;
    told = now;
    fmt::print(
        "soak: {} s: {}; {}\n",
        std::chrono::duration_cast<std::chrono::seconds>(now - began).count(),
        long_life.text(), many_lives.text());
    static_cast<void>(std::fflush(stdout));
  }
  many_lives.finish();
  long_life.finish();
  fmt::print("soak: {}; {}\n", long_life.text(), many_lives.text());
}

// The measure itself: a test that cannot see growth proves nothing.
TEST(Soak, memory_that_grows_is_seen_and_a_warm_up_is_not_growth) {
  std::vector<Usage> samples;
  for (std::uint64_t i = 0; i < 30; ++i)
    samples.push_back({10'000 + 1'000 * std::min<std::uint64_t>(i, 10), 1, 1});
  EXPECT_EQ(growth_kib(samples), 0U);
  for (std::uint64_t i = 0; i < 30; ++i) samples[i].rss_kib = 10'000 + 500 * i;
  EXPECT_GT(growth_kib(samples), kSlackKib);
  const Usage self = usage_of(getpid());
  EXPECT_GT(self.rss_kib, 100U);
  EXPECT_GE(self.descriptors, 3U);
  EXPECT_GE(self.threads, 1U);
}

}  // namespace
}  // namespace nbd_remap
