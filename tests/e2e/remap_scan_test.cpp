// SPDX-License-Identifier: BSD-3-Clause
// The scanner as an owner uses it, against a served volume whose MAIN is a bad
// disk: it finds what no client touched, and saves what can be saved.

#include <gtest/gtest.h>

#include <fstream>

#include "plugins/wire/http_client.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kMain = 16 << 20;

class RemapScan : public testing::Test {
 protected:
  void start(const Words& bad = {}, const Words& more = {},
             std::uint64_t spare_bytes = 64 << 20) {
    const std::string image = dir_.make_file("main.img", kMain);
    const std::string spare = dir_.make_file("spare.img", spare_bytes);
    data_ = pattern(9, kMain);
    {
      std::fstream file(image, std::ios::in | std::ios::out);
      file.write(data_.data(), static_cast<std::streamsize>(data_.size()));
    }
    disk_ = std::make_unique<BadDisk>(dir_, "disk", image, bad);
    disk_->start();
    format(disk_->uri(), spare);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", disk_->uri(), spare,
                                            more);
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
  json ask(Words words) const {
    words.emplace_back("--json");
    const Ended ended = ctl(words);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return json::parse(ended.out, nullptr, false);
  }
  json status() const { return ask({"scan", "status"}); }
  bool scanned() const {
    return eventually([&] { return status()["state"] == "stopped"; }, 60s);
  }
  std::string map_state(std::uint64_t block) const {
    return ask({"map", "explain", std::to_string(block * kBlock)})["state"];
  }
  bool holds_all_but(std::uint64_t block) const {
    const Client client(volume_->uri());
    std::string got;
    const std::uint64_t at = block * kBlock;
    return client.read(0, at, &got) == 0 && got == data_.substr(0, at) &&
           client.read(at + kBlock, kMain - at - kBlock, &got) == 0 &&
           got == data_.substr(at + kBlock);
  }

  ScratchDir dir_;
  std::string data_;
  std::unique_ptr<BadDisk> disk_;
  std::unique_ptr<RemapServer> volume_;
};

TEST_F(RemapScan, finds_what_no_client_has_touched) {
  start();
  disk_->add_bad({{"ranges", "8000+2"}, {"mode", "read"}});
  EXPECT_EQ(map_state(1000), "clean");
  const json begun = ask({"scan", "start"});
  EXPECT_EQ(begun["pass"]["plan"], "full");
  ASSERT_TRUE(scanned());
  EXPECT_GE(disk_->fired("read"), 1U);
  const json s = status();
  EXPECT_EQ(s["passes"], 1U);
  EXPECT_EQ(s["pass"]["bytes"], kMain);
  EXPECT_EQ(s["pass"]["unreadable_sectors"], 2U);
  EXPECT_TRUE(s["next_retest"].is_number());
  EXPECT_EQ(map_state(1000), "pending");
  EXPECT_TRUE(holds_all_but(1000));
  const Ended why = ctl({"map", "explain", std::to_string(1000 * kBlock)});
  EXPECT_NE(why.out.find("the scanner could not read it"), std::string::npos)
      << why.out;
  const json cells = ask({"map", "cells", "--cells=4"})["cells"];
  ASSERT_EQ(cells.size(), 4U);
  EXPECT_EQ(cells[0]["state"], "pending");
  EXPECT_EQ(cells[0]["pending"], 1U);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(cells[i]["state"], "good") << i;
  const Ended text = ctl({"scan", "status"});
  EXPECT_NE(text.out.find("read, 2 sectors unreadable"), std::string::npos)
      << text.out;
  const Ended drawn = ctl({"map", "cells"});
  EXPECT_NE(drawn.out.find("...............P......"), std::string::npos)
      << drawn.out;
  // What was pending comes back: tried again, and rescued.
  disk_->heal({{"all", true}});
  ask({"scan", "start", "--plan=pending"});
  ASSERT_TRUE(scanned());
  EXPECT_EQ(status()["came_back"], 1U);
  EXPECT_EQ(map_state(1000), "remapped");
  // All of it is known to the next server, however this one ends.
  volume_->stop();
  volume_->start();
  EXPECT_EQ(status()["passes"], 2U);
  EXPECT_EQ(status()["rescued"], 1U);
  EXPECT_TRUE(status()["not_kept"].is_null());
  EXPECT_EQ(ask({"map", "cells", "--cells=1"})["cells"][0]["state"], "errors");
  std::string got;
  EXPECT_EQ(Client(volume_->uri()).read(0, kMain, &got), 0);
  EXPECT_TRUE(got == data_);
}

TEST_F(RemapScan, rescues_what_can_be_read_with_trouble_only) {
  start();
  // It fails the chunk, each half down to the block, and then is read.
  disk_->add_bad({{"ranges", "8000"}, {"mode", "read"}, {"transient", 10}});
  ask({"scan", "start"});
  ASSERT_TRUE(scanned());
  EXPECT_GE(disk_->fired("read"), 9U);
  ASSERT_TRUE(eventually([&] { return map_state(1000) == "remapped"; }));
  const json s = status();
  EXPECT_EQ(s["pass"]["retried_blocks"], 1U);
  EXPECT_EQ(s["pass"]["unreadable_sectors"], 0U);
  EXPECT_EQ(s["rescued"], 1U);
  const Ended why = ctl({"map", "explain", std::to_string(1000 * kBlock)});
  EXPECT_NE(why.out.find("it was read, but not at the first try"),
            std::string::npos)
      << why.out;
  // Now it dies, and nobody notices.
  disk_->add_bad({{"ranges", "8000+8"}, {"mode", "read"}});
  volume_->kill();
  volume_->start();
  std::string got;
  EXPECT_EQ(Client(volume_->uri()).read(0, kMain, &got), 0);
  EXPECT_TRUE(got == data_);
}

