// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/spare_owner.hpp"

#include <cerrno>
#include <optional>
#include <utility>

namespace nbd_remap {

// One superblock may be older than ours: of a copy that does not take writes.
Result<Owner> find_owner(Backend& spare, const Superblock& mine,
                         Bytes scratch) {
  const Bytes bytes = scratch.first(kSuperblockBytes);
  Status last = make_error(EIO, spare.info().name + ": no superblock");
  std::optional<Owner> owner;
  for (CopyIndex c : kCopies) {
    if (Status status = spare.read(mine.place(c), bytes); !status) {
      if (status.error().error_class != ErrorClass::medium)
        return std::move(status).error();
      last = std::move(status);
      continue;
    }
    auto superblock = unpack_superblock(bytes);
    if (!superblock && superblock.error().errnum != EPROTONOSUPPORT) {
      last = std::move(superblock).error();
      continue;
    }
    if (superblock && superblock->uuid == mine.uuid &&
        superblock->owner_epoch < mine.owner_epoch) {
      if (!owner) owner = Owner::unknown;
      continue;
    }
    if (!superblock || superblock->uuid != mine.uuid ||
        superblock->owner_epoch != mine.owner_epoch ||
        superblock->owner_token != mine.owner_token)
      return Owner::another;
    owner = Owner::self;
  }
  if (owner) return *owner;
  return std::move(last).error();
}

}  // namespace nbd_remap
