// SPDX-License-Identifier: BSD-3-Clause
// Two servers on one pair of remote disks: the one that lost its connection
// while the other took the pair over writes nothing more (contract M5).

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

class RemapTakeover : public testing::TestWithParam<bool> {};

// GetParam(): it is SPARE whose connection is lost, else MAIN.
TEST_P(RemapTakeover, who_comes_back_to_disks_that_were_taken_over_is_refused) {
  const bool lose_spare = GetParam();
  const ScratchDir dir;
  const std::string main_file = dir.make_file("main.img", 8 << 20);
  const std::string spare_file = dir.make_file("spare.img", 8 << 20);
  Server main(dir, "main", {"file", main_file});
  Server spare(dir, "spare", {"file", spare_file});
  main.start();
  spare.start();
  format(main.uri(), spare.uri());
  RemapServer first(dir, "first", main.uri(), spare.uri());
  first.start();
  const Client c(first.uri());
  // Acked and not flushed: what a careless server would write again.
  ASSERT_EQ(c.write(0, pattern(1, 65'536)), 0);
  first.child().hang();
  Server& lost = lose_spare ? spare : main;
  lost.kill();
  std::filesystem::remove(lost.socket());
  lost.start();
  RemapServer second(dir, "second", main.uri(), spare.uri());
  second.start();
  {
    const Client other(second.uri());
    ASSERT_EQ(other.write(0, pattern(2, 65'536)), 0);
    ASSERT_EQ(other.flush(), 0);
  }
  first.child().send(SIGCONT);
  EXPECT_TRUE(eventually([&] {
    return first.log().find("another server took") != std::string::npos;
  })) << first.log();
  // It ends by itself; its clients hear errors, and change nothing.
  const Ended ended = first.wait(15s);
  EXPECT_NE(ended.code, -1) << first.log();
  EXPECT_NE(c.write(0, pattern(3, 65'536)), 0);
  std::string data;
  EXPECT_EQ(Client(second.uri()).read(0, 65'536, &data), 0);
  EXPECT_TRUE(data == pattern(2, 65'536));
  EXPECT_EQ(second.stop().code, 0) << second.log();
  EXPECT_EQ(survey(spare_file).chosen().state.entries.size(), 0U);
}
INSTANTIATE_TEST_SUITE_P(Disks, RemapTakeover, testing::Bool(),
                         [](const auto& lost) {
                           return std::string(lost.param ? "spare" : "main");
                         });

}  // namespace
}  // namespace nbd_remap
