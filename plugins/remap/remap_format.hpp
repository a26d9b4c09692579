#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What is on SPARE, byte by byte; nbd-remap-format(5) says the same in prose.
// Where it is: remap_layout.hpp.
//
// Both copies hold the same. All numbers are little-endian. A superblock is
// 512 bytes (a disk writes a sector whole or not at all) in a place of
// 32 KiB that does not depend on the block size. A checkpoint is the whole map
// as of one sequence number; log records say what changed since, one
// block each, the n-th of them (from 0) with the checkpoint's sequence + n + 1.
//
// Structs here are what the code works with; pack and unpack stand between
// them and the disk, and unpack takes hostile bytes: it answers or it refuses.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plugins/base/result.hpp"
#include "plugins/base/units.hpp"
#include "plugins/remap/remap_layout.hpp"

namespace nbd_remap {

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::size_t kSuperblockBytes = 512;
inline constexpr std::size_t kIdentityBytes = 112;
// Of sequences, epochs and sizes: no sum of two of them wraps. More is damage.
inline constexpr std::uint64_t kMaxCount = std::uint64_t{1} << 62;
// Above it nothing is written: what follows must be readable, too.
inline constexpr std::uint64_t kMaxSequence = kMaxCount / 2;

// A build that does not know a bit refuses: to read (incompatible), to write
// (read-only compatible), never (compatible).
struct Features {
  std::uint64_t compatible = 0;
  std::uint64_t read_only_compatible = 0;
  std::uint64_t incompatible = 0;
  friend bool operator==(const Features&, const Features&) = default;
};

// The incompatible bit of a SPARE that was enlarged.
inline constexpr std::uint64_t kFeatureGrown = 1;
// That of a disk that holds all of another SPARE and is about to take its
// place. Whether it did stands on that one, see kFeatureReplaced.
inline constexpr std::uint64_t kFeatureCandidate = 2;
// That of a SPARE that was replaced: spare_identity is the one of the disk that
// took its place.
inline constexpr std::uint64_t kFeatureReplaced = 4;
inline constexpr std::uint64_t kKnownIncompatible =
    kFeatureGrown | kFeatureCandidate | kFeatureReplaced;
// The compatible bit of a SPARE that has a state area.
inline constexpr std::uint64_t kFeatureStateArea = 2;

using Uuid = std::array<std::uint8_t, 16>;
Uuid random_uuid();
std::string uuid_text(const Uuid& uuid);
std::optional<Uuid> parse_uuid(const std::string& text);

struct Superblock {
  Features features;
  Uuid uuid{};
  std::uint64_t sequence = 0;     // of superblock writes; the newest wins
  std::uint64_t owner_epoch = 0;  // one more at every start (contract M5)
  std::uint64_t owner_token = 0;  // random; tells apart who took the same epoch
  std::uint64_t map_sequence = 0;  // every copy in step reaches at least this
  CopyIndex copy = CopyIndex::head;
  std::uint32_t copies_in_step = 3;  // copy_bit() of each that can be trusted
  std::uint64_t main_bytes = 0;      // of the volume
  // Not 0: the disk that took MAIN's place is larger than the volume.
  std::uint64_t main_disk_bytes = 0;
  Layout layout;
  // Not 0: SPARE is being enlarged to this size. The superblock of the tail is
  // at the new end already; all else is used as before.
  std::uint64_t growing_to_bytes = 0;
  std::uint64_t created_unix_seconds = 0;
  std::string main_identity;  // as stored_identity() gives it
  std::string spare_identity;
  std::string build_id;  // that wrote this superblock

  DeviceOffset place(CopyIndex which) const {
    return superblock_place(disk_bytes(), which);
  }
  std::uint64_t size_of_main_disk() const {
    return main_disk_bytes != 0 ? main_disk_bytes : main_bytes;
  }
  bool is_candidate() const {
    return (features.incompatible & kFeatureCandidate) != 0;
  }
  bool was_replaced() const {
    return (features.incompatible & kFeatureReplaced) != 0;
  }
  // The size of the disk that it belongs on.
  std::uint64_t disk_bytes() const {
    return growing_to_bytes != 0 ? growing_to_bytes : layout.spare_bytes;
  }
};

// The form of an identity that fits: a long one is cut and a checksum added.
std::string stored_identity(const std::string& identity);

enum class EntryKind : std::uint8_t {
  remapped = 1,  // block is in slot; valid says which sectors
  pending = 2,   // block is on MAIN; sectors outside valid are unreadable
  retired = 3,   // slot failed and is never used again
  clean = 4,     // block is on MAIN, whole (in the log only)
};

// One entry of a checkpoint or a log record.
struct Entry {
  EntryKind kind = EntryKind::clean;
  BlockNo block;            // 0 for retired
  SlotNo slot;              // 0 for pending and clean
  std::uint64_t valid = 0;  // 0 for retired; all for clean
  friend bool operator==(const Entry&, const Entry&) = default;
};

enum class RecordType : std::uint32_t {
  changes = 0,
  opened = 1,  // a server took SPARE over
  closed = 2,  // and stopped in order
};

struct Record {
  Uuid uuid{};
  std::uint64_t sequence = 0;
  std::uint64_t owner_epoch = 0;
  RecordType type = RecordType::changes;
  std::vector<Entry> entries;
};

struct CheckpointHeader {
  Uuid uuid{};
  std::uint64_t sequence = 0;  // its own; it includes all records before
  std::uint64_t owner_epoch = 0;
  std::uint64_t entries = 0;
  std::uint32_t body_crc = 0;
};

// What a place of the state area begins with; the content follows at once.
inline constexpr std::size_t kStateHeaderBytes = 64;
struct StateHeader {
  std::uint32_t kind = 0;
  Uuid uuid{};
  std::uint64_t sequence = 0;
};

// Each pack fills the whole buffer. REQUIRES: it has the size of the thing
// (kSuperblockBytes, block_bytes, block_bytes, entries * kEntryBytes).
void pack_superblock(const Superblock& superblock, Bytes out);
void pack_record(const Record& record, Bytes out);
void pack_checkpoint_header(const CheckpointHeader& header, Bytes out);
void pack_entry(const Entry& entry, Bytes out);
// REQUIRES: out holds kStateHeaderBytes and the content.
void pack_state(const StateHeader& header, ConstBytes content, Bytes out);

// Each unpack answers with words for what is wrong, for people.
Result<Superblock> unpack_superblock(ConstBytes in);
Result<Record> unpack_record(ConstBytes in);
Result<CheckpointHeader> unpack_checkpoint_header(ConstBytes in);
// Checks the kind and the unused fields; ranges are the reader's to check.
std::optional<Entry> unpack_entry(ConstBytes in);

// The content is what is left of in.
Result<StateHeader> unpack_state(ConstBytes& in);

}  // namespace nbd_remap
