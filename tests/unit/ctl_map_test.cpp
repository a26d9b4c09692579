// SPDX-License-Identifier: BSD-3-Clause
// The map commands against servers that answer what a test wants: slow ones,
// busy ones, and ones that lie.
#include "server/ctl_map.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "plugins/base/units.hpp"
#include "plugins/wire/http_server.hpp"
#include "server/ctl_map_text.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr const char* kBase = "/v1/volumes/disk";

json volume(std::uint64_t size = 1 << 20) {
  return {{"schema", 1},
          {"size", size},
          {"block_size", 4096},
          {"spare", {{"slots", 10}, {"used", 2}, {"retired", 1}}}};
}

json entry(std::uint64_t block, bool remapped, json sectors) {
  return {{"block", block},
          {"offset", block * 4096},
          {"state", remapped ? "remapped" : "pending"},
          {"slot", remapped ? json(1) : json()},
          {"unreadable_sectors", std::move(sectors)}};
}

json page(json entries) {
  return {{"schema", 1},
          {"block_size", 4096},
          {"entries", std::move(entries)},
          {"next", nullptr}};
}

json step(json next, json error = nullptr, std::uint64_t remapped = 1) {
  json counts;
  for (const char* key :
       {"looked_at", "remapped", "already", "unmapped", "incomplete",
        "main_bad", "readable", "cleared_sectors", "pending"})
    counts[key] = 0U;
  counts["remapped"] = remapped;
  return {{"schema", 1},
          {"job", {{"id", 7}, {"state", "done"}}},
          {"counts", counts},
          {"next", std::move(next)},
          {"error", std::move(error)}};
}

class CtlMapTest : public testing::Test {
 protected:
  using Answer = std::function<json(const HttpRequest&)>;

