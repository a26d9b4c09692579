// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>

#include "tests/e2e/baddisk_fixture.hpp"

namespace nbd_remap {
namespace {

// Mistake 56, mistake 19
TEST_F(Baddisk, exactly_the_sectors_that_were_named_fail) {
  auto nbd = start({"bad=0,7:read,100-103,500+2:write,2047"});
  EXPECT_EQ(unreadable(nbd), (Sectors{0, 7, 100, 101, 102, 103, 2047}));
  EXPECT_EQ(unwritable(nbd), (Sectors{0, 100, 101, 102, 103, 500, 501, 2047}));
  const json s = state();
  EXPECT_EQ(s["fired"]["read"], 7);
  EXPECT_EQ(s["fired"]["write"], 8);
  EXPECT_EQ(s["requests"]["read"], kSectors);
  EXPECT_EQ(s["requests"]["write"], kSectors);
  EXPECT_EQ(s["bad_sectors"], 9);
}

TEST_F(Baddisk, a_longer_request_fails_if_it_touches_one_and_only_then) {
  auto nbd = start({"bad=100"});
  const std::uint64_t at = 100 * 512;
  EXPECT_EQ(nbd.read(at - 4096, 4096), 0);
  EXPECT_EQ(nbd.read(at - 4096, 4097), EIO);
  EXPECT_EQ(nbd.read(at + 511, 4096), EIO);
  EXPECT_EQ(nbd.read(at + 512, 4096), 0);
  EXPECT_EQ(nbd.read(at - 1, 1), 0);
  EXPECT_EQ(nbd.read(at, 1), EIO);
  EXPECT_EQ(nbd.read(at + 511, 1), EIO);
  EXPECT_EQ(nbd.read(at + 512, 1), 0);
  EXPECT_EQ(nbd.read(0, kSectors * 512), EIO);
  EXPECT_EQ(state()["fired"]["read"], 5);
}

TEST_F(Baddisk, a_write_that_fails_writes_nothing_at_all) {
  const std::string before = slurp(disk_);
  {
    auto nbd = start({"bad=100:write"});
    EXPECT_EQ(nbd.write(96 * 512, std::string(8 * 512, 'x')), EIO);
    EXPECT_EQ(
        nbd.write(96 * 512, std::string(8 * 512, 'x'), LIBNBD_CMD_FLAG_FUA),
        EIO);
    EXPECT_EQ(nbd.zero(96 * 512, 8 * 512), EIO);
    EXPECT_EQ(nbd.write(100 * 512 + 5, "x"), EIO);
    EXPECT_EQ(state()["fired"]["write"], 4);
    // The old content is still there to be read.
    std::string data;
    EXPECT_EQ(nbd.read(100 * 512, 512, &data), 0);
    EXPECT_EQ(data, pattern(100));
    EXPECT_EQ(nbd_trim(nbd.get(), 8 * 512, 96 * 512, 0), 0);
  }
  EXPECT_EQ(slurp(disk_), before);
}

TEST_F(Baddisk, bytes_are_written_where_they_belong) {
  std::string expected = slurp(disk_);
  {
    auto nbd = start({});
    struct Case {
      std::uint64_t offset, length;
    };
    unsigned char fill = 1;
    for (const Case& c : {Case{0, 1}, Case{511, 2}, Case{1000, 24},
                          Case{1024, 512}, Case{5000, 3000},
                          Case{kSectors * 512 - 1, 1}, Case{10000, 0x10000}}) {
      const std::string data(c.length, static_cast<char>(fill++));
      const unsigned fua = fill % 2 ? LIBNBD_CMD_FLAG_FUA : 0;
      EXPECT_EQ(nbd.write(c.offset, data, fua), 0);
      expected.replace(c.offset, c.length, data);
    }
    for (const Case& c : {Case{100'000, 1}, Case{100'100, 5000},
                          Case{200'000, 200'000}, Case{204'800, 512}}) {
      EXPECT_EQ(nbd.zero(c.offset, c.length), 0);
      EXPECT_EQ(nbd.zero(c.offset, c.length, LIBNBD_CMD_FLAG_NO_HOLE), 0);
      expected.replace(c.offset, c.length, std::string(c.length, '\0'));
    }
    EXPECT_EQ(nbd_flush(nbd.get(), 0), 0);
    EXPECT_EQ(state()["requests"]["flush"], 1);
    std::string all;
    EXPECT_EQ(nbd.read(0, kSectors * 512, &all), 0);
    EXPECT_TRUE(all == expected);
  }
  EXPECT_TRUE(slurp(disk_) == expected);
}

TEST_F(Baddisk, all_that_the_disk_can_do_is_advertised) {
  auto nbd = start({});
  EXPECT_EQ(nbd_get_size(nbd.get()), 1 << 20);
  EXPECT_EQ(nbd_is_read_only(nbd.get()), 0);
  EXPECT_EQ(nbd_can_flush(nbd.get()), 1);
  EXPECT_EQ(nbd_can_fua(nbd.get()), 1);
  EXPECT_EQ(nbd_can_trim(nbd.get()), 1);
  EXPECT_EQ(nbd_can_zero(nbd.get()), 1);
  EXPECT_EQ(nbd_can_multi_conn(nbd.get()), 1);
  EXPECT_EQ(nbd_get_block_size(nbd.get(), LIBNBD_SIZE_MINIMUM), 1);
  EXPECT_EQ(nbd_get_block_size(nbd.get(), LIBNBD_SIZE_PREFERRED), 4096);
}

TEST_F(Baddisk, a_transient_sector_fails_so_often_and_then_works) {
  auto nbd = start({"bad=10,20", "transient=3"});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(nbd.read_sector(10), EIO) << i;
  EXPECT_EQ(nbd.read_sector(10), 0);
  EXPECT_EQ(nbd.read_sector(20), EIO);
  EXPECT_EQ(nbd.write_sector(20), EIO);
  const json s = state();
  EXPECT_EQ(s["fired"]["read"], 4);
  EXPECT_EQ(s["fired"]["write"], 1);
  EXPECT_EQ(s["bad"], json::parse(R"([{"start":20,"count":1,"mode":"both",
                                       "transient":1}])"));
}

TEST_F(Baddisk, a_written_sector_can_be_read_again_if_that_was_asked_for) {
  {
    auto nbd = start({"bad=10-13", "mode=read", "heal-on-write=yes"});
    EXPECT_EQ(nbd.read_sector(11), EIO);
    EXPECT_EQ(nbd.write(11 * 512 + 5, "part"), EIO);  // needs to read the rest
    EXPECT_EQ(nbd.write_sector(11), 0);
    EXPECT_EQ(nbd.read_sector(11), 0);
    EXPECT_EQ(nbd.zero(12 * 512, 512), 0);
    EXPECT_EQ(nbd.read_sector(12), 0);
    EXPECT_EQ(nbd.read_sector(10), EIO);
    EXPECT_EQ(nbd.read_sector(13), EIO);
    EXPECT_EQ(told(), (Sectors{10, 13}));
    EXPECT_EQ(state()["fired"]["read"], 3);
    EXPECT_EQ(state()["fired"]["write"], 1);
  }
  auto nbd = start({"bad=10-13", "mode=read"});
  EXPECT_EQ(nbd.write_sector(11), 0);
  EXPECT_EQ(nbd.read_sector(11), EIO);
}

// Contract E5
TEST_F(Baddisk, a_seed_chooses_the_sectors_and_again_the_same) {
  const auto chosen = [this](const Words& words) {
    auto nbd = start(words);
    const Sectors fails = unreadable(nbd);
    EXPECT_EQ(fails, told());
    EXPECT_EQ(state()["fired"]["read"], fails.size());
    return fails;
  };
  const Sectors by_seed_5 = chosen({"bad-count=37", "seed=5"});
  EXPECT_EQ(by_seed_5.size(), 37U);
  EXPECT_EQ(chosen({"bad-count=37", "seed=5"}), by_seed_5);
  EXPECT_NE(chosen({"bad-count=37", "seed=6"}), by_seed_5);
  EXPECT_EQ(chosen({"bad-count=37"}), chosen({"bad-count=37", "seed=1"}));
  EXPECT_EQ(chosen({"bad-percent=12.5"}).size(), 256U);
  EXPECT_EQ(chosen({"bad-percent=100"}).size(), kSectors);
}

TEST_F(Baddisk, the_disk_is_changed_while_it_runs) {
  auto nbd = start({});
  EXPECT_EQ(unreadable(nbd), Sectors{});
  ask("POST", "/v1/baddisk/bad", R"({"ranges":"100-102,300:write"})");
  EXPECT_EQ(unreadable(nbd), (Sectors{100, 101, 102}));
  EXPECT_EQ(nbd.write_sector(300), EIO);
  EXPECT_EQ(nbd.write_sector(299), 0);
  EXPECT_EQ(nbd.write_sector(301), 0);
  ask("POST", "/v1/baddisk/heal", R"({"ranges":"101"})");
  EXPECT_EQ(unreadable(nbd), (Sectors{100, 102}));
  ask("POST", "/v1/baddisk/bad", R"({"ranges":"500","transient":1})");
  EXPECT_EQ(nbd.read_sector(500), EIO);
  EXPECT_EQ(nbd.read_sector(500), 0);
  ask("POST", "/v1/baddisk/bad", R"({"count":10,"seed":9,"mode":"read"})");
  EXPECT_GE(told().size(), 10U);
  EXPECT_EQ(unwritable(nbd), (Sectors{100, 102, 300}));
  ask("POST", "/v1/baddisk/heal", R"({"all":true})");
  EXPECT_EQ(unreadable(nbd), Sectors{});
  EXPECT_EQ(unwritable(nbd), Sectors{});
  const auto refused = http_request(control_, "POST", "/v1/baddisk/bad",
                                    R"({"ranges":"7,2048"})");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 400);
  EXPECT_EQ(told(), Sectors{});
}

TEST_F(Baddisk, the_client_is_told_the_errno_that_was_asked_for) {
  for (const auto& [name, errnum] :
       std::vector<std::pair<std::string, int>>{{"EIO", EIO},
                                                {"ENOSPC", ENOSPC},
                                                {"ENOMEM", ENOMEM},
                                                {"EPERM", EPERM},
                                                {"ESHUTDOWN", ESHUTDOWN}}) {
    auto nbd = start({"bad=3", "errno=" + name});
    EXPECT_EQ(nbd.write_sector(3), errnum) << name;
    EXPECT_EQ(nbd.write_sector(2), 0) << name;
  }
}

TEST_F(Baddisk, it_goes_without_a_trace_and_can_start_again) {
  for (int i = 0; i < 5; ++i) {
    auto nbd = start({"bad=1"});
    EXPECT_EQ(nbd.read_sector(1), EIO);
    EXPECT_EQ(state()["fired"]["read"], 1);
    EXPECT_EQ(nbd_shutdown(nbd.get(), 0), 0);
  }
  EXPECT_FALSE(fs::exists(control_));
  EXPECT_EQ(
      std::distance(fs::directory_iterator(folder_), fs::directory_iterator()),
      1);
}

TEST_F(Baddisk, what_cannot_be_is_refused_in_one_line_and_nothing_is_touched) {
  const std::string odd = folder_ + "/odd.img";
  std::ofstream(odd) << std::string(700, 'x');
  const std::string precious = folder_ + "/precious";
  std::ofstream(precious) << "precious";
  auto holder = start({"bad=1"});  // and so the disk is in use
  const std::string busy = disk_;
  const std::string free = folder_ + "/free.img";
  fs::copy_file(disk_, free);
  const std::string before = slurp(free);
  const auto files = [this] {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.insert(entry.path());
    return names;
  };
  const auto names = files();
  struct Case {
    Words words;
    std::string named;
  };
  for (const Case& c : {
           Case{{}, "file="},
           Case{{"bad=1"}, "file="},
           Case{{free, "bad=5-3"}, "bad=5-3"},
           Case{{free, "bad=7,x"}, "bad=7,x"},
           Case{{free, "bad=1", "bad=2"}, "bad=2"},
           Case{{free, "file=" + free}, "file="},
           Case{{free, "bad=2048"}, "bad=: sectors 2048+1"},
           Case{{free, "bad=2000-2048"}, "bad=: sectors 2000+49"},
           Case{{free, "bad-count=2049"}, "bad-count="},
           Case{{free, "bad-count=1", "bad-percent=1"}, "bad-percent="},
           Case{{free, "bad-percent=101"}, "bad-percent=101"},
           Case{{free, "mode=all"}, "mode=all"},
           Case{{free, "transient=-1"}, "transient=-1"},
           Case{{free, "heal-on-write=maybe"}, "heal-on-write=maybe"},
           Case{{free, "seed=x"}, "seed=x"},
           Case{{free, "errno=EAGAIN"}, "errno=EAGAIN"},
           Case{{free, "slow=2048", "slow-ms=5"}, "slow=: sectors 2048+1"},
           Case{{free, "slow=1"}, "slow-ms="},
           Case{{free, "rot=2048"}, "rot=: sectors 2048+1"},
           Case{{free, "write-cache=1"}, "write-cache=1"},
           Case{{free, "die-after=x"}, "die-after=x"},
           Case{{free, "size=1M"}, "size=1M"},
           Case{{free, "mode=all\nall is well"}, "mode=all\\nall is well"},
           Case{{folder_ + "/no\nne"}, "file=" + folder_ + "/no\\nne"},
           Case{{free, "control=" + precious}, "control=: socket " + precious},
           Case{{free, "control=" + control_}, "a running server answers"},
           Case{{free, "control=" + folder_ + "/no/s"}, folder_ + "/no/"},
           Case{{folder_ + "/none"}, "file=" + folder_ + "/none"},
           Case{{folder_}, "file=" + folder_},
           Case{{odd}, "file=" + odd},
           Case{{busy}, "file=" + busy},
           Case{{"nbd://localhost"}, "file="},
       }) {
    // Would serve its standard input, which ends at once.
    Words words = nbdkit({"-s", BADDISK_PLUGIN});
    words.insert(words.end(), c.words.begin(), c.words.end());
    const auto [status, output] = run(words);
    EXPECT_EQ(status, 1) << c.named << ": " << output;
    EXPECT_NE(output.find(c.named), std::string::npos)
        << c.named << ": " << output;
    EXPECT_EQ(std::count(output.begin(), output.end(), '\n'), 1) << output;
    EXPECT_EQ(files(), names) << c.named;
  }
  EXPECT_TRUE(slurp(free) == before);
  EXPECT_EQ(slurp(precious), "precious");
  EXPECT_EQ(holder.read_sector(1), EIO);  // it goes on
}

// Mistake 39
TEST_F(Baddisk, nothing_but_plugin_init_is_exported) {
  const auto [status, output] =
      run({"nm", "-D", "--defined-only", BADDISK_PLUGIN});
  ASSERT_EQ(status, 0) << output;
  EXPECT_EQ(std::count(output.begin(), output.end(), '\n'), 1) << output;
  EXPECT_NE(output.find(" T plugin_init\n"), std::string::npos) << output;
}

TEST_F(Baddisk, the_build_and_every_parameter_are_shown) {
  const auto [status, dump] = run(nbdkit({"--dump-plugin", BADDISK_PLUGIN}));
  EXPECT_EQ(status, 0);
  EXPECT_NE(dump.find("\nname=baddisk\n"), std::string::npos) << dump;
  EXPECT_NE(dump.find("\nbaddisk_version=0."), std::string::npos) << dump;
  EXPECT_NE(dump.find("\nversion=0."), std::string::npos) << dump;

  const auto [help_status, help] = run(nbdkit({"--help", BADDISK_PLUGIN}));
  EXPECT_EQ(help_status, 0);
  const std::string page = slurp(BADDISK_POD);
  for (const std::string word :
       {"file", "bad", "bad-count", "bad-percent", "mode", "transient",
        "heal-on-write", "seed", "errno", "slow", "slow-ms", "rot", "rot-bits",
        "die-after", "die-errno", "write-cache", "control"}) {
    EXPECT_NE(help.find(word + "="), std::string::npos) << word;
    EXPECT_NE(page.find("B<" + word + "="), std::string::npos) << word;
  }
}

}  // namespace
}  // namespace nbd_remap
