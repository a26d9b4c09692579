#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Opens a regular file or a block device: what it is, that nobody else uses
// it, and whether the kernel lets us past its page cache.

#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/backend/open_backend.hpp"
#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {

struct OpenedFile {
  UniqueFd fd;  // holds the lock, if one was asked for
  BackendInfo info;
  bool is_device = false;
  // What fallocate() changes without touching data next to it through the
  // page cache: the file system's block; of a device the logical block.
  std::uint64_t allocation_unit = 4096;
  // False where the kernel takes RWF_DSYNC and does not act on it.
  bool dsync = true;
};

// The error's place is the whole line for people: "PATH: a directory; ...".
Result<OpenedFile> open_file(const std::string& path,
                             const OpenOptions& options);

// In bytes; an error if it is empty or no whole number of sectors.
Result<std::uint64_t> size_of_file(const std::string& path, int fd);

}  // namespace nbd_remap
