// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/tool_text.hpp"

#include <gtest/gtest.h>

namespace nbd_remap {
namespace {

// Mistake 35
TEST(ToolText, what_a_terminal_acts_on_is_escaped_and_the_rest_is_kept) {
  using namespace std::string_literals;
  struct Case {
    std::string in;
    std::string out;
  };
  for (const Case& c : {
           Case{"/dev/sdb", "/dev/sdb"},
           Case{"a b \"$(x)\" 'y'", "a b \"$(x)\" 'y'"},
           Case{"two\nlines\tand\r", "two\\nlines\\tand\\x0d"},
           Case{"\x1b[2J", "\\x1b[2J"},
           Case{"\0z\x7f"s, "\\x00z\\x7f"},
           Case{"back\\slash", "back\\\\slash"},
           Case{"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
                "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
           Case{"\xc2\x9b"
                "2J",
                "\\u{9b}2J"},  // C1: CSI
           Case{"\xe2\x80\xae"
                "gpj",
                "\\u{202e}gpj"},  // right to left
           Case{"\xff\xfe", "\\xff\\xfe"},
           Case{"\xc0\x8a", "\\xc0\\x8a"},  // overlong \n
           Case{"\xe0\x80\x8a", "\\xe0\\x80\\x8a"},
           Case{"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // surrogate
           Case{"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
           Case{"cut \xe2\x82", "cut \\xe2\\x82"},
           Case{"", ""},
       })
    EXPECT_EQ(printable(c.in), c.out);
}

TEST(ToolText, sizes_are_cut_to_a_tenth_and_exact_in_brackets) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(1), "1 byte");
  EXPECT_EQ(human_bytes(1023), "1023 bytes");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB (1024 bytes)");
  EXPECT_EQ(human_bytes(1610612736), "1.5 GiB (1610612736 bytes)");
  EXPECT_EQ(human_bytes((1U << 20) - 1), "1023.9 KiB (1048575 bytes)");
  EXPECT_EQ(human_bytes(~std::uint64_t{0}),
            "15.9 EiB (18446744073709551615 bytes)");
}

TEST(ToolText, a_number_of_bytes_is_taken_whole_or_not_at_all) {
  EXPECT_EQ(parse_bytes("0"), 0U);
  EXPECT_EQ(parse_bytes("4096"), 4096U);
  EXPECT_EQ(parse_bytes("4K"), 4096U);
  EXPECT_EQ(parse_bytes("3M"), 3U << 20);
  EXPECT_EQ(parse_bytes("18446744073709551615"), ~std::uint64_t{0});
  for (const char* bad :
       {"", "K", "-1", "+1", " 1", "1 ", "1k", "1.5M", "0x10", "4KK",
        "18446744073709551616", "18446744073709551615K", "16777216T"})
    EXPECT_EQ(parse_bytes(bad), std::nullopt) << bad;
}

TEST(ToolText, parts_are_percent_and_a_little_is_not_nothing) {
  EXPECT_EQ(percent_of(0, 10), "0 %");
  EXPECT_EQ(percent_of(1, 1'000'000), "under 0.01 %");
  EXPECT_EQ(percent_of(1, 3), "33.33 %");
  EXPECT_EQ(percent_of(5, 5), "100.00 %");
  EXPECT_EQ(percent_of(1, 0), "0 %");
}

TEST(ToolText, an_errno_decides_the_exit_status) {
  const auto of = [](int errnum) {
    return exit_status(make_error(errnum, "x"));
  };
  EXPECT_EQ(of(EDESTADDRREQ), ExitStatus::usage);
  for (int e : {ENOENT, ENODEV, ENXIO, ENODATA, ECONNREFUSED})
    EXPECT_EQ(of(e), ExitStatus::not_found) << e;
  for (int e : {EBUSY, EEXIST}) EXPECT_EQ(of(e), ExitStatus::conflict) << e;
  for (int e : {EIO, EINVAL, ENOSPC, EACCES, EISDIR, ETIMEDOUT, EPROTO})
    EXPECT_EQ(of(e), ExitStatus::failed) << e;
}

}  // namespace
}  // namespace nbd_remap
