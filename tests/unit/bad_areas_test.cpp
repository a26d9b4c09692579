// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/bad_areas.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace nbd_remap {
namespace {

constexpr std::uint64_t kVolume = 1 << 20;
using Ranges = std::vector<ByteRange>;

// As GNU ddrescue 1.27 wrote it, shifted to the volume's size.
constexpr const char* kMapfile =
    R"(# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue -d -c18 /dev/sdb image mapfile
# Start time:   2015-07-21 09:37:44
# Copying non-tried blocks... Pass 1 (forwards)
# current_pos  current_status  current_pass
0x000C0000     ?               1
#      pos        size  status
0x00000000  0x00017000  +
0x00017000  0x00000200  -
0x00017200  0x00001000  /
0x00018200  0x00007E00  *
0x00020000  0x00000400  -
0x00020400  0x0009FC00  +
0x000C0000  0x00040000  ?
)";

TEST(BadAreas, a_mapfile_of_ddrescue_is_read_state_by_state) {
  const auto areas = parse_mapfile(kMapfile, kVolume);
  ASSERT_TRUE(areas) << areas.error().text();
  EXPECT_EQ(areas->bad, (Ranges{{0x17000, 0x200}, {0x20000, 0x400}}));
  EXPECT_EQ(areas->suspect, (Ranges{{0x17200, 0x8E00}}));
  EXPECT_EQ(areas->untried, 0x40000U);
}

TEST(BadAreas, numbers_are_as_in_c_and_comments_and_line_ends_are_free) {
  const auto areas = parse_mapfile(
      "0 +\r\n0 010000 + # eight\r\n\n  4096\t512 -\r\n4608 0x200 -", kVolume);
  ASSERT_TRUE(areas) << areas.error().text();
  EXPECT_EQ(areas->bad, (Ranges{{4096, 1024}}));
  // What was not tried may reach beyond the end: ddrescue did not know it.
  const auto open =
      parse_mapfile("0 ? 1\n0 512 +\n512 0x7FFFFFFFFFFFFDFF ?\n", kVolume);
  ASSERT_TRUE(open) << open.error().text();
  EXPECT_EQ(open->untried, kVolume - 512);
}

struct Bad {
  std::string_view text;  // behind the status line, if it is a mapfile
  const char* part;
};

void expect_refusal(const Result<BadAreas>& areas, const char* part) {
  ASSERT_FALSE(areas) << part;
  EXPECT_EQ(areas.error().error_class, ErrorClass::caller);
  EXPECT_NE(areas.error().place.find(part), std::string::npos)
      << areas.error().place;
  EXPECT_EQ(areas.error().place.find('\n'), std::string::npos);
  EXPECT_LT(areas.error().place.size(), 300U);
}

TEST(BadAreas, what_is_no_mapfile_is_refused) {
  for (const Bad& bad : {
           Bad{"", "empty"},
           Bad{"# only\n", "empty"},
           Bad{"0 + 1\n", "line 1: no areas"},
           Bad{"0 x 1\n0 512 -\n", "line 1: \"0 x 1\": expected the status"},
           Bad{"0 512 -\n512 512 +\n", "line 1: "},
           Bad{"-1 + 1\n", "line 1: "},
           Bad{"\x7f"
               "ELF\x02\x01\n",
               "line 1: \"\x7f"
               "ELF\x02\x01\""},
       })
    expect_refusal(parse_mapfile(bad.text, kVolume), bad.part);
  const std::string endless(5000, 'A');
  expect_refusal(parse_mapfile(endless, kVolume), "AAA...\": expected");
}

TEST(BadAreas, a_mapfile_that_is_wrong_is_refused_by_its_line) {
  for (const Bad& bad : {
           Bad{{"0 \0 512 -\n", 10}, "line 2: "},
           Bad{"0 512 - 7\n", "line 2: \"0 512 - 7\": expected a position"},
           Bad{"0 512\n", "line 2: "},
           Bad{"0 512 F\n", "line 2: "},
           Bad{"0 -512 -\n", "line 2: "},
           Bad{"-512 512 -\n", "line 2: "},
           Bad{"0 0x -\n", "line 2: "},
           Bad{"0 08 -\n", "line 2: "},
           Bad{"0 512x -\n", "line 2: "},
           Bad{"0 1e6 +\n", "line 2: "},
           Bad{"0 0 -\n", "line 2: "},
           Bad{"0 99999999999999999999 ?\n", "line 2: "},
           Bad{"512 0xFFFFFFFFFFFFFFFF ?\n", "line 2: \"512 0xFFFF"},
           Bad{"0 1024 +\n512 512 -\n",
               "line 3: begins at 512, inside the area before it, which ends "
               "at 1024"},
           Bad{"0 512 +\n\n1024 512 -\n",
               "line 4: begins at 1024, not right after"},
           Bad{"0 1048576 +\n1048576 512 -\n",
               "line 3: ends at 1049088, but the volume has 1048576"},
           Bad{"0 1048577 +\n", "line 2: ends at"},
           Bad{"0 1 -\n", "line 2: \"0 1 -\": bad areas are whole sectors"},
           Bad{"0 100 +\n100 512 *\n", "line 3: "},
       })
    expect_refusal(parse_mapfile("0 + 1\n" + std::string(bad.text), kVolume),
                   bad.part);
}

