// SPDX-License-Identifier: BSD-3-Clause
// The main job: a MAIN that really fails, and not a byte lost or invented.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kMain = 96 << 20;

void fill(const std::string& path, std::uint64_t seed, std::size_t bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const std::string data = pattern(seed, bytes);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
}

class RemapHeal : public testing::Test {
 protected:
  // MAIN is a bad disk behind NBD.
  void start(const Words& bad = {}, std::uint64_t spare_bytes = 64 << 20) {
    image_ = dir_.make_file("main.img", kMain);
    spare_ = dir_.make_file("spare.img", spare_bytes);
    fill(image_, 5, 8 << 20);
    disk_ = std::make_unique<BadDisk>(dir_, "disk", image_, bad);
    volume_ = make_volume(disk_->uri());
  }
  std::unique_ptr<RemapServer> make_volume(const std::string& main) {
    format(main, spare_);
    auto volume = std::make_unique<RemapServer>(dir_, "volume", main, spare_);
    volume->verbose = false;
    volume->start();
    return volume;
  }
  void TearDown() override {
    if (!volume_) return;
    const Ended ended = volume_->stop();
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_TRUE(survey(spare_).chosen().closed);
  }
  ScratchDir dir_;
  std::string image_;
  std::string spare_;
  std::unique_ptr<BadDisk> disk_;
  std::unique_ptr<RemapServer> volume_;
};

// Mistake 1, mistake 11, mistake 51; C4.
TEST_F(RemapHeal, ten_thousand_write_errors_in_a_row_fail_no_client) {
  constexpr std::uint64_t kBad = 10'000;
  start({"bad=0+160000:write"});  // blocks 0 to 19999
  // A sector of every other block; neighbours are not written at once.
  const auto offset = [](std::uint64_t i) {
    return 2 * (i * 619 % kBad) * kBlock + i % 8 * 512;
  };
  // Nothing on MAIN succeeds between: all that is written is bad.
  std::atomic<std::uint64_t> next{0};
  std::atomic<unsigned> failed{0};
  std::vector<std::thread> clients;
  for (int n = 0; n < 16; ++n)
    clients.emplace_back([&, c = Client(volume_->uri())] {
      for (std::uint64_t i = next++; i < kBad; i = next++)
        if (c.write(offset(i), pattern(i, 512)) != 0) ++failed;
    });
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(failed, 0U);
  EXPECT_GE(disk_->fired("write"), kBad);
  json show = volume_->show();
  EXPECT_EQ(show["blocks"]["remapped"], kBad);
  EXPECT_EQ(show["blocks"]["pending"], 0);
  EXPECT_EQ(show["spare"]["used"], kBad);
  EXPECT_EQ(show["healed"]["blocks"], kBad);
  EXPECT_EQ(show["breaker"], "closed");
  EXPECT_GE(show["errors"]["main"]["medium"], kBad);
  EXPECT_EQ(show["state"], "degraded");

  volume_->kill();
  volume_->start();
  show = volume_->show();
  EXPECT_EQ(show["blocks"]["remapped"], kBad);
  const Client c(volume_->uri());
  // What was never written is what it was.
  const std::string before = pattern(5, 8 << 20) + std::string(kBlock, '\0');
  for (std::uint64_t i = 0; i < kBad; ++i) {
    std::string block;
    const std::uint64_t at = round_down(offset(i), kBlock);
    ASSERT_EQ(c.read(at, kBlock, &block), 0);
    std::string expected =
        at < 8 << 20 ? before.substr(at, kBlock) : std::string(kBlock, '\0');
    expected.replace(offset(i) - at, 512, pattern(i, 512));
    ASSERT_TRUE(block == expected) << "byte " << at;
  }
}

