#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The control requests of a bad disk, as its man page lists them. A request
// that is refused changes nothing.
//
// Threads  any, at once.

#include <cerrno>
#include <cstdint>

#include "plugins/baddisk/bad_disk.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

struct BadDiskDefaults {
  BadMode mode = BadMode::both;
  std::uint64_t seed = 1;
  bool heal_on_write = false;
  int die_errnum = EIO;
};

// What a request lets us answer with, of the runs of bad sectors.
inline constexpr std::uint64_t kDefaultRunLimit = 1000;
inline constexpr std::uint64_t kMaxRunLimit = 100'000;

HttpResponse answer_control(BadDisk& disk, const BadDiskDefaults& defaults,
                            const HttpRequest& request);

}  // namespace nbd_remap
