// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_client.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "plugins/wire/http_server.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

class CtlClientTest : public testing::Test {
 protected:
  CtlClientTest() {
    std::string name = std::filesystem::temp_directory_path() / "ctl-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    socket_ = folder_ + "/control";
  }
  ~CtlClientTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void serve(std::function<json(const HttpRequest&)> answer) {
    auto server = HttpServer::start(
        socket_,
        [this, answer = std::move(answer)](const HttpRequest& request) {
          ++asked_;
          return HttpResponse{200, answer(request).dump()};
        },
        [](LogLevel, std::string_view) {});
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
  }

  ControlClient client() const {
    return {socket_, std::chrono::milliseconds(5000)};
  }

  std::string folder_;
  std::string socket_;
  std::atomic<int> asked_{0};
  std::unique_ptr<HttpServer> server_;
};

json remaps(std::uint64_t from, std::uint64_t limit, std::uint64_t blocks) {
  json entries = json::array();
  for (std::uint64_t b = from; b < blocks && entries.size() < limit; ++b)
    entries.push_back({{"block", b}});
  const std::uint64_t next = from + entries.size();
  return {{"schema", 1},
          {"block_size", 4096},
          {"entries", entries},
          {"next", next < blocks ? json(next) : json(nullptr)}};
}

json serve_map(const HttpRequest& request, std::uint64_t blocks) {
  if (request.path == "/v1/volumes/disk")
    return {{"schema", 1}, {"block_size", 4096}};
  EXPECT_EQ(request.path, "/v1/volumes/disk/remaps");
  return remaps(std::stoull(request.query.at("from")),
                std::stoull(request.query.at("limit")), blocks);
}

TEST_F(CtlClientTest, a_map_of_many_pages_is_one_answer) {
  serve([](const HttpRequest& r) { return serve_map(r, 2500); });
  const auto map = client().map("disk", 0, 10'000);
  ASSERT_TRUE(map) << map.error().text();
  EXPECT_EQ(asked_, 3);
  ASSERT_EQ(map->at("entries").size(), 2500U);
  for (std::size_t i = 0; i < 2500; ++i)
    EXPECT_EQ(map->at("entries")[i]["block"], i);
  EXPECT_TRUE(map->at("next").is_null());
}

TEST_F(CtlClientTest, a_limit_and_a_first_byte_are_kept) {
  serve([](const HttpRequest& r) { return serve_map(r, 2500); });
  const auto map = client().map("disk", 3 * 4096 + 4095, 1200);
  ASSERT_TRUE(map) << map.error().text();
  ASSERT_EQ(map->at("entries").size(), 1200U);
  EXPECT_EQ(map->at("entries").front()["block"], 3U);
  EXPECT_EQ(map->at("next"), 1203U);
}

TEST_F(CtlClientTest, a_server_that_does_not_get_on_is_left) {
  serve([](const HttpRequest&) {
    json page = remaps(0, 1, 10);
    page["next"] = 0;
    return page;
  });
  const auto map = client().map("disk", 0, 100);
  ASSERT_FALSE(map);
  EXPECT_NE(map.error().place.find("get on"), std::string::npos);
  EXPECT_LE(asked_, 2);
}

TEST_F(CtlClientTest, a_server_that_sends_more_than_was_asked_for_is_left) {
  serve([](const HttpRequest&) { return remaps(0, 50, 50); });
  EXPECT_FALSE(client().map("disk", 0, 49));
  EXPECT_TRUE(client().map("disk", 0, 50));
}

TEST_F(CtlClientTest, rubbish_instead_of_pages_is_an_error) {
  json page;
  serve([&](const HttpRequest&) { return page; });
  for (const json& bad :
       {json{{"schema", 1}}, json{{"schema", 1}, {"entries", 7}},
        json{{"schema", 1}, {"block_size", 0}},
        json{{"schema", 1}, {"block_size", -4096}}}) {
    page = bad;
    EXPECT_FALSE(client().map("disk", 8192, 10)) << bad;
    EXPECT_FALSE(client().map("disk", 0, 10)) << bad;
  }
}

TEST_F(CtlClientTest, a_name_may_be_left_out_if_there_is_one_volume) {
  json names = json::array({{{"name", "a b"}}});
  serve([&](const HttpRequest&) {
    return json{{"schema", 1}, {"volumes", names}};
  });
  EXPECT_EQ(*client().volume_name(""), "a b");
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(*client().volume_name("given"), "given");
  EXPECT_EQ(asked_, 1);
  names.push_back({{"name", "c"}});
  const auto several = client().volume_name("");
  ASSERT_FALSE(several);
  EXPECT_EQ(several.error().errnum, EDESTADDRREQ);
  EXPECT_NE(several.error().place.find("a b, c"), std::string::npos);
  names = json::array();
  EXPECT_EQ(client().volume_name("").error().errnum, ENOENT);
  names = json::array({7});
  EXPECT_EQ(client().volume_name("").error().errnum, EPROTO);
}

// Mistake 35
TEST_F(CtlClientTest, a_strange_name_reaches_the_server_as_it_is) {
  std::string path;
  serve([&](const HttpRequest& r) {
    path = r.path;
    return json{{"schema", 1}};
  });
  const std::string name = "a b/../$(x)?y=1#\n\"";
  ASSERT_TRUE(client().volume(name));
  EXPECT_EQ(path, "/v1/volumes/" + name);
}

}  // namespace
}  // namespace nbd_remap
