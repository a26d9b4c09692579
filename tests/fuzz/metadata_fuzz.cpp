// SPDX-License-Identifier: BSD-3-Clause
// libFuzzer target: bytes from a SPARE are hostile until checked (contract
// C14). The first byte chooses what the rest is taken for. Checksums are made
// right first, or no mutation would ever get past them.
//
//   cmake --preset fuzz && cmake --build --preset fuzz --target metadata_fuzz
//   build/fuzz/tests/fuzz/metadata_fuzz -max_total_time=60

#include <boost/endian/conversion.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "plugins/base/crc32c.hpp"
#include "plugins/remap/remap_format.hpp"

namespace {

using namespace nbd_remap;

constexpr std::size_t kBlockBytes = 4096;

void seal(std::vector<std::byte>& bytes) {
  auto* crc = reinterpret_cast<unsigned char*>(bytes.data() + 8);
  boost::endian::store_little_u32(crc, 0);
  boost::endian::store_little_u32(crc, crc32c(bytes));
}

// What was accepted must say the same when it is written and read again.
void require(bool holds) {
  if (!holds) std::abort();
}

void try_superblock(std::vector<std::byte> bytes) {
  bytes.resize(kSuperblockBytes);
  seal(bytes);
  const auto first = unpack_superblock(bytes);
  if (!first) return;
  require(compute_layout(first->layout.spare_bytes,
                         first->layout.block_bytes) == first->layout);
  std::vector<std::byte> again(kSuperblockBytes);
  pack_superblock(*first, again);
  const auto second = unpack_superblock(again);
  require(second.ok());
  require(second->uuid == first->uuid && second->layout == first->layout &&
          second->main_identity == first->main_identity &&
          second->sequence == first->sequence);
}

void try_record(std::vector<std::byte> bytes) {
  bytes.resize(kBlockBytes);
  seal(bytes);
  const auto first = unpack_record(bytes);
  if (!first) return;
  std::vector<std::byte> again(kBlockBytes);
  pack_record(*first, again);
  const auto second = unpack_record(again);
  require(second.ok());
  require(second->entries == first->entries &&
          second->sequence == first->sequence && second->type == first->type);
}

void try_checkpoint(std::vector<std::byte> bytes) {
  bytes.resize(kBlockBytes);
  seal(bytes);
  const auto first = unpack_checkpoint_header(bytes);
  if (!first) return;
  std::vector<std::byte> again(kBlockBytes);
  pack_checkpoint_header(*first, again);
  const auto second = unpack_checkpoint_header(again);
  require(second.ok());
  require(second->entries == first->entries &&
          second->body_crc == first->body_crc);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size) {
  if (size < 13) return 0;
  const auto* begin = reinterpret_cast<const std::byte*>(data + 1);
  std::vector<std::byte> bytes(begin, begin + size - 1);
  switch (data[0] % 3) {
    case 0:
      try_superblock(std::move(bytes));
      break;
    case 1:
      try_record(std::move(bytes));
      break;
    default:
      try_checkpoint(std::move(bytes));
  }
  return 0;
}
