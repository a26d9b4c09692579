// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_render.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "server/ctl_spare.hpp"

#include "server/answer_fields.hpp"
#include "server/ctl_render_health.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

json volume() {
  return json::parse(R"json({
    "schema": 1, "name": "disk", "state": "degraded",
    "reasons": ["one copy of the map is out of step"],
    "size": 1073741824, "block_size": 4096, "read_only": false,
    "quiesced": false, "build": "0.1.0 (abc)", "pid": 321, "uptime_seconds": 3725,
    "flush_in_doubt": false,
    "main": {"name": "/dev/sdb", "direct": true, "remote": false,
             "link": {"connected": true, "reconnects": 0,
                      "replayed_bytes": 0},
             "failed": false,
             "identity": "serial X"},
    "spare": {"name": "/dev/sdc", "uuid": "u-u", "direct": false,
              "remote": false,
              "link": {"connected": true, "reconnects": 0,
                       "replayed_bytes": 0},
              "slots": 832, "used": 3, "retired": 1, "copies_in_step": 1,
              "sequence": 17, "log_length": 5, "log_records": 64},
    "blocks": {"remapped": 3, "pending": 1, "pending_capacity": 1045},
    "requests": {"read": 10, "write": 2, "zero": 0, "trim": 0, "flush": 1,
                 "extents": 0, "cache": 0},
    "bytes": {"read": 40960, "written": 512},
    "errors": {"main": {"medium": 4, "transport": 0, "full": 0, "caller": 0,
                        "bug": 0},
               "spare": {"medium": 0}, "client": {"medium": 1}},
    "healed": {"writes": 2, "blocks": 3, "retried_reads": 1},
    "in_flight": 0, "breaker": "closed"})json");
}

TEST(CtlRender, a_volume_is_told_in_aligned_lines) {
  const auto text = render_volume(volume());
  ASSERT_TRUE(text) << text.error().text();
  EXPECT_EQ(*text,
            "disk: degraded\n"
            "  one copy of the map is out of step\n"
            "Size      1.0 GiB (1073741824 bytes), in blocks of 4096 bytes\n"
            "MAIN      /dev/sdb, direct I/O\n"
            "          serial X\n"
            "SPARE     /dev/sdc, through the page cache: its write errors fail "
            "a FLUSH instead of being healed\n"
            "          UUID u-u\n"
            "          3 of 832 slots used (0.36 %), 1 retired\n"
            "          map: 1 copy in step, sequence 17, log 5 of 64 records\n"
            "Blocks    3 remapped, 1 pending (room for 1045)\n"
            "Healed    2 writes (3 blocks), 1 read on a second try\n"
            "Requests  flush 1, read 10, write 2\n"
            "          0 in flight\n"
            "Bytes     read 40.0 KiB (40960 bytes)\n"
            "          written 512 bytes\n"
            "Errors    MAIN: medium 4\n"
            "          SPARE: none\n"
            "          seen by clients: medium 1\n"
            "Server    process 321, up 1 h 2 min, build 0.1.0 (abc)\n");
}

TEST(CtlRender, a_remote_disk_is_not_said_to_be_cached_here) {
  json v = volume();
  v["main"]["direct"] = false;
  v["main"]["remote"] = true;
  const auto text = render_volume(v);
  ASSERT_TRUE(text) << text.error().text();
  EXPECT_NE(text->find("MAIN      /dev/sdb, remote\n"), std::string::npos)
      << *text;
}

TEST(CtlRender, a_remote_that_was_lost_is_told) {
  json v = volume();
  v["main"]["link"] = nullptr;  // local
  v["spare"]["link"]["reconnects"] = 2U;
  v["spare"]["link"]["replayed_bytes"] = 4096U;
  auto text = render_volume(v);
  ASSERT_TRUE(text) << text.error().text();
  EXPECT_NE(text->find("UUID u-u\n          connected again 2 times, 4.0 KiB"),
            std::string::npos)
      << *text;
  EXPECT_EQ(text->find("NOT REACHED"), std::string::npos);
  v["spare"]["link"]["connected"] = false;
  text = render_volume(v);
  ASSERT_TRUE(text) << text.error().text();
  EXPECT_NE(text->find("NOT REACHED; connected again 2 times"),
            std::string::npos)
      << *text;
}

TEST(CtlRender, what_is_bad_is_said) {
  json v = volume();
  v["breaker"] = "open";
  v["flush_in_doubt"] = true;
  v["main"]["failed"] = true;
  v["read_only"] = true;
  v["quiesced"] = true;
  v["activity"] = "MAIN is being replaced by /dev/sdd, 12 % done";
  v["spare"] = nullptr;
  const auto text = render_volume(v);
  ASSERT_TRUE(text) << text.error().text();
  for (const char* words : {"direct I/O, FAILED\n", "Breaker   open: MAIN as",
                            "Flush     IN DOUBT: ", "bytes, read-only\n",
                            "SPARE     missing\n", "Quiesced  requests wait",
                            "Replace   MAIN is being replaced by /dev/sdd"})
    EXPECT_NE(text->find(words), std::string::npos) << words << "\n" << *text;
}

