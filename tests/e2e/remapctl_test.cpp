// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl: its command line, and what it makes of a server's answers.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <regex>

#include "tests/e2e/remapctl_fixture.hpp"

namespace nbd_remap {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

TEST_F(RemapctlTest, what_is_typed_wrong_is_said_in_one_line) {
  struct Case {
    Words words;
    int status;
    std::string part;
  };
  const std::string socket = "--socket=" + socket_;
  for (const Case& c : {
           Case{{}, 2, "expected one of: health, volume, map, scan, spare"},
           Case{{"frob"}, 2, "no command \"frob\""},
           Case{{"--frob"}, 2, "expected one of"},
           Case{{"volume"}, 2, "volume list, volume show, volume acknowledge"},
           Case{{"volume", "frob"}, 2, "volume list"},
           Case{{"volume", "list"}, 2, "--socket is missing"},
           Case{{"health", "now", socket}, 2, "now"},
           Case{{"map", "show", "a", "b", socket}, 2, "b"},
           Case{{"map", "show", "--from=x", socket}, 2, "--from=x: expected"},
           Case{{"map", "show", "--from=-1", socket}, 2, "--from=-1"},
           Case{{"map", "show", "--limit=0", socket}, 2, "--limit"},
           Case{{"map", "show", "--limit=x", socket}, 2, "--limit"},
           Case{{"map", "explain", socket}, 2, "OFFSET is required"},
           Case{{"map", "explain", "x", socket}, 2, "OFFSET x: expected"},
           Case{{"map", "remap", socket}, 2, "OFFSET is missing"},
           Case{{"map", "remap", "0", "0", socket}, 2, "LENGTH 0: expected"},
           Case{{"map", "unmap", "1", "2", "3", socket}, 2, "3"},
           Case{{"map", "retest", socket}, 2, "expected it, or --all"},
           Case{{"map", "retest", "0", "--all", socket}, 2, "one of them"},
           Case{{"map", "clear", "0", socket}, 2, "LENGTH is required"},
           Case{{"map", "clear", "0", "512", socket}, 2, "--yes-lose-data"},
           Case{{"map", "export", socket}, 2, "--format is required"},
           Case{{"map", "export", "--format=x", socket}, 2, "ddrescue"},
           Case{{"map", "export", "--format=badblocks", "--of=x", socket},
                2,
                "--of"},
           Case{{"map", "export", "--format=ddrescue", "--block-size=512",
                 socket},
                2,
                "--format=badblocks only"},
           Case{{"map", "import", "f", "--format=badblocks",
                 "--block-size=1000", socket},
                2,
                "--block-size=1000: expected a power of two"},
           Case{{"map", "import", "--format=badblocks", socket},
                2,
                "FILE is required"},
           Case{{"health", "--timeout=0", socket}, 2, "--timeout"},
           Case{{"health", socket, socket}, 2, "--socket"},
           Case{{"--socket=x", "spare", "check", "y"}, 2, "--socket=x means"},
           Case{{"spare"}, 2, "expected format, check, "},
           Case{{"spare", "frob"}, 2, "no command \"frob\""},
           Case{{"spare", "format"}, 2, "--main is required"},
           Case{{"spare", "format", "--main=x"}, 2, "--spare is required"},
           Case{{"spare", "format", "--main=", "--spare=" + spare_},
                2,
                "--main= lacks its value"},
           Case{{"spare", "check", "--main=", spare_}, 3, "--main= lacks"},
           Case{{"--socket=", "health"}, 2, "--socket= lacks its value"},
           Case{{"spare", "format", "--main", "", "--spare=" + spare_},
                1,
                "an empty name"},
           Case{{"spare", "format", "--main=a", "--main=b", "--spare=c"},
                2,
                "--main"},
           Case{{"spare", "dump"}, 2, "SPARE is required"},
           Case{{"spare", "dump", "a", "b"}, 2, "b"},
           Case{{"spare", "dump", "a", "--entries=few"}, 2, "--entries"},
           Case{{"spare", "dump", dir_}, 1, "a directory"},
           Case{{"spare", "dump", spare_}, 3, "not a SPARE"},
           // Usage errors of check are 3: 1 and 2 are verdicts.
           Case{{"spare", "check"}, 3, "SPARE is required"},
           Case{{"spare", "check", "a", "--frob"}, 3, "--frob"},
           Case{{"spare", "check", dir_}, 3, "a directory"},
           Case{{"spare", "check", dir_ + "/none"}, 3, "no such file"},
           Case{{"spare", "check", spare_}, 3, "not a SPARE"},
           Case{{"spare", "check", "line\nbreak\x1b"}, 3, ""},
       })
    expect_complaint(c.words, c.status, c.part);
}

// Mistake 35
TEST_F(RemapctlTest, a_strange_name_is_only_a_name) {
  const std::string strange = dir_ + "/a b;$(touch x)'\"\n*";
  make(strange, 4 << 20);
  Ended ended = run({"spare", "format", "--main", main_, "--spare", strange});
  ASSERT_EQ(ended.status, 0) << ended.err;
  EXPECT_NE(ended.out.find("a b;$(touch x)'\"\\n*"), std::string::npos);
  EXPECT_EQ(run({"spare", "check", strange}).status, 0);
  ended = run({"spare", "dump", strange});
  EXPECT_EQ(json::parse(ended.out)["spare"], strange);
  EXPECT_FALSE(fs::exists("x"));
}

TEST_F(RemapctlTest, an_answer_that_cannot_be_written_is_a_failure) {
  ASSERT_EQ(format().status, 0);
  serve({{"GET /v1/health", {200, R"({"schema":1,"state":"healthy",
                                      "volumes":[]})"}}});
  for (const Words& words : {Words{"spare", "dump", spare_},
                             Words{"health", "--socket=" + socket_}}) {
    const Ended ended = run_program(NBD_REMAPCTL, words, "/dev/full");
    EXPECT_EQ(ended.status, 1);
    EXPECT_NE(ended.err.find("cannot be written"), std::string::npos);
  }
  EXPECT_EQ(
      run_program(NBD_REMAPCTL, {"spare", "check", spare_}, "/dev/full").status,
      3);
}

TEST_F(RemapctlTest, without_the_offline_tool_it_says_so) {
  const std::string alone = dir_ + "/bin/nbd-remapctl";
  fs::create_directory(dir_ + "/bin");
  fs::copy_file(NBD_REMAPCTL, alone);
  const Ended ended = run_program(alone, {"spare", "check", spare_});
  EXPECT_EQ(ended.status, 3);
  EXPECT_NE(ended.err.find(dir_ + "/bin/nbd-remap-spare nor " + dir_),
            std::string::npos)
      << ended.err;
}

TEST_F(RemapctlTest, the_help_reads_as_one_tool) {
  Ended ended = run({"spare", "format", "--help"});
  EXPECT_EQ(ended.status, 0);
  EXPECT_NE(ended.out.find("Usage: nbd-remapctl spare format"),
            std::string::npos)
      << ended.out;
  ended = run({"--help"});
  EXPECT_EQ(ended.status, 0);
  EXPECT_NE(ended.out.find("Usage: nbd-remapctl"), std::string::npos);
  const Ended version = run({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_EQ(run({"spare", "--version"}).out, version.out);
}

// One line, with one blank where there were several.
std::string flat(const std::string& text) {
  return std::regex_replace(text, std::regex("\\s+"), " ");
}

// Mistake 37: an option is in the help and in the man page, or in neither, and
// both say the same default.
TEST_F(RemapctlTest, the_man_page_has_the_options_that_the_program_has) {
  const std::string page = flat(content(NBD_REMAPCTL_POD));
  ASSERT_FALSE(page.empty());
  int defaults = 0;
  int seen = 0;
  for (const Words& words : {Words{"--help"},
                             Words{"map", "show", "--help"},
                             Words{"map", "explain", "--help"},
                             Words{"map", "retest", "--help"},
                             Words{"map", "clear", "--help"},
                             Words{"map", "export", "--help"},
                             Words{"map", "import", "--help"},
                             Words{"volume", "grow", "--help"},
                             Words{"volume", "quiesce", "--help"},
                             Words{"volume", "replace", "--help"},
                             Words{"scan", "seed", "--help"},
                             Words{"map", "cells", "--help"},
                             Words{"scan", "start", "--help"},
                             Words{"spare", "format", "--help"},
                             Words{"spare", "check", "--help"},
                             Words{"spare", "dump", "--help"},
                             Words{"spare", "repair", "--help"},
                             Words{"spare", "restore", "--help"},
                             Words{"spare", "scan", "--help"},
                             Words{"spare", "grow", "--help"}}) {
    const std::string help = flat(run(words).out);
    const std::regex form(
        "--([a-z][a-z-]*) (?:(?!--).)*?\\(default ([0-9a-z]+)\\)");
    for (std::sregex_iterator m(help.begin(), help.end(), form), none;
         m != none; ++m, ++defaults) {
      const std::string option = (*m)[1];
      const std::string value = (*m)[2];
      const std::regex said("B<--" + option + "=?>.{0,140}[^0-9a-z]" + value +
                            " if not given|B<--" + option + "=" + value +
                            ">, the default");
      EXPECT_TRUE(std::regex_search(page, said))
          << option << ", default " << value;
    }
    for (std::size_t at = 0; (at = help.find("--", at)) != std::string::npos;
         ++seen) {
      const std::size_t end =
          help.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", at);
      const std::string option = help.substr(at, end - at);
      EXPECT_NE(page.find("B<" + option), std::string::npos) << option;
      at = end;
    }
  }
  EXPECT_GE(seen, 25);
  EXPECT_GE(defaults, 6);
}

constexpr const char* kVolume = R"json({"schema":1,"name":"disk",
  "state":"healthy","reasons":[],"size":8388608,"block_size":4096,
  "read_only":false,"quiesced":false,"build":"b","pid":1,"uptime_seconds":1,
  "flush_in_doubt":false,
  "main":{"name":"m","direct":true,"remote":false,"link":null,"failed":false,"identity":"i"},
  "spare":{"name":"s","uuid":"u","direct":true,"remote":false,"link":null,"slots":9,"used":1,"retired":0,
    "copies_in_step":2,"sequence":3,"log_length":1,"log_records":64},
  "blocks":{"remapped":1,"pending":0,"pending_capacity":73},
  "requests":{"read":1},"bytes":{"read":1,"written":2},
  "errors":{"main":{"medium":1},"spare":{},"client":{}},
  "healed":{"writes":1,"blocks":1,"retried_reads":0},"in_flight":0,
  "breaker":"closed"})json";

TEST_F(RemapctlTest, each_question_to_a_server_is_answered) {
  serve({{"GET /v1/health", {200, R"({"schema":1,"state":"healthy","volumes":[
                    {"name":"disk","state":"healthy","reasons":[]}]})"}},
         {"GET /v1/volumes", {200, R"({"schema":1,"volumes":[
                    {"name":"disk","state":"healthy","size":8388608}]})"}},
         {"GET /v1/volumes/disk", {200, kVolume}},
         {"GET /v1/volumes/disk/remaps",
          {200, R"({"schema":1,"block_size":4096,"next":null,"entries":[
                    {"block":7,"offset":28672,"state":"remapped","slot":0,
                     "unreadable_sectors":[]}]})"}},
         {"POST /v1/volumes/disk/stop",
          {202, R"({"schema":1,"state":"stopping"})"}}});
  struct Case {
    Words words;
    std::string part;
    const char* member;
  };
  for (const Case& c :
       {Case{{"health"}, "healthy\n  disk: healthy\n", "state"},
        Case{{"volume", "list"}, "disk  healthy  8.0 MiB", "volumes"},
        Case{{"volume", "show"}, "both copies in step", "blocks"},
        Case{{"volume", "show", "disk"}, "disk: healthy\n", "blocks"},
        Case{{"map", "show"}, "28672   7      remapped  0", "entries"},
        Case{{"map", "show", "disk", "--from=8K", "--limit=5"},
             "28672 ",
             "entries"},
        Case{{"volume", "stop"}, "disk: stopping\n", "state"}}) {
    const Ended text = ask(c.words);
    EXPECT_EQ(text.status, 0) << c.part << text.err;
    EXPECT_EQ(text.err, "");
    EXPECT_NE(text.out.find(c.part), std::string::npos) << text.out;
    Words words = c.words;
    words.insert(words.begin(), "--json");
    const Ended as_json = ask(words);
    EXPECT_EQ(as_json.status, 0) << as_json.err;
    EXPECT_TRUE(json::parse(as_json.out).contains(c.member)) << as_json.out;
  }
  expect_complaint({"volume", "show", "nix", "--socket=" + socket_}, 3,
                   "volume nix: no such path");
  const Ended ended = ask({"volume", "show", "nix"});
  EXPECT_EQ(ended.err.find('\x1b'), std::string::npos) << "mistake 35";
}