  CtlMapTest() {
    std::string name = std::filesystem::temp_directory_path() / "map-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~CtlMapTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }
  void serve(Answer answer) {
    auto server = HttpServer::start(
        folder_ + "/control",
        [this, answer = std::move(answer)](const HttpRequest& request) {
          ++asked_;
          if (request.path == kBase) return HttpResponse{200, about_.dump()};
          return HttpResponse{200, answer(request).dump()};
        },
        [](LogLevel, std::string_view) {});
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
  }
  ControlClient client() const {
    return {folder_ + "/control", std::chrono::milliseconds(5000)};
  }
  std::string file(std::string_view text) const {
    std::ofstream(folder_ + "/list") << text;
    return folder_ + "/list";
  }
  Result<MapAnswer> remap(std::uint64_t offset, std::uint64_t length) {
    return map_act(client(), "disk", "remap", offset, length, quiet_);
  }

  std::string folder_;
  json about_ = volume();  // what the server says of the volume
  std::atomic<int> asked_{0};
  const Progress quiet_ = [](const std::string&) {};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(CtlMapTest, a_long_range_is_done_step_by_step) {
  std::vector<std::string> targets;
  serve([&](const HttpRequest& r) {
    targets.push_back(r.method + r.path.substr(std::string(kBase).size()) +
                      " " + r.query.at("offset") + "+" + r.query.at("length"));
    const std::uint64_t at = std::stoull(r.query.at("offset"));
    return step(at < 8192 ? json(at + 4096) : json());
  });
  std::vector<std::string> lines;
  const auto answer =
      map_act(client(), "disk", "remap", 0, 12288,
              [&](const std::string& line) { lines.push_back(line); });
  ASSERT_TRUE(answer) << answer.error().text();
  EXPECT_EQ(targets, (std::vector<std::string>{"POST/remap 0+12288",
                                               "POST/remap 4096+8192",
                                               "POST/remap 8192+4096"}));
  EXPECT_EQ(answer->json["counts"]["remapped"], 3U);
  EXPECT_EQ(answer->status, ExitStatus::fine);
  EXPECT_EQ(lines.back(), "remap: 12288 of 12288 bytes done");
}

TEST_F(CtlMapTest, without_a_length_it_is_the_block) {
  std::string target;
  serve([&](const HttpRequest& r) {
    target = r.query.at("offset") + "+" + r.query.at("length");
    return step(nullptr);
  });
  ASSERT_TRUE(map_act(client(), "disk", "unmap", 5000, {}, quiet_));
  EXPECT_EQ(target, "4096+4096");
  const auto beyond = map_act(client(), "disk", "unmap", 1 << 20, {}, quiet_);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(exit_status(beyond.error()), ExitStatus::usage);
}

TEST_F(CtlMapTest, a_step_that_takes_long_is_waited_for) {
  int questions = 0;
  serve([&](const HttpRequest& r) -> json {
    EXPECT_EQ(r.path, questions == 0 ? std::string(kBase) + "/remap"
                                     : std::string(kBase) + "/jobs/7");
    if (++questions < 4)
      return {{"schema", 1}, {"job", {{"id", 7}, {"state", "running"}}}};
    return step(nullptr);
  });
  const auto answer = remap(0, 4096);
  ASSERT_TRUE(answer) << answer.error().text();
  EXPECT_EQ(questions, 4);
}

TEST_F(CtlMapTest, a_step_that_failed_says_where_and_why) {
  serve([&](const HttpRequest&) { return step(4096, "spare: full\x1b"); });
  const auto answer = remap(0, 12288);
  ASSERT_TRUE(answer);
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(answer->status, ExitStatus::failed);
  EXPECT_NE(answer->text.find("1 remapped\nStopped at byte 4096: spare: "
                              "full\\x1b\n"),
            std::string::npos)
      << answer->text;
  EXPECT_EQ(answer->json["stopped_at"], 4096U);
}

TEST_F(CtlMapTest, what_could_not_go_back_is_a_failure) {
  serve([&](const HttpRequest&) {
    json s = step(nullptr);
    s["counts"]["incomplete"] = 2U;
    return s;
  });
  EXPECT_EQ(remap(0, 4096)->status, ExitStatus::failed);
}

TEST_F(CtlMapTest, a_server_that_lies_is_left) {
  json answer;
  serve([&](const HttpRequest&) { return answer; });
  json no_counts = step(nullptr);
  no_counts.erase("counts");
  json negative = step(nullptr);
  negative["counts"]["pending"] = -1;
  json no_job = step(nullptr);
  no_job.erase("job");
  json text_id = step(nullptr);
  text_id["job"]["id"] = "7";
  for (const json& lie :
       {step(0), step(12289), step("4096"), step(-1), no_counts, negative,
        no_job, text_id, step(4096, 7), json{{"schema", 1}}}) {
    answer = lie;
    const int before = asked_;
    const auto got = remap(0, 12288);
    ASSERT_FALSE(got) << lie;
    EXPECT_EQ(got.error().errnum, EPROTO) << lie;
    EXPECT_EQ(asked_, before + 1) << lie;
  }
}

TEST_F(CtlMapTest, an_export_joins_neighbours_and_keeps_the_two_views_apart) {
  serve([&](const HttpRequest&) {
    return page({entry(1, false, {14, 15}), entry(2, true, {16}),
                 entry(255, true, json::array())});
  });
  auto text = map_export(client(), "disk", {ListFormat::badblocks, 512, false});
  ASSERT_TRUE(text) << text.error().text();
  EXPECT_EQ(text->text, "14\n15\n16\n");
  EXPECT_EQ(text->json["bad"],
            json::parse(R"([{"offset":7168,"length":1536}])"));
  text = map_export(client(), "disk", {ListFormat::badblocks, 4096, true});
  EXPECT_EQ(text->text, "1\n2\n255\n");
}

TEST_F(CtlMapTest, a_map_that_makes_no_sense_is_not_exported) {
  json entries;
  serve([&](const HttpRequest&) { return page(entries); });
  for (const json& lie :
       {json::array({entry(256, false, {2048})}),
        json::array({entry(1, false, {16})}),
        json::array({entry(1, false, {7})}),
        json::array({entry(1, false, {9, 8})}),
        json::array({entry(1, false, {9, 9})}),
        json::array({entry(2, false, {16}), entry(1, false, {8})}),
        json::array({entry(1, false, "all")}), json::array({7}),
        json::array({entry(~std::uint64_t{0}, false, {1})})}) {
    entries = lie;
    const auto text = map_export(client(), "disk", {});
    ASSERT_FALSE(text) << lie;
    EXPECT_EQ(text.error().errnum, EPROTO);
  }
}

// A list has a line for each piece of a block: it must not be the server that
// says how many. Contract C14.
TEST_F(CtlMapTest, a_block_that_no_volume_has_is_not_exported) {
  about_ = volume(std::uint64_t{1} << 62);
  serve([](const HttpRequest&) {
    return page(json::array({entry(0, true, json::array())}));
  });
  const MapExport list{ListFormat::badblocks, 1024, true};
  for (const std::uint64_t block : {kMaxBlockBytes, 4096U, 512U}) {
    about_["block_size"] = block;
    EXPECT_TRUE(map_export(client(), "disk", list)) << block;
  }
  for (const std::uint64_t block :
       {std::uint64_t{kMaxBlockBytes} * 2, std::uint64_t{1} << 25}) {
    about_["block_size"] = block;
    const auto refused = map_export(client(), "disk", list);
    ASSERT_FALSE(refused) << block;
    EXPECT_NE(refused.error().place.find("\"block_size\" is no size"),
              std::string::npos)
        << refused.error().place;
  }
}

TEST_F(CtlMapTest, an_import_asks_for_each_block_once) {
  std::vector<std::string> asked;
  serve([&](const HttpRequest& r) {
    asked.push_back(r.path.substr(r.path.rfind('/') + 1) + " " +
                    r.query.at("offset") + "+" + r.query.at("length"));
    return step(nullptr);
  });
  // Two sectors of block 0, one of block 1, and a place in block 4.
  const auto done = map_import(
      client(), "disk",
      {file("0 + 1\n0 512 -\n512 512 +\n1024 512 -\n1536 2560 +\n4096 512 -\n"
            "4608 13824 +\n18432 512 /\n"),
       ListFormat::ddrescue, 1024, false},
      quiet_);
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(asked,
            (std::vector<std::string>{"remap 0+8192", "check 16384+4096"}));
}

TEST_F(CtlMapTest, a_dry_run_counts_and_posts_nothing) {
  serve([&](const HttpRequest& r) {
    EXPECT_EQ(r.method, "GET");
    return page({entry(0, true, json::array()), entry(3, false, {24})});
  });
  MapImport what{file("0\n3\n12\n13\n"), ListFormat::badblocks, 4096, true};
  auto plan = map_import(client(), "disk", what, quiet_);
  ASSERT_TRUE(plan) << plan.error().text();
  EXPECT_EQ(plan->json["to_remap"], 3U);
  EXPECT_EQ(plan->json["of_them_pending"], 1U);
  EXPECT_EQ(plan->json["already"], 1U);
  EXPECT_EQ(plan->json["free_slots"], 7U);
  EXPECT_EQ(plan->status, ExitStatus::fine);
  std::string many;
  for (int b = 100; b < 108; ++b) many += fmt::format("{}\n", b);
  what.file = file(many);
  plan = map_import(client(), "disk", what, quiet_);
  EXPECT_EQ(plan->status, ExitStatus::failed);
  EXPECT_NE(plan->text.find("Not all of them fit"), std::string::npos);
}

TEST_F(CtlMapTest, a_file_is_checked_before_the_server_is_asked_to_act) {
  serve([&](const HttpRequest& r) -> json {
    ADD_FAILURE() << r.path;
    return {};
  });
  const auto done = map_import(
      client(), "disk",
      {file("1\n2\n256\n"), ListFormat::badblocks, 4096, false}, quiet_);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().place.find("/list: line 3: block 256 of 4096"),
            std::string::npos)
      << done.error().place;
}

TEST(CtlMapText, the_numbers_of_the_file_systems_are_worked_out) {
  const auto commands = file_commands(8192 + 700);
  EXPECT_EQ(commands["ext4"][0], "debugfs -R \"icheck 2\" DEVICE");
  EXPECT_EQ(commands["xfs"][0],
            "xfs_db -r -c \"blockget -n\" -c \"daddr 17\" -c \"blockuse -n\" "
            "DEVICE");
  EXPECT_EQ(commands["ntfs"][0], "ntfscluster -s 17-17 DEVICE");
}

json explained() {
  return json::parse(R"({"schema":1,"offset":8700,"size":1048576,"block":2,
    "block_size":4096,"state":"remapped",
    "slot":{"number":5,"spare_offset":90112},
    "place":null,"unreadable_sectors":[16,17],
    "history":{"since":1700000000,"forgotten":0,"events":[
      {"time":1700000060,"event":"remapped","slot":5,
       "reason":"a write to MAIN failed","error":"Input/output error"},
      {"time":1700000070,"event":"pending\u001b","slot":null,"reason":"x",
       "error":null}]}})");
}

