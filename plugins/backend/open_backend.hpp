#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Opens what a main= or spare= word names: an NBD URI (nbd:, nbds:, nbd+unix:,
// nbds+unix:, nbd+vsock:, nbds+vsock:) or the path of a regular file or block
// device.

#include <chrono>
#include <memory>
#include <string>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

enum class DirectIo { automatic, on, off };

struct OpenOptions {
  DirectIo direct = DirectIo::automatic;
  bool read_only = false;
  // Refuse (EBUSY) what another program holds (O_EXCL for a block device, an
  // OFD write lock for a file), and hold it while open. Contract M5.
  bool exclusive = true;
  // Of every request to a remote.
  std::chrono::milliseconds deadline{30'000};
};

bool is_nbd_uri(const std::string& spec);

// The error's place names the word and what was wrong with it, in one line.
Result<std::unique_ptr<Backend>> open_backend(const std::string& spec,
                                              const OpenOptions& options);

}  // namespace nbd_remap
