// SPDX-License-Identifier: BSD-3-Clause
// Quiesce and resume by command: a copy of both disks taken in between is a
// volume with all that was acked.

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

TEST(RemapQuiesce, clients_wait_and_the_disks_are_whole) {
  const ScratchDir dir;
  const std::string main = dir.make_file("main.img", 8 << 20);
  const std::string spare = dir.make_file("spare.img", 4 << 20);
  format(main, spare);
  RemapServer volume(dir, "volume", main, spare);
  volume.start();
  const auto ctl = [&](Words words) {
    words.insert(words.begin(), NBD_REMAPCTL);
    words.push_back("--socket=" + volume.control());
    return run(words);
  };
  const Client c(volume.uri());
  ASSERT_EQ(c.write(0, pattern(1, 65'536)), 0);
  EXPECT_EQ(ctl({"volume", "quiesce", "--seconds=0"}).code, 2);
  const Ended quiet = ctl({"volume", "quiesce", "--seconds=60"});
  EXPECT_EQ(quiet.code, 0) << quiet.err;
  EXPECT_NE(ctl({"volume", "show"}).out.find("Quiesced"), std::string::npos);
  std::atomic<bool> written{false};
  std::thread writer([&] {
    EXPECT_EQ(c.write(0, pattern(2, 65'536)), 0);
    written = true;
  });
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(written);
  EXPECT_EQ(ctl({"volume", "resume"}).code, 0);
  EXPECT_TRUE(eventually([&] { return written.load(); }));
  writer.join();
  EXPECT_EQ(volume.show()["quiesced"], false);
  // One that is forgotten does not hold up the stop.
  EXPECT_EQ(ctl({"volume", "quiesce", "--json", "--seconds=600"}).code, 0);
  const Ended ended = volume.stop();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_LT(ended.took, 5s);
}

}  // namespace
}  // namespace nbd_remap