// Mistake 2, mistake 28; C5.
TEST_F(RemapHeal, a_read_error_never_becomes_data) {
  start({"bad=800-815:read,4000:read"});
  const std::string image = pattern(5, 8 << 20);
  {
    const Client c(volume_->uri());
    EXPECT_EQ(c.read(792 * 512, 32 * 512, nullptr), EIO);
    EXPECT_EQ(c.read(800 * 512, 512, nullptr), EIO);
    EXPECT_EQ(c.read(3968 * 512, 1 << 15, nullptr), EIO);
    std::string data;
    EXPECT_EQ(c.read(792 * 512, 8 * 512, &data), 0);
    EXPECT_TRUE(data == image.substr(792 * 512, 8 * 512));
    EXPECT_EQ(c.read(4001 * 512, 7 * 512, &data), 0);
    EXPECT_TRUE(data == image.substr(4001 * 512, 7 * 512));
    const std::uint64_t fired = disk_->fired("read");
    EXPECT_GE(fired, 3U);
    EXPECT_EQ(volume_->show()["blocks"]["pending"], 3);
    EXPECT_EQ(volume_->show()["blocks"]["remapped"], 0);
    // A pending block fails at once: the disk is not asked again.
    EXPECT_EQ(c.read(800 * 512, 512, nullptr), EIO);
    EXPECT_EQ(disk_->fired("read"), fired);
  }
  disk_->heal({{"all", true}});
  const auto original_or_error = [&] {
    const Client c(volume_->uri());
    for (std::uint64_t sector : {800, 807, 808, 815, 4000}) {
      std::string data;
      const int error = c.read(sector * 512, 512, &data);
      EXPECT_TRUE(error == EIO ||
                  (error == 0 && data == image.substr(sector * 512, 512)))
          << sector << ": " << error;
    }
  };
  original_or_error();
  EXPECT_EQ(volume_->stop().code, 0);
  volume_->start();
  original_or_error();
  volume_->kill();
  volume_->start();
  original_or_error();
  // A write supplies the data (C5), part of a block supplies that part (C6).
  const Client c(volume_->uri());
  std::string data;
  EXPECT_EQ(c.write(800 * 512, pattern(9, 512)), 0);
  EXPECT_EQ(c.read(800 * 512, 512, &data), 0);
  EXPECT_TRUE(data == pattern(9, 512));
}

// Mistake 18; C6.
TEST_F(RemapHeal, a_partial_write_to_a_bad_block_invents_nothing) {
  start({"bad=800-807"});
  const Client c(volume_->uri());
  EXPECT_EQ(c.write(802 * 512, pattern(1, 1024)), 0);
  EXPECT_EQ(c.write(805 * 512 + 100, "some"), EIO);  // a part of a sector
  const auto check = [&](const Client& client) {
    std::string data;
    EXPECT_EQ(client.read(802 * 512, 1024, &data), 0);
    EXPECT_TRUE(data == pattern(1, 1024));
    for (std::uint64_t sector : {800, 801, 804, 805, 806, 807})
      EXPECT_EQ(client.read(sector * 512, 512, nullptr), EIO) << sector;
    EXPECT_EQ(client.read(799 * 512, 512, nullptr), 0);
    EXPECT_EQ(client.read(808 * 512, 512, nullptr), 0);
  };
  check(c);
  EXPECT_EQ(volume_->show()["blocks"]["remapped"], 1);
  EXPECT_GE(disk_->fired("write"), 1U);
  EXPECT_GE(disk_->fired("read"), 1U);
  disk_->heal({{"all", true}});
  volume_->kill();
  volume_->start();
  check(Client(volume_->uri()));
}