TEST_F(RemapScan, the_policy_and_a_dry_run_leave_blocks_where_they_are) {
  start({}, {"rescue=pending"});
  disk_->add_bad({{"ranges", "8000"}, {"mode", "read"}, {"transient", 10}});
  ask({"scan", "start", "--dry-run"});
  ASSERT_TRUE(scanned());
  EXPECT_GE(disk_->fired("read"), 9U);
  EXPECT_EQ(status()["suspects"], 1U);
  EXPECT_EQ(status()["suspect_blocks"][0]["block"], 1000U);
  EXPECT_EQ(map_state(1000), "clean");
  EXPECT_EQ(ask({"map", "cells", "--cells=2"})["cells"][0]["state"], "suspect");
}

TEST_F(RemapScan, is_paused_and_resumed_over_a_restart) {
  start();
  ask({"scan", "start", "--rate=1M"});
  EXPECT_EQ(ctl({"scan", "start"}).code, 4);
  ASSERT_TRUE(eventually([&] { return status()["pass"]["bytes"] > 0U; }));
  ask({"scan", "pause"});
  const json before = status();
  EXPECT_EQ(before["state"], "paused");
  EXPECT_EQ(before["position"]["bytes_total"], kMain);
  volume_->stop();
  volume_->start();
  const json after = status();
  EXPECT_EQ(after["state"], "paused");
  EXPECT_EQ(after["rate"], "1048576");
  EXPECT_GE(after["position"]["bytes_done"], before["position"]["bytes_done"]);
  ask({"scan", "resume"});
  EXPECT_EQ(status()["state"], "running");
  ask({"scan", "stop"});
  EXPECT_EQ(status()["state"], "stopped");
  EXPECT_LT(status()["pass"]["bytes"], kMain);
  // A scan that runs is no reason to stop late.
  ask({"scan", "start"});
  EXPECT_LT(volume_->stop().took, 5s);
  volume_->start();
}

TEST_F(RemapScan, reads_first_what_somebody_doubts) {
  start({}, {}, 8 << 20);
  HttpClientOptions options;
  options.timeout = 5s;
  const auto volumes =
      http_request(volume_->control(), "GET", "/v1/volumes", "", options);
  ASSERT_TRUE(volumes);
  const std::string path =
      "/v1/volumes/" +
      percent_encode(json::parse(volumes->body)["volumes"][0]["name"]) +
      "/scan";
  disk_->add_bad({{"ranges", "8000"}, {"mode", "read"}});
  const auto post = [&](const std::string& body) {
    const auto answer =
        http_request(volume_->control(), "POST", path, body, options);
    return answer ? answer->status : 0;
  };
  for (const char* body :
       {"", "[]", "{}", R"({"seed":[]})", R"({"seed":[7]})",
        R"({"seed":[{"offset":0,"length":0}]})",
        R"({"seed":[{"offset":-1,"length":1}]})",
        R"({"seed":[{"offset":0,"length":16777217}]})",
        R"({"seed":[{"offset":18446744073709551615,"length":1}]})"})
    EXPECT_EQ(post(body), 400) << body;
  EXPECT_EQ(post(R"({"seed":[{"offset":4096000,"length":512}]})"), 200);
  ASSERT_TRUE(scanned());
  EXPECT_EQ(status()["pass"]["plan"], "seeds");
  EXPECT_EQ(map_state(1000), "pending");
  EXPECT_TRUE(status()["not_kept"].is_string()) << "SPARE is small";
}

TEST_F(RemapScan, what_is_wrong_is_one_line) {
  start();
  for (const Words& words :
       {Words{"scan", "start", "--plan=ful"},
        Words{"scan", "start", "--plan=range:16M+1"},
        Words{"scan", "start", "--plan=older-than:yesterday"},
        Words{"scan", "start", "--rate=fast"},
        Words{"scan", "start", "--rate=0%"}, Words{"scan", "pause"},
        Words{"scan", "resume"}, Words{"map", "cells", "--cells=0"},
        Words{"map", "cells", "--cells=9999"}, Words{"scan"},
        Words{"scan", "go"}}) {
    const Ended ended = ctl(words);
    const bool conflict = words.back() == "pause" || words.back() == "resume";
    EXPECT_EQ(ended.code, conflict ? 4 : 2) << words.back() << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
    EXPECT_TRUE(ended.out.empty()) << ended.out;
  }
  EXPECT_EQ(status()["state"], "stopped");
  EXPECT_TRUE(status()["pass"].is_null());
  for (const char* word : {"scan=often", "scan=0d", "scan-rate=1",
                           "scan-rate=200%", "rescue=yes"}) {
    const Ended ended = run_nbdkit(
        {REMAP_PLUGIN, disk_->uri(), "spare=" + volume_->spare, word});
    EXPECT_NE(ended.code, 0) << word;
    EXPECT_NE(ended.err.find("expected"), std::string::npos) << ended.err;
  }
}

}  // namespace
}  // namespace nbd_remap
