// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/endian/conversion.hpp>
#include <boost/uuid/random_generator.hpp>
#include <boost/uuid/string_generator.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <cerrno>
#include <cstring>

#include "plugins/base/crc32c.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kCrcOffset = 8;
constexpr char kSuperblockMagic[] = "NBDREMAP";
constexpr char kRecordMagic[] = "NBDRLOGR";
constexpr char kCheckpointMagic[] = "NBDRCKPT";
constexpr char kStateMagic[] = "NBDRSTAT";
constexpr std::uint64_t kSlotMask = (std::uint64_t{1} << 56) - 1;

unsigned char* at(Bytes b, std::size_t offset) {
  return reinterpret_cast<unsigned char*>(b.subspan(offset).data());
}
const unsigned char* at(ConstBytes b, std::size_t offset) {
  return reinterpret_cast<const unsigned char*>(b.subspan(offset).data());
}
void put16(Bytes b, std::size_t o, std::uint16_t v) {
  boost::endian::store_little_u16(at(b, o), v);
}
void put32(Bytes b, std::size_t o, std::uint32_t v) {
  boost::endian::store_little_u32(at(b, o), v);
}
void put64(Bytes b, std::size_t o, std::uint64_t v) {
  boost::endian::store_little_u64(at(b, o), v);
}
std::uint32_t get32(ConstBytes b, std::size_t o) {
  return boost::endian::load_little_u32(at(b, o));
}
std::uint64_t get64(ConstBytes b, std::size_t o) {
  return boost::endian::load_little_u64(at(b, o));
}
void put_uuid(Bytes b, std::size_t o, const Uuid& uuid) {
  std::memcpy(at(b, o), uuid.data(), uuid.size());
}
Uuid get_uuid(ConstBytes b, std::size_t o) {
  Uuid uuid{};
  std::memcpy(uuid.data(), at(b, o), uuid.size());
  return uuid;
}
void put_text(Bytes b, std::size_t o, std::size_t room,
              const std::string& text) {
  std::memcpy(at(b, o), text.data(), std::min(room, text.size()));
}
std::string get_text(ConstBytes b, std::size_t o, std::size_t room) {
  const char* p = reinterpret_cast<const char*>(at(b, o));
  return {p, strnlen(p, room)};
}

// The checksum covers every byte but its own four, which count as zero.
std::uint32_t crc_of(ConstBytes b) {
  std::vector<std::byte> copy(b.begin(), b.end());
  put32(copy, kCrcOffset, 0);
  return crc32c(copy);
}
void seal(Bytes b) { put32(b, kCrcOffset, crc_of(b)); }

Error damaged(const char* words) {
  return make_error(ErrorClass::medium, EUCLEAN, words);
}

bool is_zero(ConstBytes b) {
  return b[0] == std::byte{} &&
         std::memcmp(b.data(), b.data() + 1, b.size() - 1) == 0;
}

// Empty when magic and checksum are right.
std::optional<Error> check_sealed(ConstBytes b, const char* magic,
                                  std::size_t min_bytes) {
  if (b.size() < min_bytes) return damaged("too short");
  if (std::memcmp(b.data(), magic, 8) != 0)
    return damaged(is_zero(b) ? "never written (all zero)" : "wrong magic");
  if (get32(b, kCrcOffset) != crc_of(b)) return damaged("wrong checksum");
  return std::nullopt;
}

}  // namespace

Uuid random_uuid() {
  const boost::uuids::uuid u = boost::uuids::random_generator()();
  Uuid uuid{};
  std::copy(u.begin(), u.end(), uuid.begin());
  return uuid;
}

std::string uuid_text(const Uuid& uuid) {
  boost::uuids::uuid u{};
  std::copy(uuid.begin(), uuid.end(), u.begin());
  return boost::uuids::to_string(u);
}

