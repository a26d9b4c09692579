// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/target.hpp"

#include <gtest/gtest.h>

#include <string>

#include "plugins/wire/http_client.hpp"

namespace nbd_remap {
namespace {

using Query = std::map<std::string, std::string>;

TEST(HttpTarget, path_and_query_are_decoded) {
  struct Case {
    std::string text;
    std::string path;
    Query query;
  };
  for (const Case& c : {
           Case{"/", "/", {}},
           Case{"/v1/health", "/v1/health", {}},
           Case{"/a%20b%2f%C3%A9", "/a b/\xC3\xA9", {}},
           Case{"/m?cells=4&x=%26%3d", "/m", {{"cells", "4"}, {"x", "&="}}},
           Case{"/m?ranges=100+5", "/m", {{"ranges", "100+5"}}},
           Case{"/m?flag&&e=", "/m", {{"flag", ""}, {"e", ""}}},
           Case{"/m?", "/m", {}},
           Case{"/m?a=b=c?d", "/m", {{"a", "b=c?d"}}},
       }) {
    const auto target = parse_target(c.text);
    ASSERT_TRUE(target) << c.text;
    EXPECT_EQ(target->path, c.path);
    EXPECT_EQ(target->query, c.query) << c.text;
  }
}

// Mistake 35
TEST(HttpTarget, what_two_readers_could_read_differently_is_refused) {
  for (const std::string text :
       {"", "v1", "*", "http://localhost/v1", "/%", "/%4", "/%zz", "/a%00b",
        "/m?a=%0", "/m?%g1=1", "/m?a=1&a=2", "/m?a=1&%61=2"})
    EXPECT_FALSE(parse_target(text)) << text;
}

TEST(HttpTarget, every_byte_but_zero_survives_encoding_and_decoding) {
  std::string all;
  for (int c = 1; c < 256; ++c) all += static_cast<char>(c);
  const auto target = parse_target("/x?v=" + percent_encode(all));
  ASSERT_TRUE(target);
  EXPECT_EQ(target->query.at("v"), all);
  EXPECT_EQ(percent_encode("a-Z0._~ +/"), "a-Z0._~%20%2B%2F");
}

}  // namespace
}  // namespace nbd_remap
