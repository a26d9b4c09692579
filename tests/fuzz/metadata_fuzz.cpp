// SPDX-License-Identifier: BSD-3-Clause
// Bytes from a SPARE are hostile until checked (contract C14). The first byte
// chooses what the rest is taken for. Checksums are made right first, or no
// mutation would ever get past them. What was accepted must say the same when
// it is written and read again.
#include <algorithm>
#include <boost/endian/conversion.hpp>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "plugins/base/crc32c.hpp"
#include "plugins/remap/remap_format.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kBlockBytes = 4096;

void seal(Bytes bytes) {
  auto* crc = reinterpret_cast<unsigned char*>(bytes.data() + 8);
  boost::endian::store_little_u32(crc, 0);
  boost::endian::store_little_u32(crc, crc32c(bytes));
}

void refused(const Error& error) {
  require(error.errnum != 0 && !error.place.empty(), "a refusal says why");
}

void try_superblock(std::vector<std::byte> bytes) {
  bytes.resize(kSuperblockBytes);
  seal(bytes);
  const auto first = unpack_superblock(bytes);
  if (!first) return refused(first.error());
  require(is_possible(first->layout), "a layout follows from its sizes");
  require(first->copy == CopyIndex::head || first->copy == CopyIndex::tail,
          "a copy is one of two");
  std::vector<std::byte> again(kSuperblockBytes);
  pack_superblock(*first, again);
  const auto second = unpack_superblock(again);
  require(second.ok(), "a superblock is read as it was written");
  require(second->uuid == first->uuid && second->layout == first->layout &&
              second->features == first->features &&
              second->sequence == first->sequence &&
              second->owner_epoch == first->owner_epoch &&
              second->owner_token == first->owner_token &&
              second->map_sequence == first->map_sequence &&
              second->copy == first->copy &&
              second->copies_in_step == first->copies_in_step &&
              second->main_bytes == first->main_bytes &&
              second->main_disk_bytes == first->main_disk_bytes &&
              second->growing_to_bytes == first->growing_to_bytes &&
              second->created_unix_seconds == first->created_unix_seconds &&
              second->main_identity == first->main_identity &&
              second->spare_identity == first->spare_identity &&
              second->build_id == first->build_id,
          "a superblock says the same again");
}

void try_record(std::vector<std::byte> bytes) {
  bytes.resize(kBlockBytes);
  seal(bytes);
  const auto first = unpack_record(bytes);
  if (!first) return refused(first.error());
  std::vector<std::byte> again(kBlockBytes);
  pack_record(*first, again);
  const auto second = unpack_record(again);
  require(second.ok(), "a record is read as it was written");
  require(second->entries == first->entries && second->uuid == first->uuid &&
              second->sequence == first->sequence &&
              second->owner_epoch == first->owner_epoch &&
              second->type == first->type,
          "a record says the same again");
}

void try_checkpoint(std::vector<std::byte> bytes) {
  bytes.resize(kBlockBytes);
  seal(bytes);
  const auto first = unpack_checkpoint_header(bytes);
  if (!first) return refused(first.error());
  std::vector<std::byte> again(kBlockBytes);
  pack_checkpoint_header(*first, again);
  const auto second = unpack_checkpoint_header(again);
  require(second.ok(), "a checkpoint's header is read as it was written");
  require(second->entries == first->entries && second->uuid == first->uuid &&
              second->sequence == first->sequence &&
              second->owner_epoch == first->owner_epoch &&
              second->body_crc == first->body_crc,
          "a checkpoint's header says the same again");
}

void try_state(std::vector<std::byte> bytes) {
  // Its length is its own; the checksum is of so much.
  const std::uint64_t length = boost::endian::load_little_u64(
      reinterpret_cast<const unsigned char*>(bytes.data() + 40));
  if (length > kBlockBytes) return;
  bytes.resize(std::max(bytes.size(), kStateHeaderBytes + length));
  seal(Bytes(bytes).first(kStateHeaderBytes + length));
  ConstBytes content = bytes;
  const auto first = unpack_state(content);
  if (!first) return refused(first.error());
  require(content.size() == length, "a state has the length it says");
  std::vector<std::byte> again(kStateHeaderBytes + length);
  pack_state(*first, content, again);
  ConstBytes same = again;
  const auto second = unpack_state(same);
  require(
      second && second->kind == first->kind && second->uuid == first->uuid &&
          second->sequence == first->sequence &&
          std::equal(same.begin(), same.end(), content.begin(), content.end()),
      "a state says the same again");
}

void try_layout(FuzzInput in) {
  Layout layout;
  layout.spare_bytes = in.number(8);
  layout.block_bytes = kMinBlockBytes << in.below(4, 1);
  layout.slots = in.number(8);
  layout.checkpoint_bytes = in.number(8);
  layout.log_records = in.number(8);
  layout.head_at = in.number(8);
  layout.slots_at = in.number(8);
  static_cast<void>(is_possible(layout));
  const auto made = compute_layout(layout.spare_bytes, layout.block_bytes);
  if (!made) return;
  require(is_possible(*made), "a computed layout is possible");
  require(made->superblock(CopyIndex::tail).value < layout.spare_bytes,
          "the tail lies on SPARE");
  const auto more = grow_layout(*made, layout.head_at);
  if (!more) return;
  require(is_possible(*more) && more->slots > made->slots,
          "a grown layout is possible, and larger");
}

}  // namespace

void fuzz_metadata(ConstBytes input) {
  if (input.size() < 13) return;
  FuzzInput in(input);
  const auto kind = in.below(5, 1);
  if (kind == 3) return try_layout(in);
  const ConstBytes rest = in.take(kBlockBytes);
  std::vector<std::byte> bytes(rest.begin(), rest.end());
  if (kind == 4) {
    bytes.resize(std::max(bytes.size(), kStateHeaderBytes));
    return try_state(std::move(bytes));
  }
  if (kind == 0) return try_superblock(std::move(bytes));
  if (kind == 1) return try_record(std::move(bytes));
  try_checkpoint(std::move(bytes));
}

}  // namespace nbd_remap