std::optional<Uuid> parse_uuid(const std::string& text) {
  try {
    const boost::uuids::uuid u = boost::uuids::string_generator()(text);
    Uuid uuid{};
    std::copy(u.begin(), u.end(), uuid.begin());
    if (uuid_text(uuid).size() != text.size()) return std::nullopt;
    return uuid;
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
}

std::string stored_identity(const std::string& identity) {
  if (identity.size() <= kIdentityBytes) return identity;
  const auto sum = crc32c(std::as_bytes(std::span(identity)));
  return fmt::format("{:08x} {}", sum, identity.substr(0, kIdentityBytes - 9));
}

void pack_superblock(const Superblock& s, Bytes out) {
  std::fill(out.begin(), out.end(), std::byte{});
  std::memcpy(out.data(), kSuperblockMagic, 8);
  put32(out, 12, kFormatVersion);
  put64(out, 16,
        (s.features.compatible & ~kFeatureStateArea) |
            (s.layout.state_at != 0 ? kFeatureStateArea : 0));
  put64(out, 24, s.features.read_only_compatible);
  put64(out, 32,
        (s.features.incompatible & ~kFeatureGrown) |
            (s.layout.grown() ? kFeatureGrown : 0));
  put_uuid(out, 40, s.uuid);
  put64(out, 56, s.sequence);
  put64(out, 64, s.owner_epoch);
  put32(out, 72, static_cast<std::uint32_t>(s.copy));
  put32(out, 76, s.copies_in_step);
  put64(out, 80, s.main_bytes);
  put64(out, 88, s.layout.spare_bytes);
  put32(out, 96, s.layout.block_bytes);
  put64(out, 104, s.layout.slots);
  put64(out, 112, s.layout.checkpoint_bytes);
  put64(out, 120, s.layout.log_records);
  put64(out, 128, s.created_unix_seconds);
  put16(out, 136, 0);  // this SPARE's number
  put16(out, 138, 1);  // of so many SPAREs
  put16(out, 140, 1);  // copies of each slot
  put16(out, 142, 0);  // kind of checksum of a slot: none
  put64(out, 144, s.owner_token);
  put64(out, 152, s.map_sequence);
  put_text(out, 160, kIdentityBytes, s.main_identity);
  put_text(out, 272, kIdentityBytes, s.spare_identity);
  put_text(out, 384, 64, s.build_id);
  put64(out, 448, s.growing_to_bytes);
  if (s.layout.grown()) {
    put64(out, 456, s.layout.slots_at);
    put64(out, 464, s.layout.head_at);
  }
  put64(out, 472, s.layout.state_at);
  put64(out, 480, s.main_disk_bytes);
  seal(out.first(kSuperblockBytes));
}

Result<Superblock> unpack_superblock(ConstBytes in) {
  if (in.size() > kSuperblockBytes) in = in.first(kSuperblockBytes);
  if (auto bad = check_sealed(in, kSuperblockMagic, kSuperblockBytes))
    return *std::move(bad);
  if (const auto version = get32(in, 12); version != kFormatVersion)
    return make_error(ErrorClass::caller, EPROTONOSUPPORT,
                      fmt::format("format version {}, this build knows {}",
                                  version, kFormatVersion));
  Superblock s;
  s.features = {get64(in, 16), get64(in, 24), get64(in, 32)};
  s.uuid = get_uuid(in, 40);
  s.sequence = get64(in, 56);
  s.owner_epoch = get64(in, 64);
  if (get32(in, 72) > 1) return damaged("impossible copy number");
  s.copy = static_cast<CopyIndex>(get32(in, 72));
  s.copies_in_step = get32(in, 76);
  if (s.copies_in_step == 0 || s.copies_in_step > 3)
    return damaged("impossible set of copies in step");
  s.owner_token = get64(in, 144);
  s.map_sequence = get64(in, 152);
  if (std::max({s.sequence, s.owner_epoch, s.map_sequence}) > kMaxCount)
    return damaged("impossible sequence");
  s.main_bytes = get64(in, 80);
  if (s.main_bytes == 0 || s.main_bytes % kSectorBytes != 0 ||
      s.main_bytes > kMaxCount)
    return damaged("impossible size of MAIN");
  s.main_disk_bytes = get64(in, 480);
  if (s.main_disk_bytes % kSectorBytes != 0 || s.main_disk_bytes > kMaxCount ||
      (s.main_disk_bytes != 0 && s.main_disk_bytes <= s.main_bytes))
    return damaged("impossible size of MAIN's disk");
  s.layout.spare_bytes = get64(in, 88);
  s.layout.block_bytes = get32(in, 96);
  s.layout.slots = get64(in, 104);
  s.layout.checkpoint_bytes = get64(in, 112);
  s.layout.log_records = get64(in, 120);
  // The layout follows from the sizes; a checksum that fits over numbers that
  // do not is refused, so that no offset below can be out of range.
  if (!is_power_of_two(s.layout.block_bytes) ||
      s.layout.block_bytes < kMinBlockBytes ||
      s.layout.block_bytes > kMaxBlockBytes ||
      s.layout.spare_bytes > kMaxSpareBytes)
    return damaged("impossible block size or size of SPARE");
  const auto layout =
      s.features.incompatible & kFeatureGrown
          ? compute_layout(s.layout.spare_bytes, s.layout.block_bytes,
                           get64(in, 456), get64(in, 464))
          : compute_layout(s.layout.spare_bytes, s.layout.block_bytes);
  if (!layout || layout->slots != s.layout.slots ||
      layout->checkpoint_bytes != s.layout.checkpoint_bytes ||
      layout->log_records != s.layout.log_records)
    return damaged("layout that does not follow from the sizes");
  s.layout = *layout;
  if (s.features.compatible & kFeatureStateArea) {
    s.layout.state_at = get64(in, 472);
    if (!state_area_fits(s.layout))
      return damaged("impossible place of the state area");
  }
  s.growing_to_bytes = get64(in, 448);
  if (s.growing_to_bytes > kMaxSpareBytes ||
      (s.growing_to_bytes != 0 && s.growing_to_bytes <= layout->spare_bytes))
    return damaged("impossible size of SPARE");
  s.created_unix_seconds = get64(in, 128);
  s.main_identity = get_text(in, 160, kIdentityBytes);
  s.spare_identity = get_text(in, 272, kIdentityBytes);
  s.build_id = get_text(in, 384, 64);
  return s;
}

void pack_entry(const Entry& e, Bytes out) {
  put64(out, 0, e.block.value);
  put64(out, 8, e.slot.value | static_cast<std::uint64_t>(e.kind) << 56);
  put64(out, 16, e.valid);
}

std::optional<Entry> unpack_entry(ConstBytes in) {
  Entry e;
  e.block.value = get64(in, 0);
  const std::uint64_t word = get64(in, 8);
  e.slot.value = word & kSlotMask;
  e.valid = get64(in, 16);
  const auto kind = static_cast<std::uint8_t>(word >> 56);
  e.kind = static_cast<EntryKind>(kind);
  switch (e.kind) {
    case EntryKind::remapped:
      return e;
    case EntryKind::pending:
    case EntryKind::clean:
      if (e.slot.value != 0) return std::nullopt;
      return e;
    case EntryKind::retired:
      if (e.block.value != 0 || e.valid != 0) return std::nullopt;
      return e;
  }
  return std::nullopt;
}

void pack_record(const Record& r, Bytes out) {
  std::fill(out.begin(), out.end(), std::byte{});
  std::memcpy(out.data(), kRecordMagic, 8);
  put32(out, 12, static_cast<std::uint32_t>(r.entries.size()));
  put_uuid(out, 16, r.uuid);
  put64(out, 32, r.sequence);
  put64(out, 40, r.owner_epoch);
  put32(out, 48, static_cast<std::uint32_t>(r.type));
  std::size_t offset = kRecordHeaderBytes;
  for (const Entry& e : r.entries) {
    pack_entry(e, out.subspan(offset, kEntryBytes));
    offset += kEntryBytes;
  }
  seal(out);
}

Result<Record> unpack_record(ConstBytes in) {
  if (auto bad = check_sealed(in, kRecordMagic, kRecordHeaderBytes))
    return *std::move(bad);
  Record r;
  const std::uint32_t count = get32(in, 12);
  if (count > (in.size() - kRecordHeaderBytes) / kEntryBytes)
    return damaged("more entries than fit");
  r.uuid = get_uuid(in, 16);
  r.sequence = get64(in, 32);
  r.owner_epoch = get64(in, 40);
  if (std::max(r.sequence, r.owner_epoch) > kMaxCount)
    return damaged("impossible sequence");
  if (get32(in, 48) > 2) return damaged("unknown record type");
  r.type = static_cast<RecordType>(get32(in, 48));
  r.entries.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    auto entry = unpack_entry(in.subspan(kRecordHeaderBytes + i * kEntryBytes));
    if (!entry) return damaged("impossible entry");
    r.entries.push_back(*entry);
  }
  return r;
}

