// SPDX-License-Identifier: BSD-3-Clause
// check, repair, dump, restore and scan, and then the real server on what they
// left: the data is there, to the byte.

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMain = 8 << 20;
constexpr std::uint64_t kSpare = 4 << 20;
constexpr std::uint64_t kPending = 4000 * 512;

// A MAIN with bad blocks 0, 1, 2, 3 (writes) and a bad sector 4000 (reads).
class RemapctlOffline : public testing::Test {
 protected:
  RemapctlOffline()
      : image_(dir_.make_file("main.img", kMain)),
        spare_(dir_.make_file("spare.img", kSpare)),
        disk_(dir_, "disk", image_, {"bad=0-31:write,4000:read"}) {
    format(disk_.uri(), spare_);
    RemapServer volume = server();
    volume.start();
    {
      const Client c(volume.uri());
      EXPECT_EQ(c.write(0, pattern(1, 8192)), 0);
      EXPECT_EQ(c.read(kPending, 512, nullptr), EIO);
    }
    EXPECT_GE(disk_.fired("write"), 1U);
    EXPECT_EQ(volume.show()["blocks"]["remapped"], 2);
    EXPECT_EQ(volume.stop().code, 0);
  }
  RemapServer server() { return {dir_, "volume", disk_.uri(), spare_}; }
  static Ended spare(const Words& words) {
    Words all{NBD_REMAPCTL, "spare"};
    all.insert(all.end(), words.begin(), words.end());
    return run(all);
  }
  void save_dump(const std::string& file) const {
    const Ended dump = spare({"dump", spare_});
    ASSERT_EQ(dump.code, 0) << dump.err;
    std::ofstream(file) << dump.out;
  }
  // Both checkpoint areas and the first record of this copy.
  void ruin(CopyIndex copy) const {
    const Layout l = survey(spare_).superblock.layout;
    std::fstream file(spare_, std::ios::binary | std::ios::in | std::ios::out);
    for (const DeviceOffset at :
         {l.checkpoint(copy, 0), l.checkpoint(copy, 1), l.record(copy, 0)}) {
      file.seekp(static_cast<std::streamoff>(at.value));
      file << std::string(4096, 'x');
    }
    ASSERT_TRUE(file.flush());
  }
  // Starts the server: all that was written is there, and what cannot be read
  // is said so. Returns its log.
  std::string expect_served() {
    RemapServer volume = server();
    volume.start();
    {
      const Client c(volume.uri());
      std::string data;
      EXPECT_EQ(c.read(0, 8192, &data), 0);
      EXPECT_TRUE(data == pattern(1, 8192));
      EXPECT_EQ(c.read(kPending, 512, nullptr), EIO);
      EXPECT_EQ(c.read(kMain - 512, 512, &data), 0);
    }
    EXPECT_EQ(volume.show()["blocks"]["remapped"], 2);
    const Ended ended = volume.stop();
    EXPECT_EQ(ended.code, 0) << ended.err;
    return ended.err;
  }

  ScratchDir dir_;
  const std::string image_;
  const std::string spare_;
  BadDisk disk_;
};

TEST_F(RemapctlOffline, what_repair_mended_the_server_finds_whole) {
  for (CopyIndex copy : kCopies) {
    ruin(copy);
    EXPECT_EQ(spare({"check", spare_}).code, 1);
    const std::uint32_t before = checksum(spare_);
    Ended ended = spare({"repair", spare_});
    EXPECT_EQ(ended.code, 1) << ended.err;
    EXPECT_NE(ended.out.find("Nothing was written"), std::string::npos);
    EXPECT_EQ(checksum(spare_), before);
    ended = spare({"repair", "--yes", spare_});
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_NE(ended.out.find("both copies are whole"), std::string::npos);
    EXPECT_EQ(spare({"check", spare_}).code, 0);
    const std::string log = expect_served();
    EXPECT_EQ(log.find("repairing"), std::string::npos) << log;
  }
}

