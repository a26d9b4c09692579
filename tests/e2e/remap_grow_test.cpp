// SPDX-License-Identifier: BSD-3-Clause
// Disks that are enlarged, as their owner does it: while the volume is served,
// and while it is not.

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kMain = 16 * kMiB;

class RemapGrow : public testing::Test {
 protected:
  void SetUp() override {
    main_ = dir_.make_file("main.img", kMain);
    spare_ = dir_.make_file("spare.img", kMiB);
    format(main_, spare_);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_, spare_);
  }
  Ended ctl(Words words) const {
    words.insert(words.begin(), NBD_REMAPCTL);
    return run(words);
  }
  Ended live(Words words) const {
    words.push_back("--socket=" + volume_->control());
    return ctl(std::move(words));
  }
  json slots() const { return volume_->show()["spare"]["slots"]; }

  ScratchDir dir_;
  std::string main_;
  std::string spare_;
  std::unique_ptr<RemapServer> volume_;
};

TEST_F(RemapGrow, both_disks_grow_under_a_volume_that_is_served) {
  volume_->start();
  const Client old_client(volume_->uri());
  ASSERT_EQ(old_client.write(kMain - 4096, pattern(1, 4096)), 0);
  const json before = slots();

  Ended none = live({"volume", "grow"});
  EXPECT_EQ(none.code, 1) << none.out;
  EXPECT_NE(none.err.find("enlarge it first"), std::string::npos) << none.err;
  EXPECT_EQ(count_of(none.err, "\n"), 1U);
  none = live({"spare", "grow"});
  EXPECT_EQ(none.code, 1) << none.out;
  EXPECT_NE(none.err.find("enlarge it first"), std::string::npos) << none.err;
  EXPECT_EQ(live({"volume", "grow", "--disk=both"}).code, 2);

  fs::resize_file(main_, 2 * kMain);
  fs::resize_file(spare_, 4 * kMiB);
  const Ended spare = live({"spare", "grow"});
  EXPECT_EQ(spare.code, 0) << spare.err;
  EXPECT_GT(slots(), before);
  const Ended main = live({"volume", "grow", "--json"});
  EXPECT_EQ(main.code, 0) << main.err;
  EXPECT_EQ(json::parse(main.out)["size"], 2 * kMain);

  EXPECT_EQ(old_client.size(), kMain) << "it keeps what it was told";
  std::string data;
  EXPECT_EQ(old_client.read(kMain - 4096, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(1, 4096));
  const Client client(volume_->uri());
  EXPECT_EQ(client.size(), 2 * kMain);
  EXPECT_EQ(
      client.write(2 * kMain - 4096, pattern(2, 4096), LIBNBD_CMD_FLAG_FUA), 0);

  volume_->kill();
  fs::remove(volume_->socket());
  volume_->start();
  const Client again(volume_->uri());
  EXPECT_EQ(again.size(), 2 * kMain);
  EXPECT_EQ(again.read(2 * kMain - 4096, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(2, 4096));
  EXPECT_GT(slots(), before);
  EXPECT_EQ(volume_->stop().code, 0);
}

TEST_F(RemapGrow, disks_that_grew_while_nobody_looked_are_refused_until_told) {
  volume_->start();
  EXPECT_EQ(Client(volume_->uri()).write(0, pattern(3, 4096)), 0);
  const Ended busy = ctl({"spare", "grow", spare_});
  EXPECT_EQ(busy.code, 4) << busy.err;
  EXPECT_EQ(volume_->stop().code, 0);
  fs::resize_file(spare_, 3 * kMiB);
  EXPECT_FALSE(volume_->try_start());
  EXPECT_NE(volume_->log().find("nbd-remapctl spare grow"), std::string::npos)
      << volume_->log();
  const Ended spare = ctl({"spare", "grow", spare_});
  EXPECT_EQ(spare.code, 0) << spare.err;
  EXPECT_NE(spare.out.find("slots"), std::string::npos) << spare.out;
  fs::resize_file(main_, 2 * kMain);
  EXPECT_FALSE(volume_->try_start());
  const std::string other = dir_.make_file("other.img", 4 * kMain);
  const Ended wrong = ctl({"spare", "grow", spare_, "--main=" + other});
  EXPECT_EQ(wrong.code, 1) << wrong.out;
  EXPECT_NE(wrong.err.find("another MAIN"), std::string::npos) << wrong.err;
  const Ended main = ctl({"spare", "grow", spare_, "--main=" + main_});
  EXPECT_EQ(main.code, 0) << main.err;
  volume_->start();
  const Client client(volume_->uri());
  EXPECT_EQ(client.size(), 2 * kMain);
  std::string data;
  EXPECT_EQ(client.read(0, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(3, 4096));
  EXPECT_EQ(volume_->stop().code, 0);
  EXPECT_EQ(ctl({"spare", "check", spare_, "--main=" + main_}).code, 0);
}

}  // namespace
}  // namespace nbd_remap