void pack_checkpoint_header(const CheckpointHeader& h, Bytes out) {
  std::fill(out.begin(), out.end(), std::byte{});
  std::memcpy(out.data(), kCheckpointMagic, 8);
  put_uuid(out, 16, h.uuid);
  put64(out, 32, h.sequence);
  put64(out, 40, h.owner_epoch);
  put64(out, 48, h.entries);
  put32(out, 56, h.body_crc);
  seal(out);
}

Result<CheckpointHeader> unpack_checkpoint_header(ConstBytes in) {
  if (auto bad = check_sealed(in, kCheckpointMagic, kRecordHeaderBytes))
    return *std::move(bad);
  CheckpointHeader h;
  h.uuid = get_uuid(in, 16);
  h.sequence = get64(in, 32);
  h.owner_epoch = get64(in, 40);
  if (std::max(h.sequence, h.owner_epoch) > kMaxCount)
    return damaged("impossible sequence");
  h.entries = get64(in, 48);
  h.body_crc = get32(in, 56);
  return h;
}

void pack_state(const StateHeader& h, ConstBytes content, Bytes out) {
  std::fill(out.begin(), out.end(), std::byte{});
  std::memcpy(out.data(), kStateMagic, 8);
  put32(out, 12, h.kind);
  put_uuid(out, 16, h.uuid);
  put64(out, 32, h.sequence);
  put64(out, 40, content.size());
  std::copy(content.begin(), content.end(), out.begin() + kStateHeaderBytes);
  seal(out.first(kStateHeaderBytes + content.size()));
}

Result<StateHeader> unpack_state(ConstBytes& in) {
  if (in.size() < kStateHeaderBytes) return damaged("too short");
  const std::uint64_t length = get64(in, 40);
  // Without a checksum yet: a length that does not fit is not believed.
  if (length > in.size() - kStateHeaderBytes) return damaged("too short");
  in = in.first(kStateHeaderBytes + length);
  if (auto bad = check_sealed(in, kStateMagic, kStateHeaderBytes))
    return *std::move(bad);
  StateHeader h;
  h.kind = get32(in, 12);
  h.uuid = get_uuid(in, 16);
  h.sequence = get64(in, 32);
  if (h.sequence > kMaxCount) return damaged("impossible sequence");
  in = in.subspan(kStateHeaderBytes);
  return h;
}

}  // namespace nbd_remap