TEST_F(RemapctlOffline, what_restore_put_back_the_server_serves) {
  const std::string file = dir_.file("map.json");
  save_dump(file);
  const std::string uuid = uuid_text(survey(spare_).superblock.uuid);
  for (CopyIndex copy : kCopies) ruin(copy);
  EXPECT_EQ(spare({"check", spare_}).code, 2);
  const std::uint32_t before = checksum(spare_);
  Ended ended = spare({"repair", "--yes", spare_});
  EXPECT_EQ(ended.code, 2);
  EXPECT_NE(ended.out.find("no copy can be believed"), std::string::npos);
  RemapServer volume = server();
  EXPECT_FALSE(volume.try_start()) << "both copies are damaged";
  ended = spare({"restore", spare_, "--from=" + file});
  EXPECT_EQ(ended.code, 3);
  EXPECT_NE(ended.err.find("type --replace=" + uuid), std::string::npos)
      << ended.err;
  EXPECT_EQ(checksum(spare_), before) << "nothing was written so far";
  ended = spare({"restore", spare_, "--from=" + file, "--replace=" + uuid});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(spare({"check", spare_}).code, 0);
  expect_served();
}

// The danger that the manual page tells of.
TEST_F(RemapctlOffline, an_old_dump_is_refused_and_forced_loses_what_is_newer) {
  const std::string file = dir_.file("map.json");
  save_dump(file);
  const std::string uuid = uuid_text(survey(spare_).superblock.uuid);
  {
    RemapServer volume = server();
    volume.start();
    {
      const Client c(volume.uri());
      ASSERT_EQ(c.write(8192, pattern(2, 4096)), 0);
    }
    ASSERT_EQ(volume.show()["blocks"]["remapped"], 3);
    ASSERT_EQ(volume.stop().code, 0);
  }
  const Words words{"restore", spare_, "--from=" + file, "--replace=" + uuid};
  std::uint32_t before = checksum(spare_);
  Ended ended = spare(words);
  EXPECT_EQ(ended.code, 3);
  EXPECT_NE(ended.err.find("can still be read"), std::string::npos);
  EXPECT_EQ(checksum(spare_), before);
  for (CopyIndex copy : kCopies) ruin(copy);
  before = checksum(spare_);
  ended = spare(words);
  EXPECT_EQ(ended.code, 3);
  EXPECT_NE(ended.err.find("it had reached sequence"), std::string::npos)
      << ended.err;
  EXPECT_EQ(checksum(spare_), before);
  Words forced = words;
  forced.push_back("--lose-newer-data");
  ended = spare(forced);
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_NE(ended.out.find("Lost "), std::string::npos) << ended.out;
  expect_served();  // with the two blocks that the dump knows
}

TEST_F(RemapctlOffline, a_running_server_keeps_its_spare) {
  const std::string file = dir_.file("map.json");
  save_dump(file);
  const std::string uuid = uuid_text(survey(spare_).superblock.uuid);
  RemapServer volume = server();
  volume.start();
  for (const Words& words : {Words{"check", spare_}, Words{"repair", spare_},
                             Words{"repair", "-y", spare_},
                             Words{"restore", spare_, "--from=" + file,
                                   "--replace=" + uuid, "--lose-newer-data"}}) {
    const Ended ended = spare(words);
    EXPECT_EQ(ended.code, 3) << words[0];
    EXPECT_NE(ended.err.find("in use"), std::string::npos) << ended.err;
  }
  Ended ended = spare({"scan", dir_.path(), "--json"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  json j = json::parse(ended.out);
  ASSERT_EQ(j["spares"].size(), 1U) << ended.out;
  EXPECT_EQ(j["spares"][0]["verdict"], "in-use");
  EXPECT_EQ(j["spares"][0]["superblock"]["uuid"], uuid);
  volume.kill();
  volume.wait(10s);
  // What a killed server leaves is sound.
  ended = spare({"scan", spare_, disk_.uri(), "--json"});
  EXPECT_EQ(ended.code, 0) << ended.out;
  j = json::parse(ended.out);
  EXPECT_EQ(j["spares"][0]["verdict"], "sound");
  EXPECT_EQ(j["spares"][0]["main"], disk_.uri());
  EXPECT_EQ(j["spares"][0]["remapped"], 2);
  expect_served();
}

}  // namespace
}  // namespace nbd_remap
