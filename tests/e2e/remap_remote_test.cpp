// SPDX-License-Identifier: BSD-3-Clause
// A volume whose MAIN and SPARE are both remote: killed and started again under
// a verifying load, gone for longer than the time-out, swapped, resized.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
namespace fs = std::filesystem;

constexpr std::uint64_t kMain = 24 << 20;
constexpr std::uint64_t kSpare = 16 << 20;
constexpr std::uint64_t kBlock = 4096;

// A disk with a write cache behind an nbdkit. Killed, it loses what was not
// flushed.
class RemoteDisk : public BadDisk {
 public:
  RemoteDisk(const ScratchDir& dir, const std::string& name, std::uint64_t size,
             const Words& more = {})
      : BadDisk(dir, name, dir.make_file(name + ".img", size),
                with_cache(more)),
        control_file_(dir.file(name + ".ctl")) {}
  void start_again() {
    for (const std::string& file : {socket_, pid_file_, control_file_})
      fs::remove(file);
    start();
  }
  void kill_and_start() {
    held_ += state()["write_cache"]["held_writes"].get<std::uint64_t>();
    kill();
    start_again();
  }
  // Writes that were in the cache just before it was killed.
  std::uint64_t held() const { return held_; }

 private:
  static Words with_cache(Words words) {
    words.push_back("write-cache=16M");
    return words;
  }
  const std::string control_file_;
  std::uint64_t held_ = 0;
};

// A client with blocks of its own, and what they hold.
class Owner {
 public:
  Owner(const std::string& uri, std::uint64_t first, std::uint64_t count,
        unsigned seed)
      : client_(uri), first_(first), seeds_(count), random_(seed) {}

  // One request; whether all was as it should be.
  bool work() {
    const std::uint64_t block = random_() % seeds_.size();
    const unsigned what = random_() % 8;
    if (what == 0) return client_.flush() == 0;
    if (what < 4) return holds(block);
    seeds_[block] = random_() + 1ULL;
    return client_.write(at(block), content(block),
                         what == 4 ? LIBNBD_CMD_FLAG_FUA : 0) == 0;
  }
  bool holds(std::uint64_t block) const {
    std::string out;
    return client_.read(at(block), kBlock, &out) == 0 && out == content(block);
  }
  bool holds_all() const {
    for (std::uint64_t block = 0; block < seeds_.size(); ++block)
      if (!holds(block)) return false;
    return true;
  }

 private:
  std::uint64_t at(std::uint64_t block) const {
    return (first_ + block) * kBlock;
  }
  std::string content(std::uint64_t block) const {
    return seeds_[block] ? pattern(seeds_[block], kBlock)
                         : std::string(kBlock, '\0');
  }
  const Client client_;
  const std::uint64_t first_;
  std::vector<std::uint64_t> seeds_;  // 0: zeroes
  std::mt19937 random_;
};

TEST(RemapRemote, either_remote_is_killed_under_load_and_nothing_is_lost) {
  const int kills = in_long_form(100, 6);
  constexpr unsigned kOwners = 4;
  constexpr std::uint64_t kBlocks = 300;  // of each
  constexpr milliseconds kTimeout = 20s;
  const ScratchDir dir;
  // Bad places among those that are written, so that SPARE has work too.
  RemoteDisk main(dir, "main", kMain, {"bad=0-799:write,4000-4799:write"});
  RemoteDisk spare(dir, "spare", kSpare);
  format(main.uri(), spare.uri());
  RemapServer volume(dir, "volume", main.uri(), spare.uri(),
                     {"main-timeout=20", "spare-timeout=20"});
  volume.verbose = false;
  volume.start();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::atomic<std::uint64_t> done{0};
  std::atomic<std::int64_t> longest_ms{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < kOwners; ++t)
      threads.emplace_back([&, t] {
        Owner owner(volume.uri(), t * kBlocks, kBlocks, t + 1);
        while (!stop) {
          const auto start = steady_clock::now();
          wrong += !owner.work();
          const auto took =
              duration_cast<milliseconds>(steady_clock::now() - start);
          if (took.count() > longest_ms) longest_ms = took.count();
          ++done;
        }
        wrong += !owner.holds_all();
      });
    std::mt19937 random(7);
    std::size_t back = 0;
    for (int k = 0; k < kills; ++k) {
      const std::uint64_t target = done + 1 + random() % 300;
      EXPECT_TRUE(eventually([&] { return done >= target; }, 20s));
      (k % 2 ? spare : main).kill_and_start();
      ++back;
      EXPECT_TRUE(eventually(
          [&] {
            return count_of(volume.log(), "connection back after") >= back;
          },
          20s))
          << volume.log();
    }
    stop = true;
  }
  EXPECT_EQ(wrong, 0) << volume.log();
  EXPECT_LT(longest_ms, kTimeout.count());
  EXPECT_GT(main.held(), 0U);  // there was something to lose
  EXPECT_GT(volume.show()["blocks"]["remapped"], 0);
  const json show = volume.show();
  EXPECT_EQ(show["flush_in_doubt"], false);
  EXPECT_GE(show["main"]["link"]["reconnects"].get<int>() +
                show["spare"]["link"]["reconnects"].get<int>(),
            kills);
  EXPECT_EQ(volume.stop().code, 0);
}

