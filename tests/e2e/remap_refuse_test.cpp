// SPDX-License-Identifier: BSD-3-Clause
// What must not start does not start: one line that says why, an exit status
// that tells, nothing changed, and the next right start works.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMain = 4 << 20;
constexpr std::uint64_t kSpare = 2 << 20;

struct Pair {
  Pair(const ScratchDir& dir, const std::string& name)
      : main(dir.make_file(name + ".img", kMain)),
        spare(dir.make_file(name + ".spare", kSpare)),
        superblock(format(main, spare)) {}
  std::string main;
  std::string spare;
  Superblock superblock;
};

void overwrite(const std::string& path, std::uint64_t offset,
               const std::string& data) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
}

class RemapRefuse : public testing::Test {
 protected:
  // words: without the plugin. Every part must be in the one line.
  void refused(const Words& words, const Words& parts,
               const Words& how = {"-f"}) {
    const std::string before = fingerprint(dir_.path());
    Words all = how;
    for (const char* word : {"-U", "the.sock", "-P", "the.pid"})
      all.push_back(word[0] == '-' ? word : dir_.file(word));
    all.emplace_back(REMAP_PLUGIN);
    all.insert(all.end(), words.begin(), words.end());
    const Ended ended = run_nbdkit(all);
    EXPECT_EQ(ended.code, 1) << ended.err;
    EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
    EXPECT_EQ(ended.err.rfind("nbdkit: error: ", 0), 0U) << ended.err;
    EXPECT_EQ(ended.out, "");
    for (const std::string& part : parts)
      EXPECT_NE(ended.err.find(part), std::string::npos)
          << "expected \"" << part << "\" in: " << ended.err;
    EXPECT_EQ(fingerprint(dir_.path()), before) << ended.err;
  }
  void refused_pair(const std::string& main, const std::string& spare,
                    const Words& parts) {
    refused({"main=" + main, "spare=" + spare}, parts);
  }
  void starts(const Pair& pair) {
    RemapServer volume(dir_, "right", pair.main, pair.spare);
    volume.start();
    EXPECT_EQ(volume.show()["state"], "healthy");
    EXPECT_EQ(volume.stop().code, 0) << volume.log();
    for (const char* file : {"right.sock", "right.pid"})
      fs::remove(dir_.file(file));
  }
  void TearDown() override { starts(a_); }  // mistake 33

  ScratchDir dir_;
  Pair a_{dir_, "a"};
};

// Contract L1, mistake 33: each step of the start fails in turn.
TEST_F(RemapRefuse, disks_that_are_not_there) {
  const std::string none = dir_.file("none");
  refused_pair(none, a_.spare, {"main", none, "no such file"});
  refused_pair(a_.main, none, {"spare", none, "no such file"});
  refused_pair(dir_.path(), a_.spare, {"main", "directory", "expected"});
  refused_pair(a_.main, "/dev/null", {"spare", "character device"});
  const std::string uri = "nbd+unix:///?socket=" + dir_.file("nobody");
  refused_pair(uri, a_.spare, {"main", "nobody"});
  refused_pair(a_.main, uri, {"spare", "nobody"});
}

// Contract M3.
TEST_F(RemapRefuse, a_spare_that_was_never_formatted) {
  const std::string raw = dir_.make_file("raw", kSpare);
  refused_pair(a_.main, raw, {"spare", raw, "not a SPARE", "spare format"});
}

// Mistakes 10 and 12; contract M2.
TEST_F(RemapRefuse, a_spare_with_both_copies_damaged) {
  const Pair b(dir_, "b");
  overwrite(b.spare, 100, "x");
  overwrite(b.spare, superblock_place(kSpare, CopyIndex::tail).value + 100,
            "x");
  refused_pair(b.main, b.spare, {"spare", b.spare, "damaged"});
  const Pair c(dir_, "c");
  for (CopyIndex copy : kCopies)
    for (unsigned area : {0U, 1U})
      overwrite(c.spare, c.superblock.layout.checkpoint(copy, area).value,
                std::string(512, 'x'));
  refused_pair(c.main, c.spare,
               {"spare", c.spare, "no copy", "nothing was written"});
}

TEST_F(RemapRefuse, one_damaged_copy_is_no_reason) {
  Pair b(dir_, "b");
  overwrite(b.spare, 100, "x");
  RemapServer volume(dir_, "b", b.main, b.spare);
  volume.start();
  EXPECT_EQ(volume.stop().code, 0);
  EXPECT_TRUE(survey(b.spare).copies_agree());
}

