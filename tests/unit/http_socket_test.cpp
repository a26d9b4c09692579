// SPDX-License-Identifier: BSD-3-Clause
// The server's socket: its file, its mode, who may connect, what it leaves.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <future>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/unit/wire_fixture.hpp"

namespace nbd_remap {
namespace {

class HttpSocketTest : public WireTest {};

TEST_F(HttpSocketTest, the_socket_has_mode_0660_whatever_the_umask) {
  const mode_t before = ::umask(0177);
  const auto server = start();
  ::umask(before);
  struct stat st {};
  ASSERT_EQ(::stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0660U);
}

TEST_F(HttpSocketTest, a_dead_servers_socket_is_replaced) {
  const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(
      ::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
      0);
  ASSERT_TRUE(fs::exists(path_));
  const auto server = start();
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
}

TEST_F(HttpSocketTest, a_living_servers_socket_is_left_alone) {
  const auto server = start();
  const auto second = try_start();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().errnum, EADDRINUSE);
  EXPECT_NE(second.error().place.find(path_), std::string::npos);
  EXPECT_NE(second.error().place.find("a running server answers"),
            std::string::npos);
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
}

// Mistake 23

TEST_F(HttpSocketTest, of_many_started_over_one_dead_socket_exactly_one_lives) {
  for (int round = 0; round < 20; ++round) {
    {
      const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::strncpy(address.sun_path, path_.c_str(),
                   sizeof address.sun_path - 1);
      ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address),
                       sizeof address),
                0);
    }
    std::vector<std::unique_ptr<HttpServer>> servers(4);
    std::vector<std::thread> threads;
    std::atomic<int> refused = 0;
    for (auto& server : servers)
      threads.emplace_back([&] {
        auto result = try_start();
        if (result)
          server = std::move(*result);
        else
          refused += result.error().errnum == EADDRINUSE;
      });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(refused, 3);
    EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
    servers.clear();
    ASSERT_FALSE(fs::exists(path_));
  }
}

// What the test above needs luck to show.
TEST_F(HttpSocketTest, a_start_waits_for_another_in_the_folder_but_not_long) {
  UniqueFd folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::flock(folder.get(), LOCK_EX), 0);
  auto patient = std::async(std::launch::async, [this] { return try_start(); });
  EXPECT_EQ(patient.wait_for(300ms), std::future_status::timeout);
  EXPECT_FALSE(fs::exists(path_));
  folder.reset();
  EXPECT_TRUE(patient.get());

  UniqueFd again(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::flock(again.get(), LOCK_EX), 0);
  const auto begin = steady_clock::now();
  const auto refused = try_start();
  EXPECT_LT(steady_clock::now() - begin, 8s);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().errnum, EWOULDBLOCK);
  EXPECT_NE(refused.error().place.find("lock folder " + folder_),
            std::string::npos);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(HttpSocketTest, a_file_that_is_no_socket_is_refused_and_kept) {
  std::ofstream(path_) << "precious";
  const auto server = try_start();
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().errnum, EEXIST);
  std::string content;
  std::ifstream(path_) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(HttpSocketTest, a_path_that_cannot_be_a_socket_is_refused_by_name) {
  const std::string longest =
      folder_ + "/" + std::string(107 - folder_.size() - 1, 'l');
  for (const auto& [path, errnum, word] :
       std::vector<std::tuple<std::string, int, std::string>>{
           {longest + "x", ENAMETOOLONG, "108 bytes, at most 107"},
           {"", EINVAL, "empty"},
           {std::string("/tmp/a\0b", 8), EINVAL, "zero byte"},
           {folder_ + "/none/control", ENOENT, folder_ + "/none/"}}) {
    path_ = path;
    const auto server = try_start();
    ASSERT_FALSE(server) << path;
    EXPECT_EQ(server.error().errnum, errnum) << server.error().text();
    EXPECT_NE(server.error().place.find(word), std::string::npos)
        << server.error().text();
    EXPECT_EQ(server.error().place.find('\n'), std::string::npos);
  }
  path_ = longest;
  EXPECT_EQ(start() != nullptr, true);
}

