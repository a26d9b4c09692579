// SPDX-License-Identifier: BSD-3-Clause
// MAIN is replaced as its owner does it: nbd-remapctl against a server that
// clients use, which is killed meanwhile.

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/e2e/block_writer.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kSpare = 64 * kMiB;

Ended ctl(const RemapServer& volume, Words words) {
  words.insert(words.begin(), NBD_REMAPCTL);
  words.push_back("--socket=" + volume.control());
  return run(words);
}

json status(const RemapServer& volume, bool spare = false) {
  Words words{"volume", "replace", "--status", "--json"};
  if (spare) words.push_back("--spare");
  const Ended ended = ctl(volume, words);
  return ended.out.empty() ? json::object() : json::parse(ended.out);
}

bool reaches(const RemapServer& volume, const std::string& phase,
             bool spare = false) {
  return eventually([&] { return status(volume, spare)["phase"] == phase; },
                    120s);
}

TEST(RemapReplace, killed_again_and_again_under_load_it_ends_on_the_new_disk) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  // In regions that are copied early, and then written again and again.
  constexpr std::uint64_t kBlocks = 512;
  const ScratchDir dir;
  const std::string image = dir.make_file("old.img", 64 * kMiB);
  const std::string spare = dir.make_file("spare.img", kSpare);
  const std::string next = dir.make_file("new.img", 64 * kMiB);
  const BadDisk old(dir, "old", image,
                    {"bad=40-47,1600-1607", "mode=write",
                     "seed=" + std::to_string(seed % 1000)});
  // Slow enough to be killed on the way; with more threads nbdkit before 1.34
  // aborts when a client is killed.
  Server slow(dir, "new",
              {"-t", "1", "--filter=delay", "file", next, "wdelay=20ms",
               "delay-zero=100ms"});
  slow.verbose = false;
  slow.start();
  format(old.uri(), spare);
  RemapServer volume(dir, "volume", old.uri(), spare);
  volume.verbose = false;
  const BlockWriters writers = make_writers(4, kBlocks, seed);
  std::uint64_t durable = 0;
  std::uint64_t copying = 0;
  std::uint64_t in_sync = 0;
  const int cycles = in_long_form(200, 5);
  for (int cycle = 0; cycle < cycles; ++cycle) {
    volume.start();
    verify_blocks(Client(volume.uri()), writers, &durable);
    ASSERT_FALSE(testing::Test::HasFatalFailure()) << "cycle " << cycle;
    const json now = status(volume);
    if (now["phase"] == "none") {
      const Ended begun = ctl(volume, {"volume", "replace", slow.uri()});
      ASSERT_EQ(begun.code, 0) << begun.err;
    } else {
      in_sync = std::max<std::uint64_t>(in_sync, now["regions_in_sync"]);
    }
    std::vector<std::thread> threads;
    const std::uint64_t begin = writers[0]->done;
    for (const auto& writer : writers)
      threads.emplace_back(
          [&writer, c = Client(volume.uri())] { writer->work(c); });
    const std::uint64_t target = begin + 5 + random() % 40;
    EXPECT_TRUE(eventually([&] { return writers[0]->done > target; }, 60s));
    const bool last = cycle + 1 == cycles;
    const bool done = status(volume)["phase"] != "copying";
    copying += done ? 0 : 1;
    EXPECT_TRUE(!last || reaches(volume, "done")) << status(volume).dump(1);
    const bool switched = last || done;
    volume.kill();
    for (std::thread& t : threads) t.join();
    if (switched) break;
  }
  EXPECT_GE(copying, 3U) << "too quick to be killed on its way";
  // Contract M3: the old disk is refused, with a line that says what to do.
  RemapServer wrong(dir, "wrong", old.uri(), spare);
  EXPECT_FALSE(wrong.try_start());
  EXPECT_NE(wrong.log().find("MAIN was replaced by " + slow.uri()),
            std::string::npos)
      << wrong.log();
  RemapServer moved(dir, "moved", slow.uri(), spare);
  moved.start();
  verify_blocks(Client(moved.uri()), writers, &durable);
  EXPECT_GT(durable, 50U);
  EXPECT_TRUE(reaches(moved, "done"));
  EXPECT_EQ(moved.show()["blocks"]["remapped"], 0);
  EXPECT_EQ(moved.stop().code, 0);
}

