// SPDX-License-Identifier: BSD-3-Clause
// Errors as they go over the wire: of a medium that fails, and of a volume that
// is read-only.

#include "tests/wire_hostile/wire_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSize = 16 << 20;
constexpr std::uint32_t kEperm = 1;
constexpr std::uint32_t kEio = 5;

class WireMedium : public HostileWire {
 protected:
  void SetUp() override { world_ = make_world(kSize, "bad=800:read"); }
  void TearDown() override {
    check_world(*world_);
    end_world(world_);
  }
  std::unique_ptr<World> world_;
};

// Contract C5: as an error without data, and the connection goes on.
TEST_F(WireMedium, a_sector_that_cannot_be_read_is_eio) {
  for (const bool structured : {false, true}) {
    WireClient c(world_->volume->socket());
    c.go(structured);
    EXPECT_EQ(c.ask(0, wire::kRead, 800 * 512, 512).error, kEio);
    EXPECT_EQ(c.ask(0, wire::kRead, 799 * 512, 1536).error, kEio);
    EXPECT_EQ(c.ask(0, wire::kRead, 799 * 512, 512).error, 0U);
    EXPECT_EQ(c.ask(0, wire::kRead, 801 * 512, 512).error, 0U);
    // Part of it: what stays cannot be read.
    EXPECT_EQ(c.ask(0, wire::kWrite, 800 * 512 + 1, 9, "part of i").error,
              kEio);
    EXPECT_TRUE(c.serves());
  }
  EXPECT_GE(world_->disk->fired("read"), 1U);
}

TEST_F(WireMedium, what_fails_is_the_same_for_every_client_until_written) {
  WireClient a(world_->volume->socket());
  WireClient b(world_->volume->socket());
  a.go(true);
  b.go(false);
  EXPECT_EQ(a.ask(0, wire::kRead, 800 * 512, 512).error, kEio);
  EXPECT_EQ(b.ask(0, wire::kRead, 800 * 512, 512).error, kEio);
  const std::string data = pattern(3, 512);
  EXPECT_EQ(b.ask(0, wire::kWrite, 800 * 512, 512, data).error, 0U);
  EXPECT_TRUE(a.ask(0, wire::kRead, 800 * 512, 512).data == data);
  EXPECT_GE(world_->disk->fired("read"), 1U);
}

TEST(WireReadOnly, what_would_write_is_eperm_and_changes_nothing) {
  const ScratchDir dir;
  const std::string main = dir.make_file("main.img", kSize);
  const std::string spare = dir.make_file("spare.img", 4 << 20);
  format(main, spare);
  RemapServer volume(dir, "volume", main, spare);
  volume.words.insert(volume.words.begin(), "-r");
  volume.verbose = false;
  volume.start();
  const std::uint32_t before = checksum(main);
  for (const bool structured : {false, true}) {
    WireClient c(volume.socket());
    c.go(structured);
    EXPECT_TRUE(c.flags() & wire::kReadOnly);
    EXPECT_EQ(c.ask(0, wire::kWrite, 0, 512, std::string(512, 'x')).error,
              kEperm);
    EXPECT_EQ(c.ask(0, wire::kWriteZeroes, 0, 512).error, kEperm);
    EXPECT_EQ(c.ask(0, wire::kTrim, 0, 512).error, kEperm);
    EXPECT_EQ(c.ask(0, wire::kRead, 0, 512).error, 0U);
  }
  EXPECT_EQ(volume.stop().code, 0);
  EXPECT_EQ(checksum(main), before);
}

}  // namespace
}  // namespace nbd_remap