// Contract C10.
TEST(RemapRemote, a_main_that_stays_away_fails_requests_and_remaps_nothing) {
  const ScratchDir dir;
  RemoteDisk main(dir, "main", kMain);
  RemoteDisk spare(dir, "spare", kSpare);
  format(main.uri(), spare.uri());
  RemapServer volume(dir, "volume", main.uri(), spare.uri(),
                     {"main-timeout=1", "breaker=1000000"});
  volume.start();
  const Client c(volume.uri());
  const std::string data = pattern(1, 8192);
  ASSERT_EQ(c.write(4096, data), 0);
  main.kill();
  const auto start = steady_clock::now();
  EXPECT_EQ(c.read(0, 4096, nullptr), EIO);
  EXPECT_EQ(c.write(0, data), EIO);
  EXPECT_LT(steady_clock::now() - start, 5s);
  const auto later = steady_clock::now();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(c.write(i * 65536UL, data), EIO);
  EXPECT_LT(steady_clock::now() - later, 1s);
  EXPECT_EQ(c.flush(), EIO) << "what was acked is not durable";
  const json show = volume.show();
  EXPECT_EQ(show["main"]["link"]["connected"], false);
  EXPECT_EQ(show["state"], "failed");
  EXPECT_EQ(show["blocks"]["remapped"], 0);
  EXPECT_EQ(show["blocks"]["pending"], 0);
  EXPECT_EQ(show["spare"]["used"], 0);
  EXPECT_GE(show["errors"]["main"]["transport"], 22);
  main.start_again();
  std::string out;
  EXPECT_TRUE(eventually([&] { return c.read(4096, 8192, &out) == 0; }));
  EXPECT_EQ(out, data);
  EXPECT_NE(volume.log().find("8192 bytes written again"), std::string::npos)
      << volume.log();
  EXPECT_EQ(c.flush(), 0);
  EXPECT_EQ(volume.stop().code, 0);
}

