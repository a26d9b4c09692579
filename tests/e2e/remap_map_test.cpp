// SPDX-License-Identifier: BSD-3-Clause
// The map commands as an owner types them, against a served volume whose MAIN
// is a bad disk.

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "plugins/wire/http_client.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kMain = 16 << 20;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}
void write_file(const std::string& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
}

class RemapMap : public testing::Test {
 protected:
  // bad: as the disk takes it.
  void start(const Words& bad = {}, std::uint64_t spare_bytes = 8 << 20) {
    image_ = dir_.make_file("main.img", kMain);
    spare_ = dir_.make_file("spare.img", spare_bytes);
    data_ = pattern(5, kMain);
    {
      std::fstream file(image_, std::ios::in | std::ios::out);
      file.write(data_.data(), static_cast<std::streamsize>(data_.size()));
    }
    disk_ = std::make_unique<BadDisk>(dir_, "disk", image_, bad);
    disk_->start();
    serve(disk_->uri());
  }
  void serve(const std::string& main) {
    format(main, spare_);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main, spare_);
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
  Ended map(Words words) const {
    words.insert(words.begin(), "map");
    return ctl(words);
  }
  json map_json(Words words) const {
    words.emplace_back("--json");
    const Ended ended = map(words);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return json::parse(ended.out, nullptr, false);
  }
  json counts(const Words& words) const { return map_json(words)["counts"]; }
  std::string state(std::uint64_t offset) const {
    return map_json({"explain", std::to_string(offset)})["state"];
  }
  bool holds(std::uint64_t offset, std::size_t length) const {
    std::string got;
    return Client(volume_->uri()).read(offset, length, &got) == 0 &&
           got == data_.substr(offset, length);
  }
  HttpResponse ask(const std::string& method, const std::string& rest) const {
    HttpClientOptions options;
    options.timeout = 5s;
    const auto volumes =
        http_request(volume_->control(), "GET", "/v1/volumes", "", options);
    EXPECT_TRUE(volumes);
    const std::string name = json::parse(volumes->body)["volumes"][0]["name"];
    const auto answer =
        http_request(volume_->control(), method,
                     "/v1/volumes/" + percent_encode(name) + rest, "", options);
    EXPECT_TRUE(answer) << answer.error().text();
    return answer ? *answer : HttpResponse{};
  }

  ScratchDir dir_;
  std::string image_;
  std::string spare_;
  std::string data_;
  std::unique_ptr<BadDisk> disk_;
  std::unique_ptr<RemapServer> volume_;
};

