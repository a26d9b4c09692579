#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Opens what a main= or spare= word names: an NBD URI (nbd:, nbds:, nbd+unix:,
// nbds+unix:, nbd+vsock:, nbds+vsock:) or the path of a regular file or block
// device.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/base/log.hpp"

namespace nbd_remap {

enum class DirectIo { automatic, on, off };

// Written by the backend, read by anyone at any time.
struct RemoteCounters {
  std::atomic<bool> connected{true};
  std::atomic<std::uint64_t> reconnects{0};
  std::atomic<std::uint64_t> replayed_bytes{0};  // written again after those
};

struct OpenOptions {
  DirectIo direct = DirectIo::automatic;
  bool read_only = false;
  // Refuse (EBUSY) what another program holds (O_EXCL for a block device, an
  // OFD write lock for a file), and hold it while open. Contract M5.
  bool exclusive = true;

  // The rest is for remotes; see nbd_backend.hpp.
  //
  // Of every request, also of one that waits for a lost connection.
  std::chrono::milliseconds deadline{30'000};
  // To a server that promises multi-conn; others get one.
  unsigned connections = 4;
  // Hears of lost connections.
  LogSink log;
  std::shared_ptr<RemoteCounters> counters;
  // Called when the server was lost and is back, before anything is written to
  // it: whether it is still the disk it was, and still ours. It may read
  // `fresh`, and nothing else; what was not flushed may be missing there. An
  // error of class transport means not yet: it is tried again. Any other is
  // final: every request fails until the backend is opened anew.
  std::function<Status(Backend& fresh)> on_reconnect;
};

bool is_nbd_uri(const std::string& spec);

// The error's place names the word and what was wrong with it, in one line.
Result<std::unique_ptr<Backend>> open_backend(const std::string& spec,
                                              const OpenOptions& options);

}  // namespace nbd_remap
