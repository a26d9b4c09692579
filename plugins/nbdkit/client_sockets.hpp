#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbdkit 1.32 does not end while a client is connected, be it idle, stuck in
// the handshake or not reading. So a stop shuts the clients' sockets itself.
//
// A client's socket is known by its local address, which is that of a socket
// that nbdkit listens on. Our own connections to remotes and the control socket
// have other local addresses. nbdkit -s listens on none: it was started with
// its client's, and has it twice, for standard input and standard output.

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

namespace nbd_remap {

// Noted at the start, since nbdkit closes them before the stop is over.
struct ListeningSockets {
  struct File {
    std::string path;
    dev_t dev;
    ino_t ino;
  };
  std::set<std::string> addresses;
  std::vector<File> files;  // not those of a service manager, which keeps them
  std::set<ino_t> standard_input;  // of nbdkit -s
};

// Those of this process. REQUIRES: nbdkit has bound its own, and there is no
// control socket and no connection to a remote yet.
ListeningSockets listening_sockets();

// Returns how many sockets were shut down.
int shutdown_client_sockets(const ListeningSockets& listening);

// Removes the files of Unix sockets, which nbdkit leaves behind and would then
// not start on again; not those that another server has replaced since.
void remove_socket_files(const ListeningSockets& listening);

}  // namespace nbd_remap
