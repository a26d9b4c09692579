// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/wire/unix_socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace nbd_remap {
namespace {

constexpr mode_t kMode = 0660;
constexpr int kLockTries = 200;
constexpr std::chrono::milliseconds kLockPause{10};

Error socket_error(int errnum, const std::string& path,
                   const std::string& what) {
  return make_error(errnum, fmt::format("socket {}: {}", path, what));
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t longest = sizeof address.sun_path - 1;
  if (path.empty() || path.find('\0') != std::string::npos)
    return make_error(ErrorClass::caller, EINVAL,
                      "socket: the path is empty or holds a zero byte");
  if (path.size() > longest)
    return make_error(
        ErrorClass::caller, ENAMETOOLONG,
        fmt::format("socket {}: the path has {} bytes, at most {} are possible",
                    path, path.size(), longest));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int connect_to(int fd, const sockaddr_un& address) {
  // Linux does not answer a Unix connect with EINPROGRESS.
  int rc = 0;
  do {
    rc = ::connect(fd, reinterpret_cast<const sockaddr*>(&address),
                   sizeof address);
  } while (rc != 0 && errno == EINTR);
  return rc == 0 ? 0 : errno;
}

Result<UniqueFd> lock_folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos
                                 ? std::string(1, '.')
                                 : path.substr(0, slash + 1);
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd)
    return make_error(ErrorClass::caller, errno,
                      fmt::format("socket {}: open folder {}: {}", path, folder,
                                  std::generic_category().message(errno)));
  for (int i = 0; i < kLockTries; ++i) {
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
    if (errno != EWOULDBLOCK && errno != EINTR) break;
    std::this_thread::sleep_for(kLockPause);
  }
  return socket_error(errno, path, fmt::format("lock folder {}", folder));
}

// Removes what a dead server left; an error if the place is not free then.
Status make_room(const std::string& path, const sockaddr_un& address) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    if (errno == ENOENT) return {};
    return socket_error(errno, path, "look for an older socket");
  }
  // Connecting to a regular file is refused too: that is no left-over.
  if (!S_ISSOCK(st.st_mode))
    return make_error(
        ErrorClass::caller, EEXIST,
        fmt::format("socket {}: there is something else of that name", path));
  const UniqueFd probe(
      ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return socket_error(errno, path, "make a socket");
  const int errnum = connect_to(probe.get(), address);
  if (errnum == 0 || errnum == EAGAIN)
    return make_error(
        ErrorClass::caller, EADDRINUSE,
        fmt::format("socket {}: a running server answers on it", path));
  if (errnum != ECONNREFUSED && errnum != ENOENT)
    return socket_error(errnum, path, "see whether a server answers on it");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return socket_error(errno, path, "remove the socket of a dead server");
  return {};
}

std::optional<std::vector<gid_t>> groups_of_peer(int fd) {
  std::vector<gid_t> groups(64);
  for (;;) {
    auto bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) ==
        0) {
      groups.resize(bytes / sizeof(gid_t));
      return groups;
    }
    // The kernel said how much it needs. A process has at most 65536 groups.
    if (errno != ERANGE || bytes / sizeof(gid_t) <= groups.size())
      return std::nullopt;
    groups.resize(bytes / sizeof(gid_t));
  }
}

}  // namespace

UnixListener::UnixListener(UniqueFd fd, std::string path, dev_t dev, ino_t ino,
                           gid_t gid)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      dev_(dev),
      ino_(ino),
      gid_(gid) {}

Result<UnixListener> UnixListener::open(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return address.error();
  const auto lock = lock_folder_of(path);
  if (!lock) return lock.error();
  if (auto room = make_room(path, *address); !room) return room.error();

  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return socket_error(errno, path, "make a socket");
  // bind() takes the file's mode from here and only lessens it by the umask,
  // which belongs to the whole process and is left alone. chmod() gives back
  // what the umask took. Nobody can connect before listen().
  if (::fchmod(fd.get(), kMode) != 0)
    return socket_error(errno, path, "set the mode");
  // From here on nothing may be thrown that would leave the file behind.
  std::string own_path = path;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address),
             sizeof *address) != 0)
    return socket_error(errno, path, "bind");
  struct stat st {};
  int errnum = 0;
  if (::chmod(path.c_str(), kMode) != 0 || ::lstat(path.c_str(), &st) != 0 ||
      ::listen(fd.get(), SOMAXCONN) != 0)
    errnum = errno;
  if (errnum != 0) {
    ::unlink(path.c_str());
    return socket_error(errnum, path, "set the mode and listen");
  }
  return UnixListener(std::move(fd), std::move(own_path), st.st_dev, st.st_ino,
                      st.st_gid);
}

UnixListener::~UnixListener() {
  if (!fd_) return;
  struct stat st {};
  if (::lstat(path_.c_str(), &st) == 0 && st.st_dev == dev_ &&
      st.st_ino == ino_)
    ::unlink(path_.c_str());
}

bool UnixListener::admits(int peer_fd) const {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(peer_fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return false;
  if (peer.uid == 0 || peer.uid == ::geteuid()) return true;
  gid_t group = gid_;
  struct stat st {};
  if (::lstat(path_.c_str(), &st) == 0 && st.st_dev == dev_ &&
      st.st_ino == ino_)
    group = st.st_gid;
  if (peer.gid == group) return true;
  const auto groups = groups_of_peer(peer_fd);
  return groups &&
         std::find(groups->begin(), groups->end(), group) != groups->end();
}

Result<UniqueFd> connect_unix(const std::string& path,
                              std::chrono::milliseconds timeout) {
  const auto address = address_of(path);
  if (!address) return address.error();
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return socket_error(errno, path, "make a socket");
  timeval tv{};
  tv.tv_sec = timeout.count() / 1000;
  tv.tv_usec = timeout.count() % 1000 * 1000;
  if (tv.tv_sec == 0 && tv.tv_usec == 0) tv.tv_usec = 1;  // 0 is for ever
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) != 0)
    return socket_error(errno, path, "set a time limit");
  if (const int errnum = connect_to(fd.get(), *address); errnum != 0)
    return socket_error(errnum, path, "connect");
  return fd;
}

}  // namespace nbd_remap