// Mistake 12: what was swapped, resized, copied.
TEST_F(RemapRefuse, a_pair_that_does_not_belong_together) {
  const Pair b(dir_, "b");
  refused_pair(a_.main, b.spare, {"spare", b.spare, a_.main});
  refused_pair(b.main, a_.spare, {"spare", a_.spare, b.main});
  const std::string longer = dir_.make_file("longer", 2 * kMain);
  refused_pair(longer, a_.spare, {longer, std::to_string(kMain)});
  const std::string copy = dir_.file("copy");
  fs::copy_file(a_.main, copy);
  refused_pair(copy, a_.spare, {copy});
  const std::string copied_spare = dir_.file("copied-spare");
  fs::copy_file(a_.spare, copied_spare);
  refused_pair(a_.main, copied_spare, {copied_spare, "copy"});
  fs::resize_file(b.main, 2 * kMain);
  refused_pair(b.main, b.spare, {b.main, std::to_string(kMain), "resized"});
  const Pair c(dir_, "c");
  fs::resize_file(c.spare, 2 * kSpare);
  refused_pair(c.main, c.spare, {c.spare, std::to_string(kSpare)});
}

TEST_F(RemapRefuse, main_as_its_own_spare) {
  refused_pair(a_.main, a_.main, {"spare", "same as main"});
  const std::string other_name = dir_.file("other-name");
  fs::create_hard_link(a_.main, other_name);
  refused_pair(a_.main, other_name, {"spare", other_name});
  fs::remove(other_name);
  fs::create_symlink(a_.main, other_name);
  refused_pair(a_.main, other_name, {"spare", other_name});
}