TEST_F(RemapMap, blocks_go_to_spare_and_back_on_request) {
  start();
  EXPECT_EQ(state(10 * kBlock), "clean");
  const Ended ended = map({"remap", "40K", "400K"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.out, "100 blocks looked at, 100 remapped\n");
  const Ended why = map({"explain", std::to_string(20 * kBlock + 5)});
  for (const char* words :
       {"Byte 81925 is in block 20 (of 4096 bytes), which is remapped.",
        "The block lives in slot 10, at byte ", " on SPARE (",
        "remapped, slot 10: an owner asked for it\n",
        "what was before is not known"})
    EXPECT_NE(why.out.find(words), std::string::npos) << words << why.out;
  EXPECT_EQ(counts({"remap", "40K", "400K"})["already"], 100U);
  EXPECT_TRUE(holds(0, 2 << 20));
  // MAIN's copy no longer counts.
  disk_->add_bad({{"ranges", "80+800"}, {"mode", "read"}});
  EXPECT_TRUE(holds(0, 2 << 20));
  volume_->kill();
  volume_->start();
  EXPECT_TRUE(holds(0, 2 << 20));
  EXPECT_EQ(volume_->show()["blocks"]["remapped"], 100U);
  Ended back = map({"unmap", "40K", "40K"});
  EXPECT_EQ(back.code, 1) << "written, but it does not read back";
  EXPECT_NE(back.out.find("10 not copied back, as MAIN cannot hold them"),
            std::string::npos)
      << back.out;
  EXPECT_GE(disk_->fired("read"), 1U);
  disk_->heal({{"all", true}});
  back = map({"unmap", "0", std::to_string(kMain)});
  EXPECT_EQ(back.code, 0) << back.err;
  EXPECT_EQ(back.out, "100 blocks looked at, 100 back on MAIN\n");
  EXPECT_EQ(volume_->show()["spare"]["used"], 0U);
  EXPECT_TRUE(holds(0, 2 << 20));
  EXPECT_TRUE(read_file(image_) == data_);
}

TEST_F(RemapMap, pending_blocks_come_back_or_are_given_up) {
  start({"bad=800+8:read,1600-1601:read"});
  EXPECT_FALSE(holds(800 * 512, kBlock));
  EXPECT_FALSE(holds(1600 * 512, kBlock));
  EXPECT_EQ(volume_->show()["blocks"]["pending"], 2U);
  EXPECT_EQ(counts({"retest", "--all"})["pending"], 2U);
  disk_->heal({{"ranges", "800+8"}});
  EXPECT_EQ(map({"retest", "--all"}).out,
            "2 blocks looked at, 1 readable again, 1 pending\n");
  EXPECT_TRUE(holds(800 * 512, kBlock));
  EXPECT_EQ(state(1600 * 512), "pending");
  const std::string at = std::to_string(1600 * 512);
  EXPECT_EQ(map({"clear", at, "512"}).code, 2) << "not without the word";
  EXPECT_EQ(ask("POST", "/clear?length=512&offset=" + at).status, 400);
  EXPECT_EQ(map({"clear", at, "100", "--yes-lose-data"}).code, 1);
  EXPECT_FALSE(holds(1601 * 512, 512));
  const Ended gone = map({"clear", at, "1M", "--yes-lose-data"});
  EXPECT_EQ(gone.out, "1 block looked at, 2 sectors cleared\n") << gone.err;
  std::string got;
  EXPECT_EQ(Client(volume_->uri()).read(1600 * 512, kBlock, &got), 0);
  EXPECT_EQ(got,
            std::string(1024, '\0') + data_.substr(1602 * 512, kBlock - 1024));
}

TEST_F(RemapMap, what_other_tools_found_is_acted_on_and_told_back) {
  start({"bad=803:read,1600+8:read,4000:read"});
  const std::string list = dir_.path() + "/map";
  // A bad sector; a bad area that can be read; one that cannot; and places
  // where larger reads failed, with a bad sector and without.
  write_file(list,
             "# Mapfile. Created by GNU ddrescue version 1.27\n"
             "0x00000000 ? 1\n"
             "0 0x64600 +\n0x64600 0x200 -\n0x64800 0x1B800 +\n"
             "0x80000 0x3000 -\n0x83000 0x45000 +\n0xC8000 0x1000 -\n"
             "0xC9000 0x12B000 +\n0x1F4000 0x1000 /\n0x1F5000 0x8000 *\n"
             "0x1FD000 0xFFFFFF000 ?\n");
  const Words import{"import", list, "--format=ddrescue"};
  Words dry = import;
  dry.emplace_back("--dry-run");
  const json plan = map_json(dry);
  EXPECT_EQ(plan["to_remap"], 5U);
  EXPECT_EQ(plan["to_check"], 9U);
  EXPECT_EQ(plan["already"], 0U);
  EXPECT_EQ(volume_->show()["blocks"]["remapped"], 0U);
  EXPECT_EQ(disk_->fired("read"), 0U) << "a dry run reads nothing";
  const Ended done = map(import);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(done.out, "14 blocks looked at, 4 remapped, 2 pending\n");
  EXPECT_GE(disk_->fired("read"), 3U);
  EXPECT_EQ(state(0x80000), "remapped");
  EXPECT_EQ(state(803 * 512), "remapped");
  EXPECT_EQ(state(1600 * 512), "pending");
  EXPECT_EQ(state(4000 * 512), "pending");
  EXPECT_EQ(state(0x1F6000), "clean");
  EXPECT_EQ(map_json(dry)["already"], 4U);
  EXPECT_TRUE(holds(0x80000, 0x3000));
  EXPECT_TRUE(holds(0x64000, 3 * 512));
  EXPECT_FALSE(holds(803 * 512, 512));

  const Ended text = map({"export", "--format=ddrescue"});
  const std::string areas = text.out.substr(text.out.find("status\n") + 7);
  EXPECT_EQ(areas,
            "0x00000000  0x00064600  +\n0x00064600  0x00000200  -\n"
            "0x00064800  0x00063800  +\n0x000C8000  0x00001000  -\n"
            "0x000C9000  0x0012B000  +\n0x001F4000  0x00000200  -\n"
            "0x001F4200  0x00E0BE00  +\n");
  const Ended numbers = map({"export", "--format=badblocks"});
  EXPECT_EQ(numbers.out, "401\n800\n801\n802\n803\n2000\n");
  const Ended of_main =
      map({"export", "--format=badblocks", "--of=main", "--block-size=4096"});
  EXPECT_EQ(of_main.out, "100\n128\n129\n130\n200\n500\n");
  EXPECT_EQ(map_json({"export", "--format=badblocks"})["bad"].size(), 3U);

  // What we write they read, and the other way round.
  write_file(dir_.path() + "/list", numbers.out);
  EXPECT_EQ(counts({"import", dir_.path() + "/list",
                    "--format=badblocks"})["already"],
            1U);
  if (!have_program("ddrescuelog")) GTEST_SKIP() << "no ddrescuelog";
  write_file(dir_.path() + "/ours", text.out);
  const Ended theirs =
      run({"ddrescuelog", "-b1024", "--list-blocks=-", dir_.path() + "/ours"});
  EXPECT_EQ(theirs.code, 0) << theirs.err;
  EXPECT_EQ(theirs.out, numbers.out);
}

// Bad input: one clear line, and nothing has changed.
TEST_F(RemapMap, a_file_that_is_wrong_changes_nothing) {
  start();
  const std::string list = dir_.path() + "/list";
  struct Case {
    std::string_view text;
    const char* format;
    const char* part;
  };
  const json before = volume_->show();
  for (const Case& c : {
           Case{"0 + 1\n0 512 -\n1024 512 -\n", "ddrescue", "list: line 3: "},
           Case{"0 + 1\n0 512 -\n0 512 -\n", "ddrescue", "line 3: begins at 0"},
           Case{"0 + 1\n0 0x100000000 +\n", "ddrescue", "line 2: ends at"},
           Case{"0 + 1\n0 1 -\n", "ddrescue", "line 2: "},
           Case{"7\n-1\n", "badblocks", "line 2: \"-1\""},
           Case{"7\n16384\n", "badblocks", "line 2: block 16384 of 1024"},
           Case{"7\n7\n", "badblocks", "line 2: block 7 is there already"},
           Case{"0 + 1\n0 512 -\n", "badblocks", "line 1: "},
           Case{"7\n", "ddrescue", "line 1: "},
           Case{{"\0\x1b[2J\xff\n", 7}, "badblocks", "\\x00\\x1b[2J\\xff"},
           Case{"", "ddrescue", "empty"},
       }) {
    write_file(list, c.text);
    const Ended ended =
        map({"import", list, "--format=" + std::string(c.format)});
    EXPECT_EQ(ended.code, 1) << c.part;
    EXPECT_EQ(ended.out, "");
    EXPECT_NE(ended.err.find(c.part), std::string::npos) << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
  }
  EXPECT_EQ(map({"import", "/none", "--format=ddrescue"}).code, 3);
  EXPECT_EQ(map({"import", dir_.path(), "--format=ddrescue"}).code, 1);
  EXPECT_NE(map({"import", "/dev/zero", "--format=badblocks"})
                .err.find("longer than"),
            std::string::npos);
  const json after = volume_->show();
  EXPECT_EQ(after["spare"]["sequence"], before["spare"]["sequence"]);
  EXPECT_EQ(after["blocks"], before["blocks"]);
}

// Mistake 31: a disk that hangs holds up an action, and nothing but it.
TEST_F(RemapMap, while_an_action_hangs_the_socket_answers_and_stop_is_bounded) {
  start();
  disk_->child().hang();
  const auto answer = ask("POST", "/remap?offset=0&length=4096");
  EXPECT_EQ(answer.status, 202) << answer.body;
  const json job = json::parse(answer.body)["job"];
  EXPECT_EQ(job["state"], "running");
  EXPECT_EQ(ask("POST", "/unmap?offset=0&length=4096").status, 409);
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(volume_->health()["state"], "healthy");
    EXPECT_EQ(ask("GET", "/jobs/" + job["id"].dump()).status, 202);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
  EXPECT_EQ(ask("GET", "/jobs/99").status, 404);
  EXPECT_EQ(ask("GET", "/jobs/x").status, 404);
  if (long_form()) {
    const Ended ended = volume_->stop(15s);
    EXPECT_EQ(ended.code, 1) << "no clean mark while a request is under way";
    EXPECT_LT(ended.took, 15s);
  }
  volume_.reset();
  disk_->child().send(SIGCONT);
}

TEST_F(RemapMap, a_full_spare_stops_an_action_and_says_where) {
  start({}, 1 << 20);
  const std::uint64_t slots = volume_->show()["spare"]["slots"];
  ASSERT_LT(slots, kMain / kBlock);
  const Ended ended = map({"remap", "0", "16M"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.out.find("Stopped at byte " + std::to_string(slots * kBlock) +
                           ": spare: full"),
            std::string::npos)
      << ended.out;
  EXPECT_EQ(volume_->show()["blocks"]["remapped"], slots);
  EXPECT_TRUE(holds(0, kMain));
}

TEST_F(RemapMap, what_cannot_be_asked_is_refused) {
  start();
  for (const char* target :
       {"/remap?offset=16777216&length=1", "/remap?offset=0&length=0",
        "/remap?offset=0&length=16777217", "/remap?offset=-1&length=1",
        "/remap?length=1", "/remap?offset=18446744073709551615&length=2",
        "/clear?offset=1&length=512&confirm=lose-data"})
    EXPECT_EQ(ask("POST", target).status, 400) << target;
  EXPECT_EQ(ask("GET", "/remap?offset=0&length=1").status, 405);
  EXPECT_EQ(ask("POST", "/explain?offset=0").status, 405);
  EXPECT_EQ(ask("GET", "/explain?offset=16777216").status, 400);
  EXPECT_EQ(ask("GET", "/explain").status, 400);
  EXPECT_EQ(volume_->show()["spare"]["used"], 0U);
}

// A page that is just full says nothing of more.
TEST_F(RemapMap, the_last_page_is_the_last) {
  start();
  EXPECT_EQ(counts({"remap", "0", "40K"})["remapped"], 10U);
  Ended show = map({"show", "--limit=10"});
  EXPECT_EQ(show.code, 0) << show.err;
  EXPECT_EQ(show.out.find("more"), std::string::npos) << show.out;
  show = map({"show", "--limit=9"});
  EXPECT_NE(show.out.find("There is more; go on with --from=36864"),
            std::string::npos)
      << show.out;
}

// The commands that explain prints name the file.
TEST_F(RemapMap, the_commands_for_file_systems_name_the_file) {
  if (!have_program("debugfs") || !have_program("mke2fs"))
    GTEST_SKIP() << "no e2fsprogs";
  image_ = dir_.make_file("main.img", kMain);
  spare_ = dir_.make_file("spare.img", 8 << 20);
  write_file(dir_.path() + "/victim", pattern(9, 1 << 20));
  ASSERT_EQ(run({"mke2fs", "-q", "-b", "4096", "-t", "ext4", image_}).code, 0);
  ASSERT_EQ(run({"debugfs", "-w", "-R",
                 "write " + dir_.path() + "/victim victim", image_})
                .code,
            0);
  serve(image_);
  const std::size_t at = read_file(image_).find(pattern(9, 1 << 20));
  ASSERT_NE(at, std::string::npos);
  const json answer = map_json({"explain", std::to_string(at + 70'000)});
  std::string command = answer["file_commands"]["ext4"][0];
  command.replace(command.find("DEVICE"), 6, image_);
  const Ended inode = run({"/bin/sh", "-c", command});
  const std::string number = inode.out.substr(inode.out.find_last_of('\t') + 1);
  command = answer["file_commands"]["ext4"][1];
  command.replace(command.find("DEVICE"), 6, image_);
  command.replace(command.find("INODE"), 5, std::to_string(std::stoul(number)));
  EXPECT_NE(run({"/bin/sh", "-c", command}).out.find("victim"),
            std::string::npos)
      << inode.out;
}

}  // namespace
}  // namespace nbd_remap