TEST(CtlMapText, an_explanation_says_where_and_why) {
  const auto text = render_explain(explained());
  ASSERT_TRUE(text) << text.error().text();
  for (const char* words :
       {"Byte 8700 is in block 2 (of 4096 bytes), which is remapped.\n",
        "slot 5, at byte 90112 of SPARE.\n",
        "The byte has no data: ", "Sectors of 512 bytes without data: 16 17\n",
        "History since 2023-11-14 22:13:20 UTC, when the server started",
        // NOLINTNEXTLINE(bugprone-suspicious-missing-comma)
        "  2023-11-14 22:14:20 UTC  remapped, slot 5: a write to MAIN failed "
        "(Input/output error)\n",
        "pending\\x1b: x\n"})
    EXPECT_NE(text->find(words), std::string::npos) << words << *text;
}

TEST(CtlMapText, a_member_that_is_not_as_it_should_be_is_named) {
  for (const char* key : {"offset", "block", "block_size", "state", "slot",
                          "place", "unreadable_sectors", "history"}) {
    json answer = explained();
    answer.erase(key);
    const auto text = render_explain(answer);
    ASSERT_FALSE(text) << key;
    EXPECT_NE(text.error().place.find(key), std::string::npos);
    answer[key] = 1.5;
    EXPECT_FALSE(render_explain(answer)) << key;
  }
  json answer = explained();
  answer["history"]["since"] = ~std::uint64_t{0};
  EXPECT_TRUE(render_explain(answer));
}

}  // namespace
}  // namespace nbd_remap