// Mistake 14.
TEST_F(RemapHeal, sixty_four_bad_at_once_on_many_connections) {
  std::string bad;
  for (unsigned i = 0; i < 64; ++i)
    bad += (i ? "," : "") + std::to_string(i * 256) + ":write";
  start({"bad=" + bad});
  std::vector<Client> clients;
  for (unsigned i = 0; i < 16; ++i) clients.emplace_back(volume_->uri());
  std::vector<std::string> data;
  for (unsigned i = 0; i < 64; ++i) data.push_back(pattern(i, 4096));
  std::vector<std::pair<unsigned, std::int64_t>> sent;
  for (unsigned i = 0; i < 64; ++i) {
    const std::int64_t cookie =
        nbd_aio_pwrite(clients[i % 16].get(), data[i].data(), 4096, i * 131'072,
                       nbd_completion_callback{}, 0);
    ASSERT_NE(cookie, -1);
    sent.emplace_back(i % 16, cookie);
  }
  for (const auto& [client, cookie] : sent) {
    int done = 0;
    while ((done = nbd_aio_command_completed(
                clients[client].get(), static_cast<std::uint64_t>(cookie))) ==
           0)
      ASSERT_EQ(nbd_poll(clients[client].get(), 10'000), 1);
    EXPECT_EQ(done, 1) << nbd_get_error();
  }
  EXPECT_EQ(volume_->show()["blocks"]["remapped"], 64);
  for (unsigned i = 0; i < 64; ++i) {
    std::string back;
    EXPECT_EQ(clients[0].read(i * 131'072, 4096, &back), 0);
    EXPECT_TRUE(back == data[i]);
  }
}

// Mistakes 13 and 14; C7.
TEST_F(RemapHeal, of_a_mebibyte_with_one_bad_sector_one_block_is_remapped) {
  start({"bad=2100:write"});
  const Client c(volume_->uri());
  const std::string data = pattern(3, 1 << 20);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(c.write(1 << 20, data), 0);
  std::string back;
  EXPECT_EQ(c.read(1 << 20, 1 << 20, &back), 0);
  EXPECT_TRUE(back == data);
  const json show = volume_->show();
  EXPECT_EQ(show["blocks"]["remapped"], 1);
  EXPECT_EQ(show["spare"]["used"], 1);
  EXPECT_GE(disk_->fired("write"), 1U);
  // A remapped block is never called a hole (C8, rule R13).
  const auto map = c.map(2096 * 512, 4096);
  ASSERT_EQ(map.size(), 1U);
  EXPECT_EQ(map[0].second, 0U);
}

// Mistake 27; C10.
TEST_F(RemapHeal, a_dead_cable_does_not_eat_the_spare) {
  start({"bad=0"});
  disk_->add_bad({{"ranges", "0-196607"}, {"mode", "both"}});
  const Client c(volume_->uri());
  unsigned failed = 0;
  for (unsigned i = 0; i < 200; ++i)
    if (c.write(i * 65'536, pattern(i, 4096)) == EIO) ++failed;
  EXPECT_GT(failed, 150U);
  const json show = volume_->show();
  EXPECT_LE(show["blocks"]["remapped"], 16);
  EXPECT_EQ(show["breaker"], "open");
  EXPECT_EQ(show["state"], "failed");
}

// Mistake 17; C9.
TEST_F(RemapHeal, a_bad_place_on_spare_is_retired_for_good) {
  start({"bad=0+8000:write"});
  EXPECT_EQ(volume_->stop().code, 0);
  // The same SPARE behind a bad disk would be another SPARE: format anew.
  const std::string image = dir_.make_file("bad-spare.img", 16 << 20);
  BadDisk spare(dir_, "spare", image);
  format(disk_->uri(), spare.uri());
  const Superblock superblock = survey(spare.uri()).superblock;
  const std::uint64_t first = superblock.layout.slot(SlotNo{0}).value / 512;
  spare.add_bad(
      {{"ranges", std::to_string(first) + "-" + std::to_string(first + 23)},
       {"mode", "write"}});
  spare_ = spare.uri();
  volume_ = std::make_unique<RemapServer>(dir_, "volume", disk_->uri(), spare_);
  volume_->start();
  for (int round = 0; round < 2; ++round) {
    const Client c(volume_->uri());
    for (unsigned i = 0; i < 20; ++i)
      ASSERT_EQ(c.write(i * kBlock, pattern(i, kBlock)), 0);
    std::string data;
    for (unsigned i = 0; i < 20; ++i) {
      ASSERT_EQ(c.read(i * kBlock, kBlock, &data), 0);
      EXPECT_TRUE(data == pattern(i, kBlock));
    }
    const json show = volume_->show();
    EXPECT_EQ(show["spare"]["retired"], 3);
    EXPECT_EQ(show["spare"]["used"], 20);
    EXPECT_EQ(show["state"], "degraded");
    volume_->kill();
    volume_->start();
  }
  EXPECT_EQ(volume_->show()["spare"]["retired"], 3);
  EXPECT_GE(spare.fired("write"), 3U);
  EXPECT_EQ(volume_->stop().code, 0);
  volume_.reset();
}

TEST_F(RemapHeal, nbdcopy_onto_a_disk_that_goes_bad_and_back) {
  start({"bad-percent=0.5", "mode=write", "seed=11"});
  const std::string image = dir_.make_file("image", kMain);
  fill(image, 77, 24 << 20);
  const std::string back = dir_.make_file("back", kMain);
  Ended ended = run({"nbdcopy", "--connections=4", image, volume_->uri()});
  ASSERT_EQ(ended.code, 0) << ended.err;
  disk_->add_bad({{"count", 100}, {"mode", "write"}, {"seed", 3}});
  ended = run({"nbdcopy", "--connections=4", image, volume_->uri()});
  ASSERT_EQ(ended.code, 0) << ended.err;
  ended = run({"nbdcopy", "--connections=4", volume_->uri(), back});
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(run({"cmp", image, back}).code, 0);
  EXPECT_GT(volume_->show()["blocks"]["remapped"], 100);
  EXPECT_GT(disk_->fired("write"), 100U);
}

}  // namespace
}  // namespace nbd_remap
