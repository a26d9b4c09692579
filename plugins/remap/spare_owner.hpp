#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Whose a SPARE is (contract M5).

#include "plugins/backend/backend.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

// Whose SPARE is, as its superblocks say, seen from the server that wrote
// `mine`. unknown: neither that server's nor a later one's is there, as it may
// be where what was not flushed is lost.
// REQUIRES: scratch has a superblock's size, aligned. Errors: the disk's.
enum class Owner { self, unknown, another };
Result<Owner> find_owner(Backend& spare, const Superblock& mine, Bytes scratch);

}  // namespace nbd_remap