TEST(BadAreas, a_list_of_badblocks_is_read_in_its_block_size) {
  auto areas = parse_badblocks("# e2fsck\n7\n3\n\n 4 \r\n0\n", kVolume, 1024);
  ASSERT_TRUE(areas) << areas.error().text();
  EXPECT_EQ(areas->bad, (Ranges{{0, 1024}, {3072, 2048}, {7168, 1024}}));
  EXPECT_TRUE(areas->suspect.empty());
  areas = parse_badblocks("2047\n", kVolume, 512);
  EXPECT_EQ(areas->bad, (Ranges{{kVolume - 512, 512}}));
  // The last block of the list is not whole on this volume.
  areas = parse_badblocks("1\n", 4096 + 512, 4096);
  EXPECT_EQ(areas->bad, (Ranges{{4096, 512}}));
  EXPECT_TRUE(parse_badblocks("", kVolume, 1024)->bad.empty());
}

TEST(BadAreas, a_list_that_is_wrong_is_refused_by_its_line) {
  for (const Bad& bad : {
           Bad{"1\n-2\n", "line 2: \"-2\": expected one block number"},
           Bad{"1 2\n", "line 1: "},
           Bad{"0x10\n", "line 1: "},
           Bad{"1.5\n", "line 1: "},
           Bad{"99999999999999999999\n", "line 1: "},
           Bad{"18014398509481984\n", "line 1: block 18014398509481984 of"},
           Bad{"1024\n", "expected below 1024, or another block size"},
           Bad{"5\n6\n\n5\n", "line 4: block 5 is there already, on line 1"},
           Bad{"\x01\x02\xff\n", "line 1: \"\x01\x02\xff\""},
           Bad{"0x0 + 1\n0 512 -\n", "line 1: "},
       })
    expect_refusal(parse_badblocks(bad.text, kVolume, 1024), bad.part);
}

TEST(BadAreas, what_is_written_is_what_the_tools_read) {
  const Ranges bad{{0, 512}, {4096, 8192}, {kVolume - 1024, 1024}};
  EXPECT_EQ(render_mapfile(bad, kVolume, "By a test"),
            "# Mapfile. By a test\n"
            "# current_pos  current_status  current_pass\n"
            "0x00000000     +               1\n"
            "#      pos        size  status\n"
            "0x00000000  0x00000200  -\n"
            "0x00000200  0x00000E00  +\n"
            "0x00001000  0x00002000  -\n"
            "0x00003000  0x000FCC00  +\n"
            "0x000FFC00  0x00000400  -\n");
  EXPECT_EQ(render_badblocks({{0, 512}, {512, 512}, {4096, 2048}}, 1024),
            "0\n4\n5\n");
  EXPECT_EQ(render_badblocks({{1024, 512}, {1536, 512}}, 4096), "0\n");
  EXPECT_EQ(render_badblocks({}, 1024), "");
}

// The volume's size and the areas are random; what is written is read back.
TEST(BadAreas, what_is_written_is_read_back) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t sectors = 1 + random() % 100'000;
    Ranges bad;
    for (std::uint64_t at = random() % 50; at < sectors;) {
      const std::uint64_t n = std::min(1 + random() % 20, sectors - at);
      append_range(bad, {at * 512, n * 512});
      at += n + random() % 500;
    }
    const auto map =
        parse_mapfile(render_mapfile(bad, sectors * 512, "x"), sectors * 512);
    ASSERT_TRUE(map) << map.error().text();
    EXPECT_EQ(map->bad, bad);
    const auto list =
        parse_badblocks(render_badblocks(bad, 512), sectors * 512, 512);
    ASSERT_TRUE(list) << list.error().text();
    EXPECT_EQ(list->bad, bad);
  }
}

// Whatever is done to a file, it is read or refused in one line. Seeded.
TEST(BadAreas, rubbish_is_refused_in_one_line) {
  std::mt19937_64 random(3);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = kMapfile;
    for (std::uint64_t i = 1 + random() % 8; i != 0; --i)
      text[random() % text.size()] = static_cast<char>(random());
    if (random() % 4 == 0) text.resize(random() % text.size());
    for (const auto& areas :
         {parse_mapfile(text, kVolume), parse_badblocks(text, kVolume, 1024)}) {
      refused += !areas.ok();
      if (!areas) {
        EXPECT_EQ(areas.error().place.find('\n'), std::string::npos);
        EXPECT_FALSE(areas.error().place.empty());
      } else {
        for (const ByteRange& r : areas->bad)
          EXPECT_LE(r.offset + r.length, kVolume);
      }
    }
  }
  EXPECT_GT(refused, 3000);
}

}  // namespace
}  // namespace nbd_remap