// A write that needs SPARE fails while it is away, others do not; when it is
// back the same write goes to it, without a restart.
TEST(RemapRemote, a_spare_that_stays_away_is_used_again_when_it_is_back) {
  const ScratchDir dir;
  RemoteDisk main(dir, "main", kMain, {"bad=80-95:write"});
  RemoteDisk spare(dir, "spare", kSpare);
  format(main.uri(), spare.uri());
  RemapServer volume(dir, "volume", main.uri(), spare.uri(),
                     {"spare-timeout=1"});
  volume.start();
  const Client c(volume.uri());
  ASSERT_EQ(c.write(40'960, pattern(1, 4096)), 0);
  EXPECT_EQ(volume.show()["blocks"]["remapped"], 1);
  spare.kill();
  const auto start = steady_clock::now();
  EXPECT_EQ(c.write(45'056, pattern(2, 4096)), EIO);
  EXPECT_EQ(c.read(40'960, 4096, nullptr), EIO) << "it lives on SPARE";
  EXPECT_LT(steady_clock::now() - start, 5s);
  EXPECT_EQ(c.write(0, pattern(3, 4096)), 0) << "it needs MAIN alone";
  EXPECT_EQ(volume.show()["state"], "failed");
  spare.start_again();
  EXPECT_TRUE(eventually([&] {
    return c.write(45'056, pattern(4, 4096)) == 0;
  })) << volume.log();
  EXPECT_EQ(c.flush(), 0);
  const json show = volume.show();
  EXPECT_EQ(show["blocks"]["remapped"], 2);
  EXPECT_EQ(show["spare"]["used"], 2) << "no slot is lost";
  EXPECT_EQ(show["state"], "degraded") << show["reasons"];
  EXPECT_GT(main.fired("write"), 0U);
  volume.kill();
  for (const char* file : {"volume.sock", "volume.pid", "volume.ctl"})
    fs::remove(dir.file(file));
  volume.start();
  const Client again(volume.uri());
  for (const auto& [at, tag] :
       {std::pair{40'960U, 1U}, {45'056U, 4U}, {0U, 3U}}) {
    std::string out;
    EXPECT_EQ(again.read(at, 4096, &out), 0);
    EXPECT_TRUE(out == pattern(tag, 4096)) << at;
  }
  EXPECT_EQ(volume.stop().code, 0);
}

// MAIN's way back asks SPARE whose the pair is, and must not be in SPARE's.
TEST(RemapRemote, both_are_lost_at_once_and_both_come_back) {
  const ScratchDir dir;
  RemoteDisk main(dir, "main", kMain, {"bad=80-87:write"});
  RemoteDisk spare(dir, "spare", kSpare);
  format(main.uri(), spare.uri());
  RemapServer volume(dir, "volume", main.uri(), spare.uri(),
                     {"spare-timeout=6"});
  volume.start();
  const Client c(volume.uri());
  ASSERT_EQ(c.write(40'960, pattern(1, 4096)), 0);
  ASSERT_EQ(volume.show()["blocks"]["remapped"], 1);
  spare.kill();
  main.kill();
  std::string data;
  int answer = -1;
  std::thread reader(
      [&] { answer = Client(volume.uri()).read(40'960, 4096, &data); });
  main.start_again();
  std::this_thread::sleep_for(2s);  // more than a back-off: MAIN asks
  spare.start_again();
  reader.join();
  EXPECT_EQ(answer, 0) << volume.log();
  EXPECT_TRUE(data == pattern(1, 4096));
  EXPECT_EQ(c.write(0, pattern(2, 4096)), 0);
  EXPECT_EQ(c.flush(), 0);
  EXPECT_EQ(volume.stop().code, 0);
}

// Contract M3, over the network.
TEST(RemapRemote, a_remote_of_another_size_is_refused) {
  const ScratchDir dir;
  RemoteDisk main(dir, "main", kMain);
  RemoteDisk spare(dir, "spare", kSpare);
  format(main.uri(), spare.uri());
  RemapServer volume(dir, "volume", main.uri(), spare.uri());
  volume.start();
  const Client c(volume.uri());
  ASSERT_EQ(c.write(0, pattern(1, 4096)), 0);
  main.kill();
  fs::resize_file(dir.file("main.img"), kMain - 4096);
  main.start_again();
  EXPECT_EQ(c.write(0, pattern(1, 4096)), EIO);
  EXPECT_NE(volume.log().find("its size is"), std::string::npos)
      << volume.log();
  EXPECT_EQ(volume.show()["blocks"]["remapped"], 0);
  volume.kill();
  // A new start sees it too.
  for (const char* file : {"volume.sock", "volume.pid", "volume.ctl"})
    fs::remove(dir.file(file));
  EXPECT_FALSE(volume.try_start());
  EXPECT_NE(volume.log().find("size"), std::string::npos) << volume.log();
}

TEST(RemapRemote, one_export_as_both_is_refused_in_any_spelling) {
  const ScratchDir dir;
  RemoteDisk disk(dir, "disk", kSpare);
  fs::create_symlink(disk.socket(), dir.file("link"));
  for (const std::string& again :
       {disk.uri(), "nbd+unix:///?socket=" + dir.path() + "/disk%2Esock",
        "nbd+unix:///?socket=" + dir.path() + "/./disk.sock",
        "nbd+unix:///?socket=" + dir.file("link")}) {
    const Ended ended =
        run_nbdkit({REMAP_PLUGIN, "main=" + disk.uri(), "spare=" + again});
    EXPECT_NE(ended.code, 0) << again;
    EXPECT_NE(ended.err.find("spare="), std::string::npos) << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
  }
}

}  // namespace
}  // namespace nbd_remap