TEST_F(HttpSocketTest, a_path_can_be_checked_without_a_server) {
  EXPECT_TRUE(HttpServer::check(path_));
  EXPECT_FALSE(fs::exists(path_));
  const auto server = start();
  EXPECT_EQ(HttpServer::check(path_).error().errnum, EADDRINUSE);
  EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
}

TEST_F(HttpSocketTest, stop_leaves_a_socket_that_another_one_put_there) {
  auto server = start();
  fs::remove(path_);
  std::ofstream(path_) << "another's";
  server->stop();
  EXPECT_TRUE(fs::exists(path_));
}

// The child of a program with threads may make system calls only.

int status_for(const std::string& path, uid_t uid, gid_t gid,
               const std::vector<gid_t>& groups) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  const pid_t child = ::fork();
  if (child == 0) {
    char answer[64] = {};
    const char get[] = "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n";
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::syscall(SYS_setgroups, groups.size(), groups.data()) != 0 ||
        ::syscall(SYS_setresgid, gid, gid, gid) != 0 ||
        ::syscall(SYS_setresuid, uid, uid, uid) != 0 ||
        ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) !=
            0)
      ::_exit(1);
    if (::send(fd, get, sizeof get - 1, MSG_NOSIGNAL) < 0 && errno != EPIPE)
      ::_exit(2);
    if (::recv(fd, answer, 12, MSG_WAITALL) != 12) ::_exit(3);
    ::_exit((answer[9] - '0') * 10 + answer[11] - '0');  // 403: 43
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(HttpSocketTest,
       strangers_are_answered_403_and_the_sockets_group_is_heard) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become others";
  const auto server = start();
  ::chmod(folder_.c_str(), 0755);
  ::chmod(path_.c_str(), 0666);  // so that the kernel lets them connect
  ASSERT_EQ(::chown(path_.c_str(), 0, 4711), 0);
  EXPECT_EQ(status_for(path_, 1001, 1001, {}), 43);
  EXPECT_EQ(status_for(path_, 1001, 1001, {1002, 1003}), 43);
  EXPECT_EQ(status_for(path_, 1001, 4711, {}), 20);
  EXPECT_EQ(status_for(path_, 1001, 1001, {1002, 4711}), 20);
  std::vector<gid_t> many;
  for (gid_t gid = 5000; gid < 5200; ++gid) many.push_back(gid);
  EXPECT_EQ(status_for(path_, 1001, 1001, many), 43);
  many.push_back(4711);
  EXPECT_EQ(status_for(path_, 1001, 1001, many), 20);
  EXPECT_EQ(status_for(path_, 0, 0, {}), 20);
}

// Mistake 32

TEST_F(HttpSocketTest, fifty_cycles_leave_no_thread_descriptor_or_file) {
  const auto cycle = [this] {
    const auto server = start();
    const auto idle = connect();
    EXPECT_EQ(http_request(path_, "GET", "/echo")->status, 200);
  };
  cycle();
  const int descriptors = count_descriptors();
  const int threads = count_threads();
  for (int i = 0; i < 50; ++i) cycle();
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT_EQ(count_threads(), threads);
  EXPECT_EQ(count_entries(folder_), 0);
}

TEST_F(HttpSocketTest, descriptors_are_close_on_exec) {
  const auto server = start();
  const auto client = connect();
  send(client, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
  receive(client, "GET|");
  int sockets = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string what = fs::read_symlink(entry.path(), gone).string();
    if (what.rfind("socket:", 0) != 0 && what.rfind("anon_inode:", 0) != 0)
      continue;
    const int flags =
        ::fcntl(std::stoi(entry.path().filename().string()), F_GETFD);
    if (flags < 0) continue;
    ++sockets;
    EXPECT_NE(flags & FD_CLOEXEC, 0) << what;
  }
  EXPECT_GE(sockets, 4);  // listener, its copy, both ends
}

}  // namespace
}  // namespace nbd_remap