TEST_F(RemapctlTest, health_is_an_exit_status) {
  for (const char* state : {"degraded", "failed", "stopping", "unheard-of"}) {
    serve({{"GET /v1/health",
            {200, fmt::format(R"({{"schema":1,"state":"{0}","volumes":[
                {{"name":"disk","state":"{0}","reasons":["spare is full"]}}
                ]}})",
                              state)}}});
    const Ended ended = ask({"health"});
    EXPECT_EQ(ended.status, 1) << state;
    EXPECT_NE(ended.out.find(state), std::string::npos);
    EXPECT_NE(ended.out.find("spare is full"), std::string::npos);
    server_.reset();
  }
}

TEST_F(RemapctlTest, a_server_that_refuses_or_talks_rubbish_is_an_error) {
  const std::string socket = "--socket=" + socket_;
  serve({{"GET /v1/health", {200, "rubbish"}},
         {"GET /v1/volumes", {200, R"({"schema":1,"volumes":7})"}},
         {"GET /v1/volumes/a", {200, R"({"schema":2})"}},
         {"GET /v1/volumes/a/remaps", http_problem(500, "Broken", "oh")},
         {"POST /v1/volumes/a/stop", http_problem(409, "Busy", "not now")}});
  expect_complaint({"health", socket}, 1, "not understood: no JSON");
  expect_complaint({"volume", "list", socket}, 1, "\"volumes\"");
  expect_complaint({"volume", "show", socket}, 1, "\"volumes\"");
  expect_complaint({"volume", "show", "a", socket}, 1, "schema");
  expect_complaint({"map", "show", "a", socket}, 1, "volume a: oh");
  expect_complaint({"volume", "stop", "a", socket}, 4, "volume a: not now");
}

TEST_F(RemapctlTest, no_server_is_not_found) {
  expect_complaint({"health", "--socket=" + socket_}, 3, "no server answers");
  make(socket_, 1);
  expect_complaint({"health", "--socket=" + socket_}, 3, "no server answers");
  expect_complaint({"health", "--socket=" + std::string(200, 'x')}, 1,
                   "at most");
}

TEST_F(RemapctlTest, a_server_that_never_answers_is_given_up) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(socket_.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, socket_.c_str(), socket_.size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof address),
            0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const auto before = steady_clock::now();
  const Ended ended = ask({"health", "--timeout=1"});
  const auto took = steady_clock::now() - before;
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.err.find("no answer within 1000 ms"), std::string::npos)
      << ended.err;
  EXPECT_GE(took, seconds(1));
  EXPECT_LT(took, seconds(10));
}

}  // namespace
}  // namespace nbd_remap