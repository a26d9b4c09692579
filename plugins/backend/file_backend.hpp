#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A regular file or a block device as a Backend.
//
// With direct I/O an error is met by the request that causes it (contract
// C11). Memory that is aligned to kBufferAlignment, for a range of whole
// logical blocks, goes to the kernel as it is; anything else passes through
// buffers of 1 MiB that are kept, so a request allocates nothing.
// What the kernel once refused as unsupported is not asked for again.

#include <memory>
#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/backend/open_backend.hpp"

namespace nbd_remap {

// Refused, each with its own line: what is missing, no file or device, empty,
// of a size that is no multiple of 512, in use, or without direct I/O when
// options.direct is on.
Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path,
                                                   const OpenOptions& options);

}  // namespace nbd_remap
