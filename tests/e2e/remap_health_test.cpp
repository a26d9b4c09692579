// SPDX-License-Identifier: BSD-3-Clause
// What a drive says of itself finds its bad places; what an owner has seen is
// not shouted about again.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMain = 16 << 20;
// The fixture's partition begins at LBA 2048. On it: sectors 16384 to 16387, 8
// and 40; two more LBAs are before it and behind it.
constexpr const char* kPartition = "--offset-of-partition=1M";

std::string fixture(const std::string& name) {
  return std::string(SMART_FIXTURES "/") + name;
}

class RemapHealth : public testing::Test {
 protected:
  void start(std::uint64_t spare_bytes = 64 << 20) {
    image_ = dir_.make_file("main.img", kMain);
    spare_ = dir_.make_file("spare.img", spare_bytes);
    disk_ = std::make_unique<BadDisk>(dir_, "disk", image_);
    disk_->start();
    // 20000 is what the drive does not know of.
    for (const char* sectors : {"16384-16385", "8", "20000"})
      disk_->add_bad({{"ranges", sectors}, {"mode", "read"}});
    format(disk_->uri(), spare_);
    volume_ =
        std::make_unique<RemapServer>(dir_, "volume", disk_->uri(), spare_);
    volume_->verbose = false;
    volume_->start();
  }
  void TearDown() override {
    if (!volume_) return;
    EXPECT_EQ(volume_->stop().code, 0) << volume_->log();
  }
  Ended ctl(Words words) const {
    words.insert(words.begin(), NBD_REMAPCTL);
    words.push_back("--socket=" + volume_->control());
    return run(words);
  }
  Ended seed(Words words) const {
    words.insert(words.begin(), {"scan", "seed"});
    return ctl(words);
  }
  json ctl_json(Words words) const {
    words.emplace_back("--json");
    const Ended ended = ctl(std::move(words));
    EXPECT_EQ(ended.err, "");
    return json::parse(ended.out, nullptr, false);
  }
  std::uint64_t pending() const { return volume_->show()["blocks"]["pending"]; }
  json health() const { return volume_->show()["health"]; }
  void restart(bool kill) {
    if (kill)
      volume_->kill();
    else
      EXPECT_EQ(volume_->stop().code, 0) << volume_->log();
    volume_->start();
  }

  ScratchDir dir_;
  std::string image_;
  std::string spare_;
  std::unique_ptr<BadDisk> disk_;
  std::unique_ptr<RemapServer> volume_;
};

TEST_F(RemapHealth, the_places_that_the_drive_names_are_read_first) {
  start();
  const std::string saved =
      "--smart-json=" + fixture("ata-small-partition.json");
  const Ended dry = seed({saved, kPartition, "--dry-run"});
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_NE(dry.out.find("8 sectors, 6 of them on the volume"),
            std::string::npos)
      << dry.out;
  EXPECT_NE(dry.out.find("would read 4096 bytes at 8388608\n"),
            std::string::npos)
      << dry.out;
  EXPECT_EQ(disk_->fired("read"), 0U);
  EXPECT_TRUE(health()["smart"].is_null());

  const json done = ctl_json({"scan", "seed", saved, std::string(kPartition)});
  EXPECT_EQ(done["places"], 8U);
  EXPECT_EQ(done["outside"], 2U);
  EXPECT_EQ(done["seeds"][0]["offset"], 8388608U);
  EXPECT_EQ(done["found"]["blocks"], 3U);
  EXPECT_EQ(done["found"]["pending"], 2U);
  EXPECT_EQ(done["found"]["places_left"], 0U);
  EXPECT_EQ(ctl_json({"scan", "status"})["pass"]["plan"], "seeds");
  EXPECT_GE(disk_->fired("read"), 2U);
  EXPECT_EQ(pending(), 2U) << "and nobody read sector 20000";
  EXPECT_EQ(ctl_json({"map", "explain", "8388608"})["state"], "pending");
  EXPECT_EQ(ctl_json({"map", "explain", "4096"})["state"], "pending");
  EXPECT_EQ(ctl_json({"map", "explain", "20480"})["state"], "clean");

  EXPECT_EQ(health()["smart"]["pending"], 8U);
  const Ended show = ctl({"volume", "show"});
  EXPECT_NE(show.out.find("smart: 10 of 20 lost; 8 pending, 16 reallocated"),
            std::string::npos)
      << show.out;
  EXPECT_NE(show.out.find("pending: 10 of 20 lost; 2 blocks"),
            std::string::npos)
      << show.out;
  restart(true);
  EXPECT_EQ(health()["smart"]["pending"], 8U) << "survives kill -9";
}

