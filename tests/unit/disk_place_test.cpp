// SPDX-License-Identifier: BSD-3-Clause
#include "server/disk_place.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "tests/fakes/scratch.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;

// A sysfs with a disk 8:16, its partition 8:17, and what is made of others.
class DiskPlaceTest : public testing::Test {
 protected:
  DiskPlaceTest() {
    fs::create_directories(sys() + "/dev/block");
    disk("sdb", "8:16");
    disk("dm-0", "253:0", "dm");
    disk("md0", "9:0", "md");
    disk("loop0", "7:0", "loop");
    partition("sdb", "sdb1", "8:17", "2048");
    partition("md0", "md0p1", "9:1", "64");
  }
  std::string sys() const { return dir_.path(); }
  void put(const std::string& path, const std::string& text) {
    std::ofstream(sys() + path) << text << "\n";
  }
  void disk(const std::string& name, const std::string& number,
            const std::string& kind = "") {
    fs::create_directories(sys() + "/devices/" + name + "/" + kind);
    put("/devices/" + name + "/dev", number);
    fs::create_symlink("../../devices/" + name, sys() + "/dev/block/" + number);
  }
  void partition(const std::string& of, const std::string& name,
                 const std::string& number, const std::string& start) {
    disk(of + "/" + name, number);
    put("/devices/" + of + "/" + name + "/partition", "1");
    put("/devices/" + of + "/" + name + "/start", start);
  }
  Result<DiskPlace> place(const std::string& number) const {
    return place_of_number(number, "/dev/x", sys());
  }
  ScratchDir dir_;
};

TEST_F(DiskPlaceTest, a_disk_begins_at_0_and_a_partition_where_sysfs_says) {
  ASSERT_TRUE(place("8:16"));
  EXPECT_EQ(place("8:16")->disk, "8:16");
  EXPECT_EQ(place("8:16")->start_bytes, 0U);
  ASSERT_TRUE(place("8:17"));
  EXPECT_EQ(place("8:17")->disk, "8:16");
  EXPECT_EQ(place("8:17")->start_bytes, 2048U * 512);
}

TEST_F(DiskPlaceTest, what_is_made_of_others_has_no_place) {
  for (const char* number : {"253:0", "9:0", "9:1", "7:0"}) {
    const auto none = place(number);
    ASSERT_FALSE(none) << number;
    EXPECT_NE(none.error().place.find("made of something else"),
              std::string::npos);
  }
}

TEST_F(DiskPlaceTest, a_strange_sysfs_is_an_error) {
  EXPECT_FALSE(place("1:1"));
  for (const char* start : {"", "x", "-1", "2048x", "99999999999999999999",
                            "18446744073709551615"}) {
    put("/devices/sdb/sdb1/start", start);
    EXPECT_FALSE(place("8:17")) << start;
  }
}

TEST_F(DiskPlaceTest, only_block_devices_have_a_place) {
  EXPECT_EQ(place_on_disk(dir_.path(), sys()).error().errnum, ENOTBLK);
  EXPECT_EQ(place_on_disk("/dev/null", sys()).error().errnum, ENOTBLK);
  EXPECT_EQ(place_on_disk("/nowhere", sys()).error().errnum, ENOENT);
}

}  // namespace
}  // namespace nbd_remap
