#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Unix sockets as the control API wants them: mode 0660 before anybody can
// connect, left-overs of a dead server replaced, a living one respected.
//
// Errors  The place is one line that names the socket and what is wrong.
// Threads Any; a UnixListener: one at a time.

#include <sys/types.h>

#include <chrono>
#include <string>

#include "plugins/base/result.hpp"
#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {

// A listening, non-blocking socket and its file, which is removed when this
// goes, unless somebody has put another one there.
class UnixListener {
 public:
  // Waits at most 2 s for another process that is just doing the same in this
  // folder (the folder is locked with flock: two servers that both find a dead
  // socket must not remove each other's new one).
  static Result<UnixListener> open(const std::string& path);
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  int fd() const { return fd_.get(); }
  // Root, this process's own user, or a member of the socket's group, which an
  // operator may change while the server runs. By SO_PEERCRED and
  // SO_PEERGROUPS: what the kernel noted when the peer connected.
  bool admits(int peer_fd) const;

 private:
  UnixListener(UniqueFd fd, std::string path, dev_t dev, ino_t ino, gid_t gid);

  UniqueFd fd_;
  std::string path_;
  dev_t dev_;
  ino_t ino_;
  gid_t gid_;
};

// A connected, blocking socket. Waits for a place in the server's queue no
// longer than the timeout (EAGAIN).
Result<UniqueFd> connect_unix(const std::string& path,
                              std::chrono::milliseconds timeout);

}  // namespace nbd_remap