// Every member of the volume in turn: gone, then of another kind, then (a
// count) below zero. Mistake 36
TEST(CtlRender, a_member_that_is_not_as_it_should_be_is_named) {
  const json good = volume();
  const std::vector<json> wrong{
      "text", -1, 1.5, nullptr, json::array(), json{{"x", "y"}}};
  int refused = 0;
  std::function<void(const json::json_pointer&, const json&)> walk =
      [&](const json::json_pointer& at, const json& value) {
        if (value.is_object())
          for (const auto& [key, child] : value.items()) walk(at / key, child);
        if (at.empty() || at.back() == "schema") return;
        json v = good;
        v[at.parent_pointer()].erase(at.back());
        // Counts by class and by kind may grow or shrink; the rest is needed.
        const std::string path = at.to_string();
        const bool optional =
            path.rfind("/requests/", 0) == 0 ||
            (path.rfind("/errors/", 0) == 0 && value.is_number());
        const auto gone = render_volume(v);
        EXPECT_EQ(gone.ok(), optional) << path;
        if (!gone) {
          EXPECT_NE(gone.error().place.find("\"" + at.back() + "\""),
                    std::string::npos)
              << gone.error().place;
        }
        for (const json& w : wrong) {
          const bool may_be_null = path == "/spare" || at.back() == "link";
          if (w.type() == value.type() || (w.is_null() && may_be_null))
            continue;
          v = good;
          v[at] = w;
          EXPECT_FALSE(render_volume(v)) << path << " as " << w;
          ++refused;
        }
      };
  walk(json::json_pointer(), good);
  EXPECT_GT(refused, 150);
}

// Mistake 35
TEST(CtlRender, no_control_character_of_an_answer_reaches_the_terminal) {
  const std::string evil = "x\x1b]0;owned\x07\nstate: healthy\xc2\x9b";
  const auto poison = [&](json j) {
    std::function<void(json&)> walk = [&](json& value) {
      if (value.is_structured())
        for (json& child : value) walk(child);
      else if (value.is_string())
        value = evil;
    };
    walk(j);
    return j;
  };
  json v = poison(volume());
  v["errors"]["main"][evil] = 7U;
  const json map = poison(json::parse(
      R"({"schema":1,"block_size":4096,"next":null,"entries":[
        {"block":0,"offset":0,"state":"s","slot":0,"unreadable_sectors":[]}]})"));
  const json list =
      poison(json::parse(R"({"volumes":[{"name":"","state":"","size":1}]})"));
  const json health = poison(json::parse(
      R"({"state":"","volumes":[{"name":"","state":"","reasons":[""]}]})"));
  for (const auto& text :
       {render_volume(v), render_map(map), render_volumes(list),
        render_health(health), render_stop(evil, poison({{"state", ""}}))}) {
    ASSERT_TRUE(text) << text.error().text();
    EXPECT_NE(text->find("x\\x1b]0;owned\\x07\\nstate: healthy\\u{9b}"),
              std::string::npos)
        << *text;
    for (const char c : *text)
      EXPECT_TRUE(c == '\n' || (c >= ' ' && c < 0x7f)) << int{c};
    EXPECT_EQ(text->find("\nstate: healthy"), std::string::npos);
  }
  const std::string as_json = render_json(v);
  for (const char c : as_json)
    EXPECT_TRUE(c == '\n' || (c >= ' ' && c < 0x7f)) << int{c};
  EXPECT_EQ(json::parse(as_json), v);
}

TEST(CtlRender, the_map_is_a_table_and_says_where_to_go_on) {
  const json map = json::parse(R"({"schema":1,"block_size":4096,"next":4,
    "entries":[
      {"block":0,"offset":0,"state":"remapped","slot":0,
       "unreadable_sectors":[]},
      {"block":3,"offset":12288,"state":"pending","slot":null,
       "unreadable_sectors":[24,25]}]})");
  const auto text = render_map(map);
  ASSERT_TRUE(text) << text.error().text();
  EXPECT_EQ(*text,
            "OFFSET  BLOCK  STATE     SLOT  UNREADABLE SECTORS\n"
            "0       0      remapped  0     -\n"
            "12288   3      pending   -     24 25\n"
            "There is more; go on with --from=16384\n");
  EXPECT_EQ(*render_map(
                json::parse(R"({"block_size":4096,"entries":[],"next":null})")),
            "Nothing is remapped or pending here.\n");
}

TEST(CtlRender, a_map_out_of_range_is_refused) {
  EXPECT_FALSE(render_map(json::parse(
      R"({"block_size":4096,"entries":[],"next":18446744073709551615})")));
  EXPECT_FALSE(render_map(
      json::parse(R"({"block_size":4096,"entries":[7],"next":null})")));
}

