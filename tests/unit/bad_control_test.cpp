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
    return answer_control(disk_, {BadMode::both, 7, false},
                          {method, path, std::move(query), body});
  }
  json state() { return json::parse(ask("GET", "/v1/baddisk").body); }

  BadDisk disk_{std::make_unique<MemoryBackend>(1 << 20), false, EIO};
};

TEST_F(BadControl, the_state_of_a_good_disk_is_shown) {
  const json s = state();
  EXPECT_EQ(s["size_sectors"], 2048);
  EXPECT_EQ(s["sector_bytes"], 512);
  EXPECT_EQ(s["seed"], 7);
  EXPECT_EQ(s["bad_sectors"], 0);
  EXPECT_EQ(s["bad"], json::array());
  EXPECT_EQ(s["fired"], json({{"read", 0}, {"write", 0}}));
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
  EXPECT_EQ(s["fired"], json({{"read", 1}, {"write", 2}}));
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

TEST_F(BadControl, what_is_refused_is_a_problem_and_changes_nothing) {
  ASSERT_EQ(ask("POST", "/v1/baddisk/bad", R"({"ranges":"5"})").status, 200);
  const json before = state()["bad"];
  struct Case {
    std::string method, path, body;
    int status;
    std::string word;
  };
  const std::string bad = "/v1/baddisk/bad";
  const std::string heal = "/v1/baddisk/heal";
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
    EXPECT_EQ(state()["bad"], before) << c.body.substr(0, 80);
  }
  for (const std::string limit : {"", "x", "-1", "100001"})
    EXPECT_EQ(ask("GET", "/v1/baddisk", "", {{"limit", limit}}).status, 400);
  EXPECT_EQ(ask("GET", "/v1/baddisk", "", {{"from", "1"}}).status, 400);
}

}  // namespace
}  // namespace nbd_remap
