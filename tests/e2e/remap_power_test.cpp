// SPDX-License-Identifier: BSD-3-Clause
// Power cuts of MAIN and SPARE at the same moment, where each loses, tears or
// reorders what was not flushed (contract C2, C3, L4; mistakes 6 and 7).

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/e2e/block_writer.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBlocks = 512;
constexpr unsigned kWriters = 4;

// A volume over two remote disks with volatile write caches.
class RemapPower : public testing::Test {
 protected:
  RemapPower()
      : seed_(std::random_device()()),
        random_(seed_),
        main_(dir_, "main", dir_.make_file("main.img", kBlocks * kWrittenBlock),
              {"write-cache=4M", "bad-percent=2", "mode=write",
               "seed=" + std::to_string(seed_)}),
        spare_(dir_, "spare", dir_.make_file("spare.img", 16 << 20),
               {"write-cache=4M"}),
        writers_(make_writers(kWriters, kBlocks, seed_)) {
    format(main_.uri(), spare_.uri());
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_.uri(),
                                            spare_.uri());
    volume_->verbose = false;
  }

  // Writes until some random moment, when the disks lose their power and the
  // server's machine its own, before or after them.
  void write_until_the_power_fails() {
    std::vector<std::thread> threads;
    const std::uint64_t begin = writers_[0]->done;
    for (const auto& writer : writers_)
      threads.emplace_back(
          [&writer, c = Client(volume_->uri())] { writer->work(c); });
    const std::uint64_t target = begin + 10 + random_() % 80;
    EXPECT_TRUE(eventually([&] { return writers_[0]->done > target; }));
    cut();
    for (std::thread& t : threads) t.join();
  }
  void cut() {
    const bool server_first = random_() % 2 == 0;
    if (server_first) volume_->kill();
    for (const BadDisk* disk : {&main_, &spare_}) {
      const char* const kinds[] = {"lost", "reordered", "torn", "torn"};
      disk->post("cut",
                 {{"kind", kinds[random_() % 4]}, {"seed", random_() % 1000}});
    }
    if (!server_first) volume_->kill();
  }
  void power_on() const {
    main_.post("power-on");
    spare_.post("power-on");
  }
  void verify() {
    // A durable mapping is never lost.
    const std::uint64_t now = volume_->show()["blocks"]["remapped"];
    EXPECT_GE(now, remapped_);
    verify_blocks(Client(volume_->uri()), writers_, &durable_);
    remapped_ = volume_->show()["blocks"]["remapped"];
  }
  void expect_that_something_was_at_stake() {
    EXPECT_GT(durable_, 100U);
    EXPECT_GT(remapped_, 10U);
    EXPECT_GT(main_.fired("write"), 10U);
    const json main_cache = main_.state()["write_cache"];
    const json spare_cache = spare_.state()["write_cache"];
    EXPECT_GT(main_cache["sectors_lost"], 10) << main_cache;
    EXPECT_GT(main_cache["sectors_kept"], 10) << main_cache;
    EXPECT_GT(spare_cache["sectors_lost"].get<int>() +
                  spare_cache["sectors_kept"].get<int>(),
              0)
        << spare_cache;
    RecordProperty("main", main_cache.dump());
    RecordProperty("spare", spare_cache.dump());
  }

  const unsigned seed_;
  std::mt19937_64 random_;
  ScratchDir dir_;
  BadDisk main_;
  BadDisk spare_;
  BlockWriters writers_;
  std::unique_ptr<RemapServer> volume_;
  std::uint64_t remapped_ = 0;
  std::uint64_t durable_ = 0;
};

TEST_F(RemapPower, what_was_flushed_survives_the_cut_of_both_disks) {
  SCOPED_TRACE("seed " + std::to_string(seed_));
  const int cycles = in_long_form(200, 20);
  for (int cycle = 0; cycle < cycles; ++cycle) {
    volume_->start();
    verify();
    ASSERT_FALSE(HasFatalFailure()) << "cycle " << cycle;
    write_until_the_power_fails();
    power_on();
  }
  volume_->start();
  verify();
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(main_.state()["write_cache"]["cuts"], cycles);
  EXPECT_EQ(spare_.state()["write_cache"]["cuts"], cycles);
  expect_that_something_was_at_stake();
  EXPECT_EQ(volume_->stop().code, 0);
}

// The power fails again while the volume recovers, again and again (contract
// M2a).
TEST_F(RemapPower, a_recovery_that_is_cut_short_recovers_the_next_time) {
  SCOPED_TRACE("seed " + std::to_string(seed_));
  std::uint64_t cut_short = 0;
  for (int cycle = 0; cycle < in_long_form(60, 6); ++cycle) {
    volume_->start();
    verify();
    ASSERT_FALSE(HasFatalFailure()) << "cycle " << cycle;
    write_until_the_power_fails();
    for (int again = 0; again < 3; ++again) {
      power_on();
      // Early in what a start asks of SPARE, so that it is met.
      spare_.post("die", {{"after", 1 + random_() % 12}});
      if (!volume_->try_start()) ++cut_short;
      cut();
      spare_.post("revive");
    }
    power_on();
  }
  volume_->start();
  verify();
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_GT(cut_short, 0U);
  EXPECT_GT(spare_.fired("dead"), 0U);
  expect_that_something_was_at_stake();
  EXPECT_EQ(volume_->stop().code, 0);
}

}  // namespace
}  // namespace nbd_remap
