// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/http_server.hpp"

#include <sys/socket.h>

#include <future>
#include <thread>
#include <vector>

#include "tests/unit/wire_fixture.hpp"

namespace nbd_remap {
namespace {

class HttpServerTest : public WireTest {};

TEST_F(HttpServerTest,
       a_request_reaches_the_handler_and_its_answer_the_client) {
  const auto server = start();
  const auto response =
      http_request(path_, "POST", "/echo?b=2&a=%31+x", "{\"body\":1}");
  ASSERT_TRUE(response) << response.error().text();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "POST|{\"body\":1}|a=1+x|b=2");
  EXPECT_EQ(response->content_type, "application/json");
}

TEST_F(HttpServerTest, the_handlers_404_passes_through_as_a_problem) {
  const auto server = start();
  const auto response = http_request(path_, "GET", "/nothing%22here");
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 404);
  EXPECT_EQ(response->content_type, "application/problem+json");
  EXPECT_EQ(response->body,
            R"({"type":"about:blank","title":"Not Found","status":404,)"
            R"("detail":"/nothing\"here"})");
}

TEST_F(HttpServerTest, a_handler_that_throws_answers_500_and_the_server_lives) {
  const auto server = start();
  const auto response = http_request(path_, "GET", "/throw");
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 500);
  EXPECT_NE(response->body.find("went"), std::string::npos) << response->body;
  EXPECT_NE(log().find("/throw: handler"), std::string::npos) << log();
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
}