TEST_F(RemapHealth, what_is_acknowledged_is_quiet_until_it_is_worse) {
  start();
  EXPECT_EQ(ctl({"health"}).code, 0);
  std::string got;
  const auto read = [&](std::uint64_t sector) {
    return Client(volume_->uri()).read(sector * 512, 512, &got);
  };
  EXPECT_EQ(read(8), EIO);
  EXPECT_EQ(disk_->fired("read") > 0, true);
  Ended told = ctl({"health"});
  EXPECT_EQ(told.code, 1);
  EXPECT_NE(told.out.find("1 block has unreadable sectors"), std::string::npos)
      << told.out;
  EXPECT_NE(told.out.find("map explain"), std::string::npos) << told.out;
  const json known = ctl_json({"volume", "acknowledge"});
  EXPECT_EQ(known["alert"], false);
  EXPECT_EQ(known["saved"], "yes");
  EXPECT_EQ(known["acknowledged"]["counts"]["pending"], 1U);
  for (const bool kill : {false, true}) {
    told = ctl({"health"});
    EXPECT_EQ(told.code, 0) << told.out;
    EXPECT_EQ(told.out.find("degraded\n"), 0U) << told.out;
    EXPECT_NE(told.out.find("acknowledged, nothing is worse since"),
              std::string::npos)
        << told.out;
    restart(kill);
  }
  EXPECT_EQ(read(8), EIO);
  EXPECT_EQ(ctl({"health"}).code, 0) << "the same one again";
  EXPECT_EQ(read(20000), EIO);
  told = ctl({"health"});
  EXPECT_EQ(told.code, 1) << "a new one";
  EXPECT_EQ(ctl_json({"health"})["volumes"][0]["alert"], true);
  EXPECT_NE(ctl({"volume", "show"}).out.find("; worse since"),
            std::string::npos);
}

TEST_F(RemapHealth, a_small_spare_says_that_it_keeps_nothing) {
  start(8 << 20);
  std::string got;
  EXPECT_EQ(Client(volume_->uri()).read(8 * 512, 512, &got), EIO);
  const Ended known = ctl({"volume", "acknowledge"});
  EXPECT_EQ(known.code, 0) << known.err;
  EXPECT_NE(known.out.find("until the server stops"), std::string::npos)
      << known.out;
  EXPECT_EQ(ctl({"health"}).code, 0);
  restart(false);
  EXPECT_EQ(ctl({"health"}).code, 1);
}

TEST_F(RemapHealth, a_paused_scan_reads_the_places_when_it_goes_on) {
  start();
  ctl_json({"scan", "start", "--plan=range:11M+1M", "--rate=32K"});
  EXPECT_EQ(ctl_json({"scan", "pause"})["state"], "paused");
  const Ended done =
      seed({"--smart-json=" + fixture("ata-small-partition.json"), kPartition});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("3 places still to be read: the scan is paused"),
            std::string::npos)
      << done.out;
  EXPECT_EQ(pending(), 0U);
  EXPECT_EQ(ctl_json({"scan", "status"})["seeds_left"], 3U);
  ctl_json({"scan", "resume"});
  EXPECT_TRUE(eventually([this] { return pending() == 2; }));
  ctl_json({"scan", "stop"});
}

