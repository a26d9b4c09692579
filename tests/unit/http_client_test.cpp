// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/http_client.hpp"

#include <poll.h>

#include <future>

#include "tests/unit/wire_fixture.hpp"

namespace nbd_remap {
namespace {

class HttpClientTest : public WireTest {};

TEST_F(HttpClientTest,
       a_client_of_a_server_that_never_answers_gives_up_in_time) {
  const auto mute = UnixListener::open(path_);
  ASSERT_TRUE(mute);
  const auto begin = steady_clock::now();
  const auto response = http_request(path_, "GET", "/x", "", {250ms, 100});
  const auto took = steady_clock::now() - begin;
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().errnum, ETIMEDOUT);
  EXPECT_EQ(response.error().error_class, ErrorClass::transport);
  EXPECT_NE(response.error().place.find("within 250 ms"), std::string::npos);
  EXPECT_GE(took, 240ms);
  EXPECT_LT(took, 2s);
  // One that does not read either.
  EXPECT_EQ(http_request(path_, "POST", "/x", std::string(8'000'000, 'x'),
                         {250ms, 100})
                .error()
                .errnum,
            ETIMEDOUT);
}

TEST_F(HttpClientTest, a_client_says_why_no_answer_came) {
  const auto none = http_request(path_, "GET", "/x");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().errnum, ENOENT);
  EXPECT_EQ(none.error().error_class, ErrorClass::transport);
  EXPECT_NE(none.error().place.find(path_), std::string::npos);

  const auto server = start({}, [](const HttpRequest&) {
    return HttpResponse{200, std::string(1001, 'x'), "text/plain"};
  });
  EXPECT_EQ(http_request(path_, "GET", "/x", "", {5s, 1000}).error().errnum,
            EMSGSIZE);
  EXPECT_EQ(http_request(path_, "GET", "/x", "", {5s, 1001})->body.size(),
            1001U);
  for (const std::string target : {"", "x", "/a b", "/a\r\nX: y", "/\xff"})
    EXPECT_EQ(http_request(path_, "GET", target).error().error_class,
              ErrorClass::caller)
        << target;
  EXPECT_EQ(http_request(path_, "GE T", "/").error().error_class,
            ErrorClass::caller);
}

TEST_F(HttpClientTest, a_client_refuses_an_answer_that_is_cut_or_is_not_http) {
  for (const std::string answer :
       {"", "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nConte"}) {
    auto listener = UnixListener::open(path_);
    ASSERT_TRUE(listener);
    auto asked = std::async(std::launch::async, [this] {
      return http_request(path_, "GET", "/x", "", {3s, 1000});
    });
    pollfd p{listener->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&p, 1, 5000), 1);
    {
      const UniqueFd peer(::accept(listener->fd(), nullptr, nullptr));
      receive(peer, "\r\n\r\n");
      send(peer, answer);
    }
    const auto response = asked.get();
    ASSERT_FALSE(response) << answer;
    EXPECT_EQ(response.error().error_class, ErrorClass::transport);
    EXPECT_EQ(response.error().errnum, EPROTO) << response.error().text();
  }
}

}  // namespace
}  // namespace nbd_remap