TEST_F(HttpServerTest, one_connection_carries_two_requests_also_pipelined) {
  const auto server = start();
  const auto fd = connect();
  const std::string get = "GET /echo?n=1 HTTP/1.1\r\nHost: x\r\n\r\n";
  send(fd, get);
  EXPECT_NE(receive(fd, "GET||n=1").find("200 OK"), std::string::npos);
  send(fd,
       "GET /echo?n=2 HTTP/1.1\r\nHost: x\r\n\r\n"
       "GET /echo?n=3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string rest = receive(fd);
  EXPECT_NE(rest.find("n=2"), std::string::npos) << rest;
  EXPECT_NE(rest.find("n=3"), std::string::npos) << rest;
  EXPECT_EQ(rest.find("still open"), std::string::npos) << rest;
}

TEST_F(HttpServerTest, head_has_the_length_but_not_the_body) {
  const auto server = start();
  const auto fd = connect();
  send(fd, "HEAD /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = receive(fd);
  EXPECT_NE(answer.find("Content-Length: 5"), std::string::npos) << answer;
  EXPECT_EQ(answer.find("HEAD|"), std::string::npos) << answer;
}

TEST_F(HttpServerTest, a_body_at_the_limit_passes_and_one_byte_more_is_413) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  const auto server = start(options);
  const auto fits =
      http_request(path_, "POST", "/echo", std::string(1000, 'x'));
  ASSERT_TRUE(fits);
  EXPECT_EQ(fits->status, 200);
  EXPECT_EQ(fits->body.size(), 1005U);
  for (const std::size_t size : {1001U, 50'000'000U}) {
    const auto response =
        http_request(path_, "POST", "/echo", std::string(size, 'x'));
    ASSERT_TRUE(response) << response.error().text();
    EXPECT_EQ(response->status, 413) << size;
  }
  // The same in chunks, which announce no length.
  const auto fd = connect();
  send(fd,
       "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
       "3e8\r\n" +
           std::string(1000, 'x') + "\r\n1\r\nx\r\n0\r\n\r\n");
  EXPECT_NE(receive(fd, "413").find("HTTP/1.1 413"), std::string::npos);
}

TEST_F(HttpServerTest, a_header_beyond_the_limit_is_431) {
  HttpServerOptions options;
  options.max_header_bytes = 1024;
  const auto server = start(options);
  for (const std::string& request :
       {"GET /echo HTTP/1.1\r\nHost: x\r\nA: " + std::string(2000, 'a') +
            "\r\n\r\n",
        "GET /" + std::string(2000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n",
        // Never ends.
        "GET /echo HTTP/1.1\r\nA: " + std::string(5000, 'a')}) {
    const auto fd = connect();
    send(fd, request);
    EXPECT_NE(receive(fd, "431").find("HTTP/1.1 431"), std::string::npos)
        << request.substr(0, 60);
  }
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
}

TEST_F(HttpServerTest, rubbish_is_answered_400_and_the_connection_closed) {
  const auto server = start();
  for (const std::string request :
       {"\r\n\r\n\r\nx\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\x01\x01\xfc\x03\x03 tls\r\n\r\n",
        "GET /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "GET /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "GET /a%zz HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET nothing HTTP/1.1\r\nConnection: close\r\n\r\n"}) {
    const auto fd = connect();
    send(fd, request);
    ::shutdown(fd.get(), SHUT_WR);
    const std::string answer = receive(fd);
    EXPECT_NE(answer.find("HTTP/1.1 400"), std::string::npos)
        << request << "\n-> " << answer;
    EXPECT_EQ(answer.find("still open"), std::string::npos) << request;
  }
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
}

TEST_F(HttpServerTest, a_slow_client_delays_nobody_and_is_dropped) {
  HttpServerOptions options;
  options.io_timeout = 700ms;
  const auto server = start(options);
  const auto begin = steady_clock::now();
  const auto slow = connect();
  send(slow, "G");
  const auto unread = connect();  // asks and never reads
  send(unread, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
  EXPECT_LT(steady_clock::now() - begin, 600ms);
  EXPECT_EQ(receive(slow), "");  // closed, not answered
  EXPECT_GE(steady_clock::now() - begin, 600ms);
}

TEST_F(HttpServerTest, a_thousand_connections_one_after_the_other_are_served) {
  const auto server = start();
  int served = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto response = http_request(path_, "GET", "/echo");
    served += response && response->status == 200;
  }
  EXPECT_EQ(served, 1000);
}

TEST_F(HttpServerTest, a_connection_beyond_the_cap_is_closed_at_once) {
  HttpServerOptions options;
  options.max_connections = 3;
  const auto server = start(options);
  std::vector<UniqueFd> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(connect());
    send(held.back(), "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_NE(receive(held.back(), "GET|").find("200"), std::string::npos);
  }
  const auto begin = steady_clock::now();
  EXPECT_EQ(receive(connect()), "");
  EXPECT_LT(steady_clock::now() - begin, 1s);
  held.pop_back();
  // The server learns of it in its own time.
  const auto deadline = steady_clock::now() + 5s;
  bool again = false;
  while (!again && steady_clock::now() < deadline)
    again = http_request(path_, "GET", "/echo").ok();
  EXPECT_TRUE(again);
}

TEST_F(HttpServerTest, stop_waits_for_no_client) {
  auto server = start();
  std::vector<UniqueFd> hung;
  for (int i = 0; i < 10; ++i) {
    hung.push_back(connect());
    if (i % 2 == 0) send(hung.back(), "POST /echo HTTP/1.1\r\nConte");
  }
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
  const auto begin = steady_clock::now();
  std::vector<std::thread> stoppers;  // at once and more than once
  for (int i = 0; i < 3; ++i)
    stoppers.emplace_back([&server] { server->stop(); });
  for (auto& stopper : stoppers) stopper.join();
  server->stop();
  EXPECT_LT(steady_clock::now() - begin, 1s);
  EXPECT_FALSE(fs::exists(path_));
  for (const auto& fd : hung) EXPECT_EQ(receive(fd, "", 2s), "");
  EXPECT_EQ(count_entries(folder_), 0);
}

// A thread that begins when the server's has ended is given its id, and must
// not be taken for it: the connections are gone (seen by the sanitizers).
TEST_F(HttpServerTest, a_later_thread_with_the_servers_id_may_stop_it_again) {
  std::thread::id servers;
  auto server = start({}, [&](const HttpRequest&) {
    servers = std::this_thread::get_id();
    return HttpResponse{};
  });
  EXPECT_TRUE(http_request(path_, "GET", "/").ok());
  server->stop();
  bool given_again = false;
  for (int i = 0; i < 1000 && !given_again; ++i)
    std::thread([&] {
      given_again = std::this_thread::get_id() == servers;
      server->stop();
    }).join();
  EXPECT_TRUE(given_again);
}

TEST_F(HttpServerTest, the_handler_may_ask_for_the_stop) {
  std::unique_ptr<HttpServer> server;
  std::promise<void> stopped;
  server = start({}, [&](const HttpRequest&) {
    server->stop();
    stopped.set_value();
    return HttpResponse{};
  });
  // Whether the answer still gets out is open.
  static_cast<void>(http_request(path_, "POST", "/stop", "", {300ms, 100}));
  ASSERT_EQ(stopped.get_future().wait_for(5s), std::future_status::ready);
  server->stop();
  EXPECT_FALSE(fs::exists(path_));
}

}  // namespace
}  // namespace nbd_remap
