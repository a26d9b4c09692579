#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What an NbdConnection needs of libnbd besides requests: a handle that is
// connected in bounded time, what its server offers, one turn of its state
// machine, and its errors as one clean line.
//
// Threads  a handle: one at a time. Errors belong to the thread that got them.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "plugins/base/result.hpp"

struct nbd_handle;

namespace nbd_remap {

struct CloseNbdHandle {
  void operator()(nbd_handle* handle) const;
};
using NbdHandle = std::unique_ptr<nbd_handle, CloseNbdHandle>;

// What the server offers; sizes as it said them, 0 if it said none.
struct NbdExport {
  std::uint64_t size_bytes = 0;
  std::uint64_t minimum_block = 0;
  std::uint64_t preferred_block = 0;
  std::uint64_t maximum_payload = 0;
  bool read_only = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_zero = false;
  bool can_fast_zero = false;
  bool can_trim = false;
  bool can_cache = false;
  bool can_multi_conn = false;
  bool has_extents = false;
  friend bool operator==(const NbdExport&, const NbdExport&) = default;
};

// How long connecting may take, with the handshake and besides the resolver's
// own time-outs of looking up a host name.
struct NbdPatience {
  std::chrono::steady_clock::time_point until;
  // Ended early (ECANCELED) when *cancelled is true; wake_fd (an eventfd, or
  // -1) becomes readable then.
  int wake_fd = -1;
  const std::atomic<bool>* cancelled = nullptr;
};

// Connects and negotiates. `name` stands for the URI in errors: class caller
// for a URI that is refused (check_nbd_uri, libnbd) or TLS files that cannot be
// read, transport for anything else.
Result<NbdHandle> connect_nbd_handle(const std::string& uri,
                                     const std::string& name,
                                     const NbdPatience& patience);

// REQUIRES: connected.
NbdExport ask_nbd_export(nbd_handle* handle);

// Waits for the handle's socket, or for wake_fd if it is not negative, and
// tells libnbd. False when libnbd reported an error.
bool pump_nbd(nbd_handle* handle, int wake_fd, int timeout_ms);
// What poll(2) shall look for, and what libnbd is told of what poll(2) saw.
short nbd_poll_events(nbd_handle* handle);
bool tell_nbd(nbd_handle* handle, short socket_events);

// Dead or closed: it will never touch a buffer again.
bool nbd_is_gone(nbd_handle* handle);

// libnbd's last error of this thread, without the name of the function in
// front and the errno's text behind. It may hold the server's own words.
std::string nbd_error_line();

// Rounded up, for poll(2); 0 when it is past.
int milliseconds_until(std::chrono::steady_clock::time_point when);

}  // namespace nbd_remap
