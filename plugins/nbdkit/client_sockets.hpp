#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbdkit 1.32 does not end while a client is connected, be it idle, stuck in
// the handshake or not reading. So a stop shuts the clients' sockets itself.
//
// A client's socket is known by its local address, which is that of a
// listening socket of this process (or it is standard input of nbdkit -s).
// Our own connections to remotes have other local addresses; the control
// socket is left alone.

#include <string>

namespace nbd_remap {

// Returns how many sockets were shut down.
int shutdown_client_sockets(const std::string& control_path);

// Removes the files of the Unix sockets that nbdkit listens on, which it leaves
// behind and would then not start on again. Not those of a service manager
// (socket activation), which keeps and reuses them.
void remove_listening_socket_files(const std::string& control_path);

}  // namespace nbd_remap
