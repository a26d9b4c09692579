#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Enlarging a SPARE, or the MAIN that it is bound to, while no server uses
// them. A server that does grows by RemapStore.

#include <cstdint>

#include "plugins/backend/backend.hpp"
#include "plugins/base/log.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

class RemapStore;

// Makes slots of what was added at the end of SPARE. Slots stay where they are;
// both copies of the map move into what is new. Can be cut anywhere and done
// again. Answers with the superblock as it is afterwards.
// Errors: caller (not larger, or too little: says how much would do; nothing is
// written), the metadata's (damaged, of a newer build), the disk's.
Result<Superblock> grow_spare(Backend& spare, const LogSink& log);

// Binds SPARE to the same MAIN in its new size. A last block that ended in the
// middle and is remapped gets the rest of its content from MAIN.
// Errors: caller (another MAIN, not larger; nothing is written), as above.
Result<Superblock> grow_main(Backend& main, Backend& spare, const LogSink& log);

// Of a MAIN that grew from old_bytes: what its last block, remapped and ended
// in the middle, holds now goes to its slot, durably. What cannot be read there
// is unreadable afterwards.
// REQUIRES: nobody reads or writes that block.
Status complete_last_block(Backend& main, Backend& spare, RemapStore& store,
                           std::uint64_t old_bytes, std::uint64_t new_bytes);

}  // namespace nbd_remap
