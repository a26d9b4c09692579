// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/fresh_map.hpp"

#include <vector>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/crc32c.hpp"
#include "plugins/remap/remap_log.hpp"
#include "plugins/remap/state_area.hpp"

namespace nbd_remap {
namespace {

// A whole block, so that no disk has to read what it may not be able to.
Status write_superblock(Backend& spare, const Superblock& sb) {
  AlignedBuffer block(sb.layout.block_bytes);
  pack_superblock(sb, block.bytes());
  return spare.write(sb.layout.superblock(sb.copy), block.bytes(),
                     Durability::cached);
}

Status zero(Backend& spare, DeviceOffset at, std::uint64_t length) {
  return spare.zero(at, length, ZeroMode::keep_allocated, Durability::cached);
}

Status erase_superblocks(Backend& spare, const Layout& layout) {
  for (CopyIndex c : kCopies) {
    Status status = zero(spare, layout.superblock(c), layout.block_bytes);
    if (status) status = spare.flush();
    if (!status) return status;
  }
  return {};
}

}  // namespace

Status erase_states(Backend& spare, const Layout& layout) {
  if (layout.state_at == 0) return {};
  for (const StatePlace& place : kStatePlaces) {
    Status status = zero(spare, {layout.state_at + place.at}, 4096);
    // One that cannot be written cannot be read either, or the map could not
    // be saved for the sake of what may be lost.
    if (!status && status.error().error_class != ErrorClass::medium)
      return status;
  }
  return spare.flush();
}

Status write_map(Backend& spare, const Superblock& sb, const MapState& state) {
  const Layout& layout = sb.layout;
  for (CopyIndex c : kCopies) {
    Status status = zero(spare, layout.checkpoint(c, 0), layout.block_bytes);
    if (status)
      status = zero(spare, layout.checkpoint(c, 1), layout.block_bytes);
    if (status)
      status = zero(spare, layout.record(c, 0),
                    layout.log_records * layout.block_bytes);
    if (!status) return status;
  }
  const std::vector<std::byte> body = pack_checkpoint_body(state);
  for (CopyIndex c : kCopies)
    if (Status status = write_checkpoint_body(spare, sb.layout, c, 0, body);
        !status)
      return status;
  if (!body.empty())
    if (Status status = spare.flush(); !status) return status;
  AlignedBuffer block(sb.layout.block_bytes);
  CheckpointHeader header;
  header.uuid = sb.uuid;
  header.sequence = sb.map_sequence;
  header.owner_epoch = sb.owner_epoch;
  header.entries = body.size() / kEntryBytes;
  header.body_crc = crc32c(body);
  pack_checkpoint_header(header, block.bytes());
  for (CopyIndex c : kCopies)
    if (Status status = spare.write(sb.layout.checkpoint(c, 0), block.bytes(),
                                    Durability::cached);
        !status)
      return status;
  return spare.flush();
}

Status write_fresh_map(Backend& spare, const Superblock& superblock,
                       const MapState& state) {
  Superblock sb = superblock;
  Status status = erase_superblocks(spare, sb.layout);
  if (status) status = erase_states(spare, sb.layout);
  if (status) status = write_map(spare, sb, state);
  for (CopyIndex c : kCopies) {
    sb.copy = c;
    if (status) status = write_superblock(spare, sb);
    if (status) status = spare.flush();
  }
  return status;
}

}  // namespace nbd_remap