// The same of SPARE, where all that clients write lives.
TEST(RemapReplace, killed_again_and_again_a_new_spare_is_the_only_one_at_last) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr std::uint64_t kBlocks = 256;
  const ScratchDir dir;
  const std::string image = dir.make_file("main.img", 64 * kMiB);
  const std::string spare = dir.make_file("spare.img", kSpare);
  const std::string next = dir.make_file("new.img", kSpare + 64 * kMiB);
  const BadDisk main(dir, "main", image,
                     {"bad=0-" + std::to_string(kBlocks * 8 - 1), "mode=write",
                      "seed=" + std::to_string(seed % 1000)});
  Server slow(dir, "new",
              {"-t", "1", "--filter=delay", "file", next, "wdelay=10ms"});
  slow.verbose = false;
  slow.start();
  format(main.uri(), spare);
  RemapServer volume(dir, "volume", main.uri(), spare);
  volume.verbose = false;
  const BlockWriters writers = make_writers(4, kBlocks, seed);
  std::uint64_t durable = 0;
  std::uint64_t copying = 0;
  const int cycles = in_long_form(200, 4);
  for (int cycle = 0; cycle < cycles; ++cycle) {
    volume.start();
    verify_blocks(Client(volume.uri()), writers, &durable);
    ASSERT_FALSE(testing::Test::HasFatalFailure()) << "cycle " << cycle;
    const json phase = status(volume, true)["phase"];
    if (cycle != 0 && phase == "none") {
      const Ended begun =
          ctl(volume, {"volume", "replace", "--spare", slow.uri()});
      ASSERT_EQ(begun.code, 0) << begun.err;
      const json now = volume.show();
      EXPECT_NE(now["activity"].dump().find("SPARE is being replaced"),
                std::string::npos)
          << now["activity"];
      const Ended other = ctl(volume, {"volume", "replace", image});
      EXPECT_EQ(other.code, 1);
      EXPECT_NE(other.err.find("SPARE is being replaced"), std::string::npos);
    } else if (cycle != 0) {
      EXPECT_EQ(phase, "copying") << "it does not go on after a kill";
    }
    std::vector<std::thread> threads;
    for (const auto& writer : writers)
      threads.emplace_back(
          [&writer, c = Client(volume.uri())] { writer->work(c); });
    const std::uint64_t target = writers[0]->done + 5 + random() % 30;
    EXPECT_TRUE(eventually([&] { return writers[0]->done > target; }, 60s));
    const bool last = cycle + 1 == cycles;
    EXPECT_TRUE(!last || reaches(volume, "done", true))
        << status(volume, true).dump(1);
    const bool done = status(volume, true)["phase"] == "done";
    copying += cycle == 0 || done ? 0 : 1;
    volume.kill();
    for (std::thread& t : threads) t.join();
    if (done) break;
  }
  EXPECT_GE(copying, 1U) << "too quick to be killed on its way";
  // Contract M3: the old disk is refused, with a line that says what to do.
  RemapServer wrong(dir, "wrong", main.uri(), spare);
  EXPECT_FALSE(wrong.try_start());
  EXPECT_NE(wrong.log().find("SPARE was replaced by " + slow.uri()),
            std::string::npos)
      << wrong.log();
  RemapServer moved(dir, "moved", main.uri(), slow.uri());
  moved.start();
  verify_blocks(Client(moved.uri()), writers, &durable);
  EXPECT_GT(durable, 50U);
  EXPECT_EQ(status(moved, true)["phase"], "done");
  EXPECT_GE(moved.show()["blocks"]["remapped"], 50);
  EXPECT_EQ(moved.stop().code, 0);
}

