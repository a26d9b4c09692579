// SPDX-License-Identifier: BSD-3-Clause
// A script in the place of smartctl.
#include "server/smart_run.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "server/smart_report.hpp"
#include "tests/fakes/scratch.hpp"

namespace nbd_remap {
namespace {

class SmartRunTest : public testing::Test {
 protected:
  SmartRunTest() {
    const char* path = std::getenv("PATH");  // NOLINT: one thread
    before_ = path == nullptr ? "" : path;
    ::setenv("PATH", (dir_.path() + ":" + before_).c_str(), 1);  // NOLINT
  }
  ~SmartRunTest() override {
    ::setenv("PATH", before_.c_str(), 1);  // NOLINT: one thread
  }
  void script(const std::string& body) const {
    const std::string path = dir_.file("smartctl");
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    ASSERT_EQ(::chmod(path.c_str(), 0755), 0);
  }
  ScratchDir dir_;
  std::string before_;
};

// Mistake 35: no shell sees the name.
TEST_F(SmartRunTest, all_that_it_prints_is_the_answer_whatever_its_status) {
  script("printf '%s|' \"$@\"; exec 1>&-; exit 64");
  const auto said = run_smartctl("/dev/null");
  ASSERT_TRUE(said) << said.error().place;
  EXPECT_EQ(*said, "--json|-x|-l|defects,65535|--|/dev/null|");
}

TEST_F(SmartRunTest, one_that_does_not_answer_is_ended) {
  script("exec sleep 600");
  const auto said = run_smartctl("/dev/null", std::chrono::milliseconds(200));
  ASSERT_FALSE(said);
  EXPECT_EQ(said.error().errnum, ETIMEDOUT);
  EXPECT_NE(said.error().place.find("/dev/null"), std::string::npos);
}

TEST_F(SmartRunTest, one_that_never_ends_to_print_is_ended) {
  script("exec yes");
  const auto said = run_smartctl("/dev/null");
  ASSERT_FALSE(said);
  EXPECT_EQ(said.error().errnum, EMSGSIZE);
}

TEST_F(SmartRunTest, what_is_no_disk_is_refused_before_anything_runs) {
  script("touch " + dir_.file("ran"));
  for (const std::string& path : {dir_.path(), dir_.file("smartctl"),
                                  std::string("/nowhere"), std::string()})
    EXPECT_FALSE(run_smartctl(path)) << path;
  struct stat st {};
  EXPECT_NE(::stat(dir_.file("ran").c_str(), &st), 0);
}

TEST_F(SmartRunTest, a_saved_one_is_read_whole_or_not_at_all) {
  std::ofstream(dir_.file("saved")) << "{}";
  EXPECT_EQ(*read_smart_file(dir_.file("saved")), "{}");
  EXPECT_EQ(read_smart_file(dir_.file("none")).error().errnum, ENOENT);
  EXPECT_FALSE(read_smart_file(dir_.path()));
  dir_.make_file("large", kMaxSmartBytes * 4);
  EXPECT_EQ(read_smart_file(dir_.file("large")).error().errnum, EFBIG);
}

}  // namespace
}  // namespace nbd_remap
