// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/client_sockets.hpp"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nbd_remap {
namespace {

// What a listening socket and the connections accepted on it have in common.
std::optional<std::string> local_address(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0)
    return std::nullopt;
  switch (address.ss_family) {
    case AF_UNIX: {
      const auto path_length = length - offsetof(sockaddr_un, sun_path);
      if (length <= offsetof(sockaddr_un, sun_path)) return std::nullopt;
      const char* path = reinterpret_cast<sockaddr_un*>(&address)->sun_path;
      // An abstract name begins with a zero byte.
      return "unix " + (path[0] == '\0'
                            ? std::string(path, path_length)
                            : std::string(path, ::strnlen(path, path_length)));
    }
    case AF_INET:
      return "port " + std::to_string(ntohs(
                           reinterpret_cast<sockaddr_in*>(&address)->sin_port));
    case AF_INET6:
      return "port " +
             std::to_string(
                 ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port));
    default:
      // vsock: family and raw address; port is part of it.
      return "raw " + std::string(reinterpret_cast<char*>(&address), length);
  }
}

bool is_listening(int fd) {
  int on = 0;
  socklen_t length = sizeof on;
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &length) == 0 && on;
}

std::vector<int> open_sockets() {
  std::vector<int> sockets;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir("/proc/self/fd"),
                                                &::closedir);
  if (!dir) return sockets;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): a DIR of our own
  while (const dirent* entry = ::readdir(dir.get())) {
    int fd = -1;
    const char* name = entry->d_name;
    std::from_chars(name, name + std::strlen(name), fd);
    int type = 0;
    socklen_t length = sizeof type;
    if (fd >= 0 && ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0)
      sockets.push_back(fd);
  }
  return sockets;
}

ino_t inode_of(int fd) {
  struct stat st {};
  return ::fstat(fd, &st) == 0 ? st.st_ino : 0;
}

bool by_service_manager() {
  // nbdkit takes LISTEN_FDS out of the environment; here it is as it was.
  std::ifstream environment("/proc/self/environ");
  for (std::string word; std::getline(environment, word, '\0');)
    if (word.starts_with("LISTEN_FDS=")) return true;
  return false;
}

}  // namespace

ListeningSockets listening_sockets() {
  ListeningSockets out;
  const bool keep_files = by_service_manager();
  for (int fd : open_sockets()) {
    if (!is_listening(fd)) continue;
    const auto address = local_address(fd);
    if (!address) continue;
    out.addresses.insert(*address);
    if (keep_files || !address->starts_with("unix /")) continue;
    const std::string path = address->substr(5);
    struct stat st {};
    if (::lstat(path.c_str(), &st) == 0)
      out.files.push_back({path, st.st_dev, st.st_ino});
  }
  if (!out.addresses.empty()) return out;
  // Any other socket that was left open for us is not ours to shut.
  std::set<ino_t> once;
  for (int fd : open_sockets())
    if (fd > STDERR_FILENO && !once.insert(inode_of(fd)).second)
      out.standard_input.insert(inode_of(fd));
  return out;
}

int shutdown_client_sockets(const ListeningSockets& listening) {
  int count = 0;
  for (int fd : open_sockets()) {
    if (is_listening(fd)) continue;
    const auto address = local_address(fd);
    const bool client = listening.standard_input.count(inode_of(fd)) != 0 ||
                        (address && listening.addresses.count(*address) != 0);
    if (client && ::shutdown(fd, SHUT_RDWR) == 0) ++count;
  }
  return count;
}

void remove_socket_files(const ListeningSockets& listening) {
  for (const ListeningSockets::File& file : listening.files) {
    struct stat st {};
    if (::lstat(file.path.c_str(), &st) == 0 && st.st_dev == file.dev &&
        st.st_ino == file.ino)
      ::unlink(file.path.c_str());
  }
}

}  // namespace nbd_remap