class RemapReplaceWords : public testing::Test {
 protected:
  void SetUp() override {
    main_ = dir_.make_file("main.img", 8 * kMiB);
    spare_ = dir_.make_file("spare.img", kSpare);
    next_ = dir_.make_file("next.img", 8 * kMiB);
    format(main_, spare_);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_, spare_);
    volume_->start();
  }
  void expect_refusal(const Words& words, int code, const std::string& part) {
    const Ended ended = ctl(*volume_, words);
    EXPECT_EQ(ended.code, code) << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
    EXPECT_NE(ended.err.find(part), std::string::npos) << ended.err;
    EXPECT_EQ(status(*volume_)["phase"], "none");
  }

  ScratchDir dir_;
  std::string main_;
  std::string spare_;
  std::string next_;
  std::unique_ptr<RemapServer> volume_;
};

TEST_F(RemapReplaceWords, what_is_no_disk_for_it_is_refused_in_one_line) {
  const std::string small = dir_.make_file("small.img", 4 * kMiB);
  expect_refusal({"volume", "replace", small}, 1, "expected at least");
  expect_refusal({"volume", "replace", dir_.file("none.img")}, 1, "none.img");
  expect_refusal({"volume", "replace", main_}, 1, "in use");
  expect_refusal({"volume", "replace", spare_}, 1, "in use");
  const std::string full = dir_.make_file("full.img", 8 * kMiB);
  const std::string foreign = dir_.make_file("foreign.img", kSpare);
  format(full, foreign);
  expect_refusal({"volume", "replace", foreign}, 1, "is not empty");
  expect_refusal({"volume", "replace"}, 2, "expected the path");
  expect_refusal({"volume", "replace", "--status", "--abort"}, 2, "--");
  expect_refusal({"volume", "replace", "--abort"}, 1, "not being replaced");
  EXPECT_EQ(volume_->stop().code, 0);
}

TEST_F(RemapReplaceWords, what_is_no_spare_for_it_is_refused_in_one_line) {
  const auto refused = [&](Words words, const std::string& part) {
    words.insert(words.begin(), {"volume", "replace", "--spare"});
    expect_refusal(words, 1, part);
  };
  refused({next_}, "expected at least");
  refused({dir_.file("none.img")}, "none.img");
  refused({main_}, "in use");
  refused({spare_}, "in use");
  refused({"--abort"}, "not being replaced");
  const std::string other = dir_.make_file("other.img", 8 * kMiB);
  const std::string foreign = dir_.make_file("foreign.img", kSpare);
  format(other, foreign);
  refused({foreign}, "is not empty");
  refused({foreign, "--force"}, "is SPARE");
  EXPECT_EQ(volume_->stop().code, 0);
}

TEST_F(RemapReplaceWords, a_spare_is_replaced_by_a_larger_one_and_says_so) {
  const std::string larger = dir_.make_file("larger.img", 2 * kSpare);
  const Client client(volume_->uri());
  ASSERT_EQ(client.write(kMiB, pattern(1, 4096)), 0);
  ASSERT_EQ(ctl(*volume_, {"map", "remap", "1M", "4096"}).code, 0);
  const std::uint64_t slots = volume_->show()["spare"]["slots"];
  const Ended begun = ctl(*volume_, {"volume", "replace", "--spare", larger});
  ASSERT_EQ(begun.code, 0) << begun.err;
  ASSERT_TRUE(reaches(*volume_, "done", true));
  EXPECT_TRUE(eventually(
      [&] { return volume_->show()["spare"]["slots"] > slots; }, 30s));
  EXPECT_EQ(volume_->show()["spare"]["name"], larger);
  EXPECT_EQ(status(*volume_)["phase"], "none") << "MAIN's";
  const Ended ended =
      ctl(*volume_, {"volume", "replace", "--status", "--spare"});
  EXPECT_NE(ended.out.find("done"), std::string::npos) << ended.out;
  EXPECT_EQ(volume_->stop().code, 0);
  RemapServer moved(dir_, "moved", main_, larger);
  moved.start();
  std::string data;
  EXPECT_EQ(Client(moved.uri()).read(kMiB, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(1, 4096));
  EXPECT_EQ(moved.show()["blocks"]["remapped"], 1);
  EXPECT_EQ(moved.stop().code, 0);
}

TEST_F(RemapReplaceWords, a_spare_without_room_for_notes_is_refused) {
  const std::string small = dir_.make_file("little.img", 4 * kMiB);
  const std::string other = dir_.make_file("other.img", 8 * kMiB);
  format(other, small);
  RemapServer volume(dir_, "little", other, small);
  volume.start();
  const Ended ended = ctl(volume, {"volume", "replace", next_});
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.err.find("64 MiB"), std::string::npos) << ended.err;
}

