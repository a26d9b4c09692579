// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/signatures.hpp"

#include <blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {
namespace {

constexpr int kMaxSignatures = 64;
constexpr int kMaxPasses = 8;

struct FreeProbe {
  void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<struct blkid_struct_probe, FreeProbe>;

std::string value(blkid_probe probe, const char* name) {
  const char* data = nullptr;
  std::size_t length = 0;
  if (blkid_probe_lookup_value(probe, name, &data, &length) != 0) return {};
  // Texts come with their final zero counted.
  return {data, strnlen(data, length)};
}

std::size_t value_length(blkid_probe probe, const char* name) {
  const char* data = nullptr;
  std::size_t length = 0;
  if (blkid_probe_lookup_value(probe, name, &data, &length) != 0) return 0;
  return length;
}

Signature read_signature(blkid_probe probe) {
  Signature s;
  const bool table = !value(probe, "PTTYPE").empty();
  s.type = value(probe, table ? "PTTYPE" : "TYPE");
  s.uuid = value(probe, table ? "PTUUID" : "UUID");
  const std::string at =
      value(probe, table ? "PTMAGIC_OFFSET" : "SBMAGIC_OFFSET");
  const char* end = at.data() + at.size();
  if (!at.empty() && std::from_chars(at.data(), end, s.offset).ptr == end)
    s.length = value_length(probe, table ? "PTMAGIC" : "SBMAGIC");
  return s;
}

bool overlaps(std::uint64_t begin, std::uint64_t end, std::uint64_t other,
              std::uint64_t length) {
  return begin < other + length && other < end;
}

// What format_spare() has just written.
bool is_ours(const Layout& layout, std::uint32_t logical, std::uint64_t begin,
             std::uint64_t end) {
  const std::uint64_t sb = std::max<std::uint64_t>(logical, kSuperblockBytes);
  return std::any_of(kCopies.begin(), kCopies.end(), [&](CopyIndex c) {
    return overlaps(begin, end, layout.superblock(c).value, sb) ||
           overlaps(begin, end, layout.checkpoint(c, 0).value,
                    layout.block_bytes);
  });
}

Status wipe(const Signature& s, Backend& spare) {
  const std::uint32_t unit = spare.info().logical_block_bytes;
  const std::uint64_t begin = round_down(s.offset, unit);
  const std::uint64_t end = round_up(s.offset + s.length, unit);
  AlignedBuffer buffer(end - begin);
  Status status = spare.read(DeviceOffset{begin}, buffer.bytes());
  if (!status) return status;
  std::fill_n(buffer.data() + (s.offset - begin), s.length, std::byte{});
  return spare.write(DeviceOffset{begin}, buffer.bytes(), Durability::cached);
}

}  // namespace

bool Signature::is_named(const std::string& word) const {
  return ::strcasecmp(name().c_str(), word.c_str()) == 0;
}

Result<std::vector<Signature>> find_signatures(const std::string& path) {
  const auto refuse = [&](int errnum, const char* what) {
    return make_error(
        errnum, fmt::format("{}: cannot tell what is on it: {}", path, what));
  };
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return refuse(errno, "open");
  const Probe probe(blkid_new_probe());
  if (!probe) return refuse(ENOMEM, "libblkid");
  if (blkid_probe_set_device(probe.get(), fd.get(), 0, 0) != 0 ||
      blkid_probe_enable_superblocks(probe.get(), 1) != 0 ||
      blkid_probe_set_superblocks_flags(
          probe.get(),
          BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_MAGIC) != 0 ||
      blkid_probe_enable_partitions(probe.get(), 1) != 0 ||
      blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_MAGIC) != 0)
    return refuse(EIO, "libblkid");
  std::vector<Signature> found;
  for (int i = 0; i < kMaxSignatures; ++i) {
    const int rc = blkid_do_probe(probe.get());
    if (rc == 1) return found;
    if (rc != 0) return refuse(rc < -1 ? -rc : EIO, "read");
    if (Signature s = read_signature(probe.get()); !s.type.empty())
      found.push_back(std::move(s));
  }
  return found;
}

Status wipe_signatures(const std::string& path, Backend& spare,
                       const Layout& layout) {
  const std::uint32_t unit = spare.info().logical_block_bytes;
  // One signature may hide another.
  for (int pass = 0; pass < kMaxPasses; ++pass) {
    auto found = find_signatures(path);
    if (!found) return std::move(found).error();
    bool changed = false;
    for (const Signature& s : *found) {
      const auto last = checked_add(s.offset, s.length);
      if (s.length == 0 || !last || *last > spare.info().size_bytes) continue;
      if (is_ours(layout, unit, s.offset, *last)) continue;
      if (Status status = wipe(s, spare); !status) return status;
      changed = true;
    }
    if (!changed) return {};
    if (Status status = spare.flush(); !status) return status;
  }
  return make_error(EIO, path + ": old signatures cannot be overwritten");
}

}  // namespace nbd_remap