TEST_F(RemapHealth, smartctl_is_asked_by_the_tool_not_by_the_server) {
  start();
  const std::string script = dir_.file("smartctl");
  std::ofstream(script) << "#!/bin/sh\nps -o comm= -p $PPID > "
                        << dir_.file("parent") << "\ncat "
                        << fixture("ata-small-partition.json") << "\nexit 64\n";
  ASSERT_EQ(::chmod(script.c_str(), 0755), 0);
  const char* path = std::getenv("PATH");  // NOLINT: one thread
  const std::string before = path == nullptr ? "" : path;
  ::setenv("PATH", (dir_.path() + ":" + before).c_str(), 1);  // NOLINT
  // No disk, but no file either: good enough for the script.
  const Ended done = seed({"--device=/dev/null", kPartition});
  ::setenv("PATH", before.c_str(), 1);  // NOLINT: one thread
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(pending(), 2U) << done.out;
  std::string parent;
  std::getline(std::ifstream(dir_.file("parent")) >> std::ws, parent);
  EXPECT_EQ(parent, "nbd-remapctl");
}

TEST_F(RemapHealth, bad_input_is_one_line_and_changes_nothing) {
  start();
  const std::string good = "--smart-json=" + fixture("ata-pending.json");
  std::ofstream(dir_.file("rubbish")) << "\x7f"
                                      << "ELF\x01\xff\n\n";
  struct Case {
    Words words;
    int code;
    const char* says;
  };
  for (const Case& c : std::vector<Case>{
           {{}, 2, "one of --device=DISK and --smart-json=FILE"},
           {{good, "--device=/dev/null"}, 2, "one of --device"},
           {{good}, 2, "MAIN is remote"},
           {{good, "--offset-of-partition=x"}, 2, "expected auto, or a number"},
           {{good, "--offset-of-partition=100"}, 2, "whole sectors of 512"},
           {{"--smart-json=/nowhere/file", kPartition}, 3, "/nowhere/file: No"},
           {{"--smart-json=" + dir_.file("rubbish"), kPartition},
            1,
            "no JSON from byte 1"},
           {{"--smart-json=" + fixture("usb-bridge.json"), kPartition},
            1,
            "Unknown USB bridge"},
           {{"--smart-json=" + fixture("no-smart.json"), kPartition},
            3,
            "no SMART data"},
           {{"--device=/nowhere", kPartition}, 3, "/nowhere: No such"},
           {{"--device=" + image_, kPartition}, 1, "is no disk"},
           {{good, kPartition, "other"}, 3, "other"},
           {{good, kPartition, "--frobnicate"}, 2, "--frobnicate"},
       }) {
    const Ended ended = seed(c.words);
    EXPECT_EQ(ended.code, c.code) << c.says << ended.err;
    EXPECT_EQ(ended.out, "") << c.says;
    EXPECT_NE(ended.err.find(c.says), std::string::npos) << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
  }
  EXPECT_EQ(disk_->fired("read"), 0U);
  EXPECT_EQ(pending(), 0U);
  EXPECT_TRUE(health()["smart"].is_null());
  EXPECT_TRUE(health()["acknowledged"].is_null());
}

// Nobody names it, nothing is there to find: it is a fact of its own.
TEST_F(RemapHealth, a_drive_that_fails_by_its_own_word_is_told_at_once) {
  start();
  const Ended done =
      seed({"--smart-json=" + fixture("nvme-failing.json"), kPartition});
  EXPECT_EQ(done.code, 0) << done.err;
  const Ended told = ctl({"health"});
  EXPECT_EQ(told.code, 1);
  EXPECT_NE(told.out.find("it is failing: copy what matters away"),
            std::string::npos)
      << told.out;
  EXPECT_EQ(health()["score"], 80U);
}

}  // namespace
}  // namespace nbd_remap
