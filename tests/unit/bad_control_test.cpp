// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/control.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

class BadControl : public testing::Test {
 protected:
  HttpResponse ask(const std::string& method, const std::string& path,
                   const std::string& body = "",
                   std::map<std::string, std::string> query = {}) {
    return answer_control(disk_, {BadMode::both, 7, false, ENOSPC},
                          {method, path, std::move(query), body});
  }
  json state() { return json::parse(ask("GET", "/v1/baddisk").body); }

  static BadDiskOptions options() {
    BadDiskOptions options;
    options.write_cache_bytes = 1 << 20;
    options.sleep = [](std::chrono::milliseconds) { return false; };
    return options;
  }
  // Whether a request of that kind succeeds.
  bool reads(std::uint64_t sector) {
    std::vector<std::byte> data(512);
    return disk_.read(sector * 512, data).ok();
  }

  BadDisk disk_{std::make_unique<MemoryBackend>(1 << 20), options()};
};

TEST_F(BadControl, the_state_of_a_good_disk_is_shown) {
  const json s = state();
  EXPECT_EQ(s["size_sectors"], 2048);
  EXPECT_EQ(s["sector_bytes"], 512);
  EXPECT_EQ(s["seed"], 7);
  EXPECT_EQ(s["bad_sectors"], 0);
  EXPECT_EQ(s["bad"], json::array());
  EXPECT_EQ(s["fired"].size(), 8U);
  for (const auto& [kind, count] : s["fired"].items())
    EXPECT_EQ(count, 0) << kind;
  EXPECT_EQ(s["write_cache"]["power"], true);
  EXPECT_EQ(s["device"], json::parse(R"({"dead":false,"dies_after":null,
      "errno":"EIO","hung":false,"waiting":0})"));
  EXPECT_EQ(s["requests"]["flush"], 0);
}

// Mistake 34
TEST_F(BadControl, each_kind_of_request_moves_its_own_counter) {
  std::vector<std::byte> data(512);
  ASSERT_TRUE(
      disk_.bad().add(*parse_bad_list("9:read,10:write"), BadMode::both, 0));
  EXPECT_FALSE(disk_.read(9 * 512, data));
  EXPECT_TRUE(disk_.write(9 * 512, data, Durability::cached));
  EXPECT_FALSE(disk_.write(10 * 512, data, Durability::cached));
  EXPECT_FALSE(
      disk_.zero(10 * 512, 512, ZeroMode::may_punch, Durability::cached));
  EXPECT_TRUE(disk_.trim(10 * 512, 512));
  EXPECT_TRUE(disk_.flush());
  const json s = state();
  EXPECT_EQ(s["fired"]["read"], 1);
  EXPECT_EQ(s["fired"]["write"], 2);
  EXPECT_EQ(
      s["requests"],
      json(
          {{"read", 1}, {"write", 2}, {"zero", 1}, {"trim", 1}, {"flush", 1}}));
}

