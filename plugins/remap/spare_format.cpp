// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/spare_format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugins/base/build_id.hpp"
#include "plugins/remap/fresh_map.hpp"
#include "plugins/remap/remap_move.hpp"

namespace nbd_remap {
namespace {

Error refusal(const Backend& disk, const std::string& words,
              int errnum = EINVAL) {
  return make_error(ErrorClass::caller, errnum,
                    fmt::format("{}: {}", disk.info().name, words));
}

}  // namespace

Result<std::uint32_t> natural_block_bytes(const Backend& main,
                                          const Backend& spare) {
  const std::uint32_t bytes =
      std::max({kMinBlockBytes, main.info().physical_block_bytes,
                spare.info().physical_block_bytes});
  if (bytes > kMaxBlockBytes)
    return refusal(
        main.info().physical_block_bytes > kMaxBlockBytes ? main : spare,
        fmt::format("physical blocks of {} bytes; at most {} are supported",
                    bytes, kMaxBlockBytes));
  return bytes;
}

Result<Superblock> format_spare(Backend& spare, const Backend& main,
                                const FormatRequest& request) {
  auto block_bytes = natural_block_bytes(main, spare);
  if (!block_bytes) return std::move(block_bytes).error();
  if (request.block_bytes) {
    const std::uint32_t want = *request.block_bytes;
    if (!is_power_of_two(want) || want < *block_bytes || want > kMaxBlockBytes)
      return refusal(
          spare, fmt::format("block size {}: expected a power of two from {} "
                             "to {}",
                             want, *block_bytes, kMaxBlockBytes));
    block_bytes = want;
  }
  if (spare.info().identity == main.info().identity)
    return refusal(spare, "SPARE and MAIN are the same disk");
  if (main.info().size_bytes == 0) return refusal(main, "MAIN is empty");
  if (!spare.info().can_flush)
    return refusal(spare, "offers no FLUSH: nothing on it would be durable");
  if (spare.info().read_only) return refusal(spare, "is read-only", EROFS);
  if (spare.info().size_bytes > kMaxSpareBytes)
    return refusal(spare,
                   fmt::format("{} bytes are more than a SPARE can have, "
                               "{}",
                               spare.info().size_bytes, kMaxSpareBytes));
  const auto layout = fresh_layout(spare.info().size_bytes, *block_bytes);
  if (!layout)
    return refusal(
        spare,
        fmt::format(
            "{} bytes are too small for a SPARE: {} hold one block, "
            "{} hold 1 % of {}",
            spare.info().size_bytes, fresh_bytes_for(1, *block_bytes),
            fresh_bytes_for(std::max<std::uint64_t>(
                                1, main.info().size_bytes / *block_bytes / 100),
                            *block_bytes),
            main.info().name),
        ENOSPC);
  const auto found = find_superblock(spare);
  if (!found && found.error().errnum == EPROTONOSUPPORT)
    return refusal(spare, fmt::format("is a SPARE in another format: {}",
                                      found.error().place));
  if (!found) return found.error();
  const std::optional<Superblock>& old = *found;
  if (old && (!request.replace || *request.replace != old->uuid))
    return refusal(
        spare,
        fmt::format("is already a SPARE, of a MAIN of {} bytes; to destroy "
                    "what it holds, type --replace={}",
                    old->main_bytes, uuid_text(old->uuid)),
        EEXIST);
  if (!old && request.replace)
    return refusal(spare, fmt::format("holds no SPARE {} to replace",
                                      uuid_text(*request.replace)));

  Superblock sb;
  sb.uuid = request.uuid.value_or(random_uuid());
  // Fences off its server, which one that counts too high cannot have.
  const bool follows =
      old && std::max(old->sequence, old->owner_epoch) < kMaxSequence;
  sb.sequence = follows ? old->sequence + 1 : 1;
  sb.map_sequence = 1;
  sb.owner_epoch = follows ? old->owner_epoch + 1 : 0;
  sb.main_bytes = main.info().size_bytes;
  sb.layout = *layout;
  sb.created_unix_seconds = request.now_unix_seconds;
  sb.main_identity = stored_identity(main.info().identity);
  sb.spare_identity = stored_identity(spare.info().identity);
  sb.build_id = build_id();
  if (Status status = write_fresh_map(spare, sb, {}); !status)
    return std::move(status).error();
  return sb;
}

}  // namespace nbd_remap