TEST_F(RemapReplaceWords, a_file_is_replaced_by_a_larger_one_and_says_so) {
  const Client client(volume_->uri());
  ASSERT_EQ(client.write(kMiB, pattern(1, 4096)), 0);
  fs::resize_file(next_, 16 * kMiB);
  const Ended begun = ctl(*volume_, {"volume", "replace", next_});
  ASSERT_EQ(begun.code, 0) << begun.err;
  EXPECT_NE(begun.out.find(next_), std::string::npos) << begun.out;
  ASSERT_TRUE(reaches(*volume_, "done"));
  const Ended ended = ctl(*volume_, {"volume", "replace", "--status"});
  EXPECT_EQ(ended.code, 0);
  EXPECT_NE(ended.out.find("done"), std::string::npos) << ended.out;
  EXPECT_EQ(volume_->show()["main"]["name"], next_);
  ASSERT_EQ(client.write(2 * kMiB, pattern(2, 4096), LIBNBD_CMD_FLAG_FUA), 0);
  volume_->kill();
  RemapServer moved(dir_, "moved", next_, spare_);
  moved.start();
  const Client again(moved.uri());
  EXPECT_EQ(again.size(), 8 * kMiB);
  std::string data;
  EXPECT_EQ(again.read(kMiB, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(1, 4096));
  EXPECT_EQ(again.read(2 * kMiB, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(2, 4096));
  EXPECT_EQ(ctl(moved, {"volume", "grow"}).code, 0);
  EXPECT_EQ(Client(moved.uri()).size(), 16 * kMiB);
  EXPECT_EQ(moved.stop().code, 0);
}

// Contract L2: a stop in the middle of it.
TEST_F(RemapReplaceWords, a_server_that_is_stopped_goes_on_where_it_was) {
  Server slow(dir_, "slow", {"--filter=delay", "file", next_, "wdelay=100ms"});
  slow.start();
  const Client client(volume_->uri());
  for (std::uint64_t at = 0; at < 8 * kMiB; at += kMiB)
    ASSERT_EQ(client.write(at, pattern(at, kMiB)), 0);
  ASSERT_EQ(ctl(*volume_, {"volume", "replace", slow.uri()}).code, 0);
  EXPECT_TRUE(
      eventually([&] { return status(*volume_)["copied_bytes"] >= 2 * kMiB; }));
  const Ended stopped = volume_->stop();
  EXPECT_EQ(stopped.code, 0);
  EXPECT_LT(stopped.took, 5s);
  std::printf("stopped in %ld ms\n", static_cast<long>(stopped.took.count()));
  volume_->start();
  const json now = status(*volume_);
  EXPECT_EQ(now["phase"], "copying");
  EXPECT_GE(now["copied_bytes"], 2 * kMiB) << now.dump(1);
  ASSERT_TRUE(reaches(*volume_, "done"));
  const Client again(volume_->uri());
  std::string data;
  for (std::uint64_t at = 0; at < 8 * kMiB; at += kMiB) {
    ASSERT_EQ(again.read(at, kMiB, &data), 0);
    EXPECT_TRUE(data == pattern(at, kMiB)) << at;
  }
}

}  // namespace
}  // namespace nbd_remap