TEST_F(RemapRefuse, another_spare_than_the_one_that_is_asked_for) {
  const Words right{"main=" + a_.main, "spare=" + a_.spare};
  Words words = right;
  words.emplace_back("spare-uuid=0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
  refused(words, {"spare", uuid_text(a_.superblock.uuid), "0f1e2d3c"});
  words = right;
  words.emplace_back("block-size=8192");
  refused(words, {"spare", "4096", "8192"});
}

// Mistake 24; contract M5.
TEST_F(RemapRefuse, disks_that_another_server_holds) {
  const Pair b(dir_, "b");
  RemapServer other(dir_, "other", b.main, b.spare);
  other.start();
  const pid_t pid = other.child().pid();
  refused_pair(b.main, b.spare, {"main", b.main, "in use"});
  refused_pair(a_.main, b.spare, {"spare", b.spare, "in use"});
  EXPECT_EQ(other.child().pid(), pid);
  EXPECT_EQ(Client(other.uri()).write(0, "x"), 0);
  EXPECT_EQ(other.stop().code, 0);
}

TEST_F(RemapRefuse, a_control_socket_that_cannot_be) {
  const Pair b(dir_, "b");
  RemapServer other(dir_, "other", b.main, b.spare);
  other.start();
  const Words right{"main=" + a_.main, "spare=" + a_.spare};
  const auto with = [&](const std::string& control) {
    Words words = right;
    words.push_back("control=" + control);
    return words;
  };
  refused(with(other.control()), {"control", other.control()});
  EXPECT_EQ(other.show()["state"], "healthy");
  EXPECT_EQ(other.stop().code, 0);
  refused(with(dir_.make_file("file", 1)), {"control", "file"});
  refused(with(dir_.file("none/ctl")), {"control", "none", "No such file"});
  refused(with(dir_.file(std::string(120, 'x'))), {"control", "xxx"});
}

// Point 4: unknown, doubled, malformed, contradictory.
TEST_F(RemapRefuse, wrong_words) {
  const std::string main = "main=" + a_.main;
  const std::string spare = "spare=" + a_.spare;
  struct Case {
    Words words;
    Words parts;
  };
  const Case cases[] = {
      {{}, {"main=", "missing", "example"}},
      {{main}, {"spare=", "missing", "example"}},
      {{spare}, {"main=", "missing", "example"}},
      {{main, spare, "spar=x"}, {"spar=x", "unknown", "expected", "example"}},
      {{main, spare, "SPARE=x"}, {"SPARE=x", "unknown"}},
      {{main, spare, spare}, {spare, "twice"}},
      {{a_.main, main, spare}, {main, "twice"}},
      {{main, spare, "retries=1", "retries=1"}, {"retries=1", "twice"}},
      {{"main=", spare}, {"main=", "expected", "example"}},
      {{main, "spare="}, {"spare=", "expected", "example"}},
      {{main, spare, "control="}, {"control=", "expected", "example"}},
      {{main, spare, "direct=yes"}, {"direct=yes", "auto", "off", "on"}},
      {{main, spare, "direct="}, {"direct=", "expected"}},
      {{main, spare, "block-size=4k"}, {"block-size=4k", "4096"}},
      {{main, spare, "block-size=5000"}, {"block-size=5000", "expected"}},
      {{main, spare, "block-size=65536"}, {"block-size=65536", "32768"}},
      {{main, spare, "on-pending-write=never"},
       {"on-pending-write=never", "main-first", "spare-first"}},
      {{main, spare, "retries=-1"}, {"retries=-1", "0 to 100"}},
      {{main, spare, "retries=101"}, {"retries=101", "0 to 100"}},
      {{main, spare, "retries=2x"}, {"retries=2x", "expected"}},
      {{main, spare, "breaker=0"}, {"breaker=0", "1 to 1000000"}},
      {{main, spare, "breaker=99999999999999999999"},
       {"breaker=99999999999999999999", "expected"}},
      {{main, spare, "spare-uuid=1"}, {"spare-uuid=1", "expected", "example"}},
      {{main, spare, "missing-spare=ignore"},
       {"missing-spare=ignore", "refuse", "readonly"}},
      {{main, "spare=" + a_.main}, {"spare=", "same as main"}},
      {{main, spare, "control=" + a_.main}, {"control=", "expected"}},
      {{main, "spare=nbd+unix:///?socket=relative"},
       {"spare=", "absolute path", "example"}},
      {{main, spare, "retries=1\n2"}, {"retries=1\\n2", "expected"}},
      // Mistake 35: a word is shown as it is and never passes through a shell.
      {{main, spare, "retries=$(touch " + dir_.file("x") + ")"},
       {"retries=$(touch", "expected"}},
  };
  for (const Case& c : cases) refused(c.words, c.parts);
}

// Whoever starts it into the background is told as well.
TEST_F(RemapRefuse, a_refusal_is_seen_before_it_goes_into_the_background) {
  const std::string none = dir_.file("none");
  const std::string raw = dir_.make_file("raw", kSpare);
  refused({"main=" + none, "spare=" + a_.spare}, {"no such file"}, {});
  refused({"main=" + a_.main, "spare=" + raw}, {"not a SPARE"}, {});
  refused({"main=" + a_.main, "spare=" + a_.spare, "control=" + raw},
          {"control", raw}, {});
}

TEST_F(RemapRefuse, a_daemon_starts_and_stops) {
  const std::string pid_file = dir_.file("d.pid");
  const std::string socket = dir_.file("d.sock");
  const Ended ended =
      run_nbdkit({"-U", socket, "-P", pid_file, REMAP_PLUGIN, a_.main,
                  "spare=" + a_.spare, "control=" + dir_.file("d.ctl")});
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  pid_t pid = 0;  // written by the daemon, after its parent has gone
  ASSERT_TRUE(eventually(
      [&] { return static_cast<bool>(std::ifstream(pid_file) >> pid); }));
  {
    const Client c("nbd+unix:///?socket=" + socket);
    EXPECT_EQ(c.write(0, "x", LIBNBD_CMD_FLAG_FUA), 0);
  }
  EXPECT_EQ(::kill(pid, SIGTERM), 0);
  EXPECT_TRUE(eventually([&] { return ::kill(pid, 0) != 0; }));
  EXPECT_TRUE(survey(a_.spare).chosen().closed);
  EXPECT_FALSE(fs::exists(dir_.file("d.ctl")));
  fs::remove(socket);
  fs::remove(pid_file);
}

// Mistake 23: started together, never both.
TEST_F(RemapRefuse, two_servers_on_one_spare_never_both) {
  const int rounds = in_long_form(1000, 100);
  int one = 0;
  const std::string copy = dir_.file("other-name");
  fs::create_hard_link(a_.main, copy);
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::unique_ptr<Child>> servers;
    std::vector<std::string> sockets;
    for (const char* name : {"x", "y"}) {
      sockets.push_back(dir_.file(name));
      fs::remove(sockets.back());
      const Words words{nbdkit_program(),
                        "-f",
                        "--exit-with-parent",
                        "-v",
                        "-U",
                        sockets.back(),
                        REMAP_PLUGIN,
                        a_.main,
                        "spare=" + a_.spare};
      servers.push_back(std::make_unique<Child>(words, nbdkit_environment()));
    }
    const auto up = [&](unsigned n) {
      return servers[n]->err().find("loaded in") != std::string::npos;
    };
    const auto decided = [&](unsigned n) {
      return !servers[n]->running() || up(n);
    };
    ASSERT_TRUE(eventually([&] { return decided(0) && decided(1); }))
        << servers[0]->err() << servers[1]->err();
    ASSERT_FALSE(up(0) && up(1)) << "round " << round;
    for (unsigned n : {0U, 1U}) {
      if (!up(n)) {
        EXPECT_NE(servers[n]->err().find("in use"), std::string::npos)
            << servers[n]->err();
        continue;
      }
      ++one;
      servers[n]->send(SIGTERM);
      const Ended ended = servers[n]->wait(10s);
      ASSERT_EQ(ended.code, 0) << ended.err;
    }
  }
  // Each may have seen the other's look: then neither runs. Not mostly.
  EXPECT_GT(one, rounds / 2);
  for (const std::string file : {"x", "y", "other-name"})
    fs::remove(dir_.file(file));
}

}  // namespace
}  // namespace nbd_remap