TEST(CtlRender, lists_and_health) {
  EXPECT_EQ(*render_volumes(json::parse(
                R"({"volumes":[{"name":"a","state":"healthy","size":1024},
                 {"name":"longer","state":"failed","size":512}]})")),
            "NAME    STATE    SIZE\n"
            "a       healthy  1.0 KiB (1024 bytes)\n"
            "longer  failed   512 bytes\n");
  EXPECT_EQ(*render_health(json::parse(
                R"({"state":"failed","volumes":[
                 {"name":"a","state":"failed","reasons":["one","two"]}]})")),
            "failed\n  a: failed\n    one\n    two\n");
}

TEST(CtlRender, only_what_is_healthy_or_acknowledged_is_quiet) {
  for (const char* state : {"degraded", "failed", "stopping", "", "Healthy"})
    EXPECT_FALSE(is_quiet({{"state", state}})) << state;
  EXPECT_FALSE(is_quiet(json::object()));
  EXPECT_FALSE(is_quiet({{"state", true}}));
  EXPECT_TRUE(is_quiet({{"state", "healthy"}}));
  EXPECT_FALSE(is_quiet({{"state", "degraded"}, {"alert", true}}));
  EXPECT_TRUE(is_quiet({{"state", "degraded"}, {"alert", false}}));
  EXPECT_FALSE(is_quiet({{"state", "degraded"}, {"alert", 0}}));
  EXPECT_FALSE(is_quiet({{"state", "failed"}, {"alert", false}}));
}

json health_answer() {
  return json::parse(R"({"score":70,"sentence":"Do \u001b it.","alert":true,
    "parts":[{"name":"spare","weight":25,"lost":5,"why":"5 of 25 gone"}],
    "forecast":{"text":"no forecast"},
    "acknowledged":{"at":1795260530,"counts":{}}})");
}

TEST(CtlRender, health_is_told_with_its_parts) {
  const auto text =
      answer_fields::render([&] { return health_text(health_answer()); });
  ASSERT_TRUE(text);
  EXPECT_EQ(*text,
            "Health    Do \\x1b it.\n"
            "Score     70 of 100\n"
            "          spare: 5 of 25 lost; 5 of 25 gone\n"
            "Forecast  no forecast\n"
            "          acknowledged on 2026-11-21; worse since\n");
  const json whole = health_answer();
  for (const auto& [key, value] : whole.items()) {
    json without = whole;
    without.erase(key);
    EXPECT_FALSE(answer_fields::render([&] { return health_text(without); }))
        << key;
    json odd = whole;
    odd[key] = json::array({json::array({-1})});
    EXPECT_FALSE(answer_fields::render([&] { return health_text(odd); }))
        << key;
  }
}

TEST(CtlRender, an_acknowledgement_says_where_it_is_kept) {
  const auto words = [](const char* saved) {
    return *render_acknowledge("v", {{"sentence", "S."}, {"saved", saved}});
  };
  EXPECT_EQ(words("yes"), "v: S.\n");
  EXPECT_NE(words("nowhere").find("until the server stops"), std::string::npos);
  EXPECT_NE(words("not-yet").find("not noted"), std::string::npos);
  EXPECT_FALSE(render_acknowledge("v", json::object()));
}

TEST(CtlRender, what_is_no_answer_is_an_error) {
  EXPECT_TRUE(parse_answer(R"({"schema":1})"));
  for (const std::string body :
       {"", "rubbish", "[]", "1", "{}", R"({"schema":2})", R"({"schema":"1"})",
        "{\"schema\":1", "{\"schema\":1} x", "\xff"})
    EXPECT_FALSE(parse_answer(body)) << body;
  std::string deep = R"({"schema":1,"x":)";
  deep += std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}";
  const auto answer = parse_answer(deep);
  ASSERT_FALSE(answer);
  EXPECT_NE(answer.error().place.find("deep"), std::string::npos);
}

TEST(CtlRender, a_problem_gives_its_own_words_and_the_status_the_errno) {
  struct Case {
    int status;
    std::string body;
    int errnum;
    std::string words;
  };
  for (const Case& c :
       {Case{404, R"({"title":"Not found","detail":"no such"})", ENOENT,
             "volume x: no such"},
        Case{409, R"({"title":"Busy"})", EBUSY, "volume x: Busy"},
        Case{500, "<html>", EIO, "volume x: refused with HTTP status 500"},
        Case{403, R"({"detail":7})", EIO,
             "volume x: refused with HTTP status 403"},
        Case{503, std::string(1'000'000, '['), EIO,
             "volume x: refused with HTTP status 503"}}) {
    const Error error = problem_error("volume x", c.status, c.body);
    EXPECT_EQ(error.errnum, c.errnum);
    EXPECT_EQ(error.place, c.words);
  }
}

TEST(CtlSpare, the_offline_tool_is_beside_the_program_or_in_libexec) {
  EXPECT_EQ(
      spare_tool_places("/usr/bin/nbd-remapctl"),
      (std::vector<std::string>{"/usr/bin/nbd-remap-spare",
                                "/usr/libexec/nbd-remap/nbd-remap-spare"}));
}

}  // namespace
}  // namespace nbd_remap