TEST_F(BadControl, sectors_are_made_bad_and_healed) {
  auto response =
      ask("POST", "/v1/baddisk/bad",
          R"({"ranges":"100-199,300:write","transient":2,"mode":"read"})");
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(
      json::parse(response.body)["bad"],
      json::parse(R"([{"start":100,"count":100,"mode":"read","transient":2},
                      {"start":300,"count":1,"mode":"write","transient":2}])"));
  response = ask("POST", "/v1/baddisk/heal", R"({"ranges":"100-109"})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(state()["bad_sectors"], 91);
  const auto limited =
      json::parse(ask("GET", "/v1/baddisk", "", {{"limit", "1"}}).body);
  EXPECT_EQ(limited["bad"].size(), 1U);
  EXPECT_EQ(limited["bad_runs"], 2);
  EXPECT_EQ(ask("POST", "/v1/baddisk/heal", R"({"all":true})").status, 200);
  EXPECT_EQ(state()["bad_sectors"], 0);
}

TEST_F(BadControl, a_number_or_a_percentage_is_chosen_by_seed) {
  ASSERT_EQ(ask("POST", "/v1/baddisk/bad", R"({"count":20,"seed":3})").status,
            200);
  const json first = state()["bad"];
  EXPECT_EQ(state()["bad_sectors"], 20);
  ask("POST", "/v1/baddisk/heal", R"({"all":true})");
  ask("POST", "/v1/baddisk/bad", R"({"count":20})");
  EXPECT_NE(state()["bad"], first);
  ask("POST", "/v1/baddisk/heal", R"({"all":true})");
  ask("POST", "/v1/baddisk/bad", R"({"count":20,"seed":3})");
  EXPECT_EQ(state()["bad"], first);
  ask("POST", "/v1/baddisk/heal", R"({"all":true})");
  EXPECT_EQ(ask("POST", "/v1/baddisk/bad", R"({"percent":12.5})").status, 200);
  EXPECT_EQ(state()["bad_sectors"], 256);
}

TEST_F(BadControl, every_fault_is_made_ended_and_counted) {
  const std::string root = "/v1/baddisk/";
  const auto post = [&](const std::string& action, const std::string& body) {
    const auto response = ask("POST", root + action, body);
    EXPECT_EQ(response.status, 200) << action << ": " << response.body;
    return json::parse(response.body);
  };
  EXPECT_EQ(
      post("slow", R"({"ranges":"5:read","delay_ms":40})")["slow"],
      json::parse(R"([{"start":5,"count":1,"mode":"read","delay_ms":40}])"));
  EXPECT_FALSE(reads(5));  // given up
  EXPECT_EQ(post("slow", R"({"ranges":"5","delay_ms":0})")["slow"].size(), 0U);
  EXPECT_TRUE(reads(5));

  EXPECT_EQ(post("rot", R"({"ranges":"6-7","seed":3,"bits":2})")["rot"],
            json::parse(R"([{"start":6,"count":2,"seed":3,"bits":2}])"));
  EXPECT_TRUE(reads(6));
  EXPECT_EQ(
      post("rot",
           R"({"count":3,"bits":1,"in_file":true})")["fired"]["rot_in_file"],
      3);

  EXPECT_EQ(post("die", R"({"after":1})")["device"]["dies_after"], 1);
  EXPECT_TRUE(reads(0));
  EXPECT_FALSE(reads(0));
  EXPECT_EQ(state()["device"]["errno"], "ENOSPC");
  EXPECT_EQ(post("die", R"({"errno":"EPERM"})")["device"]["errno"], "EPERM");
  EXPECT_EQ(post("revive", "")["device"]["dead"], false);
  EXPECT_TRUE(reads(0));

  EXPECT_EQ(post("hang", "{}")["device"]["hung"], true);
  EXPECT_FALSE(reads(0));
  EXPECT_EQ(post("unhang", "")["device"]["hung"], false);

  std::vector<std::byte> data(512);
  ASSERT_TRUE(disk_.write(0, data, Durability::cached));
  EXPECT_EQ(state()["write_cache"]["held_bytes"], 512);
  json cache = post("cut", R"({"kind":"all"})")["write_cache"];
  EXPECT_EQ(cache["power"], false);
  EXPECT_EQ(cache["sectors_lost"], 1);
  EXPECT_FALSE(reads(0));
  EXPECT_EQ(ask("POST", root + "cut", "").status, 409);
  EXPECT_EQ(ask("POST", root + "rot", R"({"count":1,"in_file":true})").status,
            409);
  EXPECT_EQ(post("power-on", "")["write_cache"]["power"], true);
  EXPECT_TRUE(reads(0));
  EXPECT_EQ(state()["fired"],
            json::parse(R"({"read":0,"write":0,"slow":1,"rot":1,
                "rot_in_file":3,"dead":1,"hung":1,"no_power":2})"));
}

TEST_F(BadControl, a_disk_without_a_write_cache_says_so) {
  BadDisk plain(std::make_unique<MemoryBackend>(1 << 20), BadDiskOptions());
  const auto response = answer_control(plain, BadDiskDefaults(),
                                       {"POST", "/v1/baddisk/cut", {}, "{}"});
  EXPECT_EQ(response.status, 409);
  EXPECT_NE(response.body.find("write-cache="), std::string::npos);
  EXPECT_EQ(json::parse(answer_control(plain, BadDiskDefaults(),
                                       {"GET", "/v1/baddisk", {}, ""})
                            .body)["write_cache"],
            nullptr);
}

TEST_F(BadControl, what_is_refused_is_a_problem_and_changes_nothing) {
  ASSERT_EQ(ask("POST", "/v1/baddisk/bad", R"({"ranges":"5"})").status, 200);
  const json before = state();
  struct Case {
    std::string method, path, body;
    int status;
    std::string word;
  };
  const std::string bad = "/v1/baddisk/bad";
  const std::string heal = "/v1/baddisk/heal";
  const std::string slow = "/v1/baddisk/slow";
  const std::string rot = "/v1/baddisk/rot";
  const std::string die = "/v1/baddisk/die";
  const std::string cut = "/v1/baddisk/cut";
  for (const Case& c : {
           Case{"POST", bad, "", 400, "JSON object"},
           Case{"POST", bad, "[]", 400, "JSON object"},
           Case{"POST", bad, "{\"ranges\":\"7\"", 400, "JSON object"},
           Case{"POST", bad, std::string(100'000, '['), 400, "JSON object"},
           Case{"POST", bad, "{}", 400, "one of"},
           Case{"POST", bad, R"({"ranges":"7","count":1})", 400, "one of"},
           Case{"POST", bad, R"({"count":1,"percent":1})", 400, "one of"},
           Case{"POST", bad, R"({"ranges":7})", 400, "ranges"},
           Case{"POST", bad, R"({"ranges":"7,x"})", 400, "\\\"x\\\""},
           Case{"POST", bad, R"({"ranges":"7,2048"})", 400, "2048 sectors"},
           Case{"POST", bad, R"({"ranges":"7","seed":1})", 400, "seed"},
           Case{"POST", bad, R"({"ranges":"7","mode":"x"})", 400, "mode"},
           Case{"POST", bad, R"({"ranges":"7","mode":1})", 400, "mode"},
           Case{"POST", bad, R"({"ranges":"7","transient":-1})", 400,
                "transient"},
           Case{"POST", bad, R"({"ranges":"7","transient":4294967296})", 400,
                "transient"},
           Case{"POST", bad, R"({"ranges":"7","sectors":1})", 400, "sectors"},
           Case{"POST", bad, R"({"count":2049})", 400, "2049 sectors"},
           Case{"POST", bad, R"({"count":1.5})", 400, "count"},
           Case{"POST", bad, R"({"percent":0})", 400, "percent"},
           Case{"POST", bad, R"({"percent":101})", 400, "percent"},
           Case{"POST", bad, R"({"percent":"5"})", 400, "percent"},
           Case{"POST", heal, R"({"all":false})", 400, "one of the two"},
           Case{"POST", heal, R"({"all":1})", 400, "one of the two"},
           Case{"POST", heal, R"({"all":true,"ranges":"5"})", 400,
                "of the two"},
           Case{"POST", heal, R"({"ranges":"5,2048"})", 400, "2048 sectors"},
           Case{"POST", slow, R"({"ranges":"5"})", 400, "delay_ms"},
           Case{"POST", slow, R"({"ranges":"5","delay_ms":600001})", 400,
                "600000"},
           Case{"POST", slow, R"({"delay_ms":5})", 400, "one of"},
           Case{"POST", slow, R"({"ranges":"2048","delay_ms":5})", 400,
                "2048 sectors"},
           Case{"POST", rot, R"({"ranges":"5","bits":65})", 400, "64"},
           Case{"POST", rot, R"({"ranges":"5","in_file":1})", 400, "in_file"},
           Case{"POST", rot, R"({"ranges":"2048","in_file":true})", 400,
                "2048 sectors"},
           Case{"POST", rot, R"({"ranges":"5","bits":-1})", 400, "bits"},
           Case{"POST", die, R"({"errno":"EAGAIN"})", 400, "ESHUTDOWN"},
           Case{"POST", die, R"({"after":"x"})", 400, "after"},
           Case{"POST", die, R"({"now":true})", 400, "now"},
           Case{"POST", "/v1/baddisk/revive", R"({"x":1})", 400, "x"},
           Case{"POST", "/v1/baddisk/hang", "[]", 400, "JSON object"},
           Case{"POST", cut, R"({"kind":"some"})", 400, "reordered"},
           Case{"POST", cut, R"({"seed":-1})", 400, "seed"},
           Case{"POST", "/v1/baddisk/explode", "", 404, "power-on"},
           Case{"GET", cut, "", 405, "POST"},
           Case{"GET", bad, "", 405, "POST"},
           Case{"DELETE", "/v1/baddisk", "", 405, "GET"},
           Case{"GET", "/v1/baddisk/", "", 404, "/v1/baddisk"},
           Case{"GET", "/", "", 404, "/v1/baddisk"},
       }) {
    const auto response = ask(c.method, c.path, c.body);
    EXPECT_EQ(response.status, c.status) << c.body.substr(0, 80);
    EXPECT_EQ(response.content_type, "application/problem+json");
    EXPECT_NE(response.body.find(c.word), std::string::npos)
        << c.body.substr(0, 80) << " -> " << response.body;
    EXPECT_EQ(state(), before) << c.body.substr(0, 80);
  }
  for (const std::string limit : {"", "x", "-1", "100001"})
    EXPECT_EQ(ask("GET", "/v1/baddisk", "", {{"limit", limit}}).status, 400);
  EXPECT_EQ(ask("GET", "/v1/baddisk", "", {{"from", "1"}}).status, 400);
}

}  // namespace
}  // namespace nbd_remap
