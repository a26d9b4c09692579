// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_format.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/endian/conversion.hpp>
#include <cerrno>
#include <functional>

#include "plugins/base/crc32c.hpp"

namespace nbd_remap {
namespace {

using Buffer = std::vector<std::byte>;

Uuid some_uuid() { return *parse_uuid("01234567-89ab-cdef-0123-456789abcdef"); }

Superblock some_superblock() {
  Superblock s;
  s.features.compatible = 5;
  s.uuid = some_uuid();
  s.sequence = 11;
  s.owner_epoch = 12;
  s.owner_token = 0xfedcba9876543210;
  s.map_sequence = 13;
  s.copy = CopyIndex::tail;
  s.copies_in_step = 2;
  s.main_bytes = 1 << 30;
  s.layout = *compute_layout(1 << 24, 4096);
  s.created_unix_seconds = 14;
  s.main_identity = "wwn-1";
  s.spare_identity = std::string(kIdentityBytes, 'x');
  s.build_id = "0.1.0 (test)";
  return s;
}

Buffer packed(const Superblock& s) {
  Buffer out(kSuperblockBytes);
  pack_superblock(s, out);
  return out;
}

Record some_record() {
  Record r;
  r.uuid = some_uuid();
  r.sequence = 21;
  r.owner_epoch = 22;
  r.type = RecordType::changes;
  r.entries = {{EntryKind::remapped, {0}, {0}, 0xff},
               {EntryKind::pending, {7}, {}, 0x7f},
               {EntryKind::retired, {}, {3}, 0},
               {EntryKind::clean, {9}, {}, 0xff}};
  return r;
}

Buffer packed(const Record& r) {
  Buffer out(kMinBlockBytes);
  pack_record(r, out);
  return out;
}

CheckpointHeader some_header() { return {some_uuid(), 31, 32, 33, 0x34353637}; }

Buffer packed(const CheckpointHeader& h) {
  Buffer out(kMinBlockBytes);
  pack_checkpoint_header(h, out);
  return out;
}

// Changes what was packed, with a checksum that fits.
void forge(Buffer& b, std::size_t offset, std::uint64_t value,
           std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    b.at(offset + i) = static_cast<std::byte>(value >> (8 * i));
  std::fill_n(b.begin() + 8, 4, std::byte{});
  boost::endian::store_little_u32(reinterpret_cast<unsigned char*>(&b[8]),
                                  crc32c(b));
}

// How many single-bit flips unpack takes for good.
int flips_taken(const Buffer& good,
                const std::function<bool(const Buffer&)>& unpacks) {
  EXPECT_TRUE(unpacks(good));
  int taken = 0;
  Buffer b = good;
  for (std::size_t bit = 0; bit < b.size() * 8; ++bit) {
    const auto mask = std::byte{1} << (bit % 8);
    b[bit / 8] ^= mask;
    taken += unpacks(b);
    b[bit / 8] ^= mask;
  }
  EXPECT_EQ(b, good);
  return taken;
}

TEST(RemapFormat, a_superblock_comes_back_as_it_was_packed) {
  const Superblock s = some_superblock();
  const auto got = unpack_superblock(packed(s));
  ASSERT_TRUE(got) << got.error().text();
  EXPECT_EQ(got->features, s.features);
  EXPECT_EQ(got->uuid, s.uuid);
  EXPECT_EQ(got->sequence, s.sequence);
  EXPECT_EQ(got->owner_epoch, s.owner_epoch);
  EXPECT_EQ(got->owner_token, s.owner_token);
  EXPECT_EQ(got->map_sequence, s.map_sequence);
  EXPECT_EQ(got->copy, s.copy);
  EXPECT_EQ(got->copies_in_step, s.copies_in_step);
  EXPECT_EQ(got->main_bytes, s.main_bytes);
  EXPECT_EQ(got->layout, s.layout);
  EXPECT_EQ(got->created_unix_seconds, s.created_unix_seconds);
  EXPECT_EQ(got->main_identity, s.main_identity);
  EXPECT_EQ(got->spare_identity, s.spare_identity);
  EXPECT_EQ(got->build_id, s.build_id);
}

TEST(RemapFormat, a_record_comes_back_as_it_was_packed) {
  const Record r = some_record();
  const auto got = unpack_record(packed(r));
  ASSERT_TRUE(got) << got.error().text();
  EXPECT_EQ(got->uuid, r.uuid);
  EXPECT_EQ(got->sequence, r.sequence);
  EXPECT_EQ(got->owner_epoch, r.owner_epoch);
  EXPECT_EQ(got->type, r.type);
  EXPECT_EQ(got->entries, r.entries);
}

TEST(RemapFormat, a_full_record_keeps_its_last_entry) {
  for (std::uint32_t block_bytes : {4096U, 8192U, 16384U, 32768U}) {
    const Layout layout = *compute_layout(1 << 26, block_bytes);
    Record r = some_record();
    r.entries.clear();
    for (std::size_t i = 0; i < layout.entries_per_record(); ++i)
      r.entries.push_back({EntryKind::remapped, {i}, {i}, 1});
    Buffer out(block_bytes);
    pack_record(r, out);
    const auto got = unpack_record(out);
    ASSERT_TRUE(got) << got.error().text();
    EXPECT_EQ(got->entries, r.entries);
    // There is room for no more.
    EXPECT_GT(kRecordHeaderBytes + (r.entries.size() + 1) * kEntryBytes,
              block_bytes);
  }
}

TEST(RemapFormat, a_checkpoint_header_comes_back_as_it_was_packed) {
  const CheckpointHeader h = some_header();
  const auto got = unpack_checkpoint_header(packed(h));
  ASSERT_TRUE(got) << got.error().text();
  EXPECT_EQ(got->uuid, h.uuid);
  EXPECT_EQ(got->sequence, h.sequence);
  EXPECT_EQ(got->owner_epoch, h.owner_epoch);
  EXPECT_EQ(got->entries, h.entries);
  EXPECT_EQ(got->body_crc, h.body_crc);
}

// Mistake 20
TEST(RemapFormat, every_single_bit_flip_is_refused) {
  EXPECT_EQ(
      flips_taken(packed(some_superblock()),
                  [](const Buffer& b) { return unpack_superblock(b).ok(); }),
      0);
  EXPECT_EQ(flips_taken(packed(some_record()),
                        [](const Buffer& b) { return unpack_record(b).ok(); }),
            0);
  EXPECT_EQ(flips_taken(packed(some_header()),
                        [](const Buffer& b) {
                          return unpack_checkpoint_header(b).ok();
                        }),
            0);
}

TEST(RemapFormat, a_checksum_of_wrong_bytes_in_its_own_place_is_refused) {
  // Mistake 20: a checksum taken over itself could never be right; one that is
  // not compared always is.
  Buffer b = packed(some_record());
  for (int i = 8; i < 12; ++i) {
    b[i] = ~b[i];
    EXPECT_FALSE(unpack_record(b)) << i;
  }
}

TEST(RemapFormat, lengths_that_lie_are_refused) {
  const std::size_t fits = compute_layout(1 << 24, 4096)->entries_per_record();
  Buffer b = packed(some_record());
  forge(b, 12, fits, 4);
  // As many zero entries as fit: refused for what they are, not for the count.
  EXPECT_EQ(unpack_record(b).error().place, "impossible entry");
  for (std::uint64_t count : {std::uint64_t{fits + 1}, std::uint64_t{1} << 31,
                              std::uint64_t{0xffffffff}}) {
    forge(b, 12, count, 4);
    const auto got = unpack_record(b);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().place, "more entries than fit");
  }
  EXPECT_FALSE(unpack_record({}));
  EXPECT_FALSE(unpack_record(ConstBytes(b).first(kRecordHeaderBytes - 1)));
  EXPECT_FALSE(unpack_superblock(ConstBytes(b).first(511)));
  EXPECT_FALSE(unpack_checkpoint_header(ConstBytes(b).first(63)));
}

TEST(RemapFormat, impossible_numbers_under_a_right_checksum_are_refused) {
  struct Case {
    std::size_t offset, bytes;
    std::uint64_t value;
  };
  for (const Case& c : {Case{72, 4, 2},
                        Case{76, 4, 0},
                        Case{76, 4, 4},
                        Case{80, 8, 0},
                        Case{80, 8, 513},
                        Case{80, 8, ~std::uint64_t{511}},
                        Case{88, 8, 0},
                        Case{88, 8, ~std::uint64_t{0}},
                        Case{96, 4, 0},
                        Case{96, 4, 2048},
                        Case{96, 4, 65536},
                        Case{96, 4, 4097},
                        Case{104, 8, 1},
                        Case{104, 8, ~std::uint64_t{0}},
                        Case{112, 8, 0},
                        Case{112, 8, ~std::uint64_t{0}},
                        Case{120, 8, 0},
                        Case{56, 8, ~std::uint64_t{0}},
                        Case{64, 8, ~std::uint64_t{0}},
                        Case{152, 8, ~std::uint64_t{0}}}) {
    Buffer b = packed(some_superblock());
    forge(b, c.offset, c.value, c.bytes);
    EXPECT_FALSE(unpack_superblock(b)) << c.offset << " " << c.value;
  }
  Buffer record = packed(some_record());
  forge(record, 32, ~std::uint64_t{0}, 8);
  EXPECT_FALSE(unpack_record(record));
  record = packed(some_record());
  forge(record, 48, 3, 4);
  EXPECT_FALSE(unpack_record(record));
  Buffer header = packed(some_header());
  forge(header, 32, ~std::uint64_t{0}, 8);
  EXPECT_FALSE(unpack_checkpoint_header(header));
}

TEST(RemapFormat, impossible_entries_are_refused) {
  auto unpacks = [](std::uint64_t block, std::uint64_t slot, unsigned kind,
                    std::uint64_t valid) {
    Buffer b(kEntryBytes);
    pack_entry({static_cast<EntryKind>(kind), {block}, {slot}, valid}, b);
    return unpack_entry(b).has_value();
  };
  for (unsigned kind = 0; kind < 256; ++kind)
    EXPECT_EQ(unpacks(0, 0, kind, 0), kind >= 1 && kind <= 4) << kind;
  EXPECT_FALSE(unpacks(0, 1, 2, 0)) << "pending with a slot";
  EXPECT_FALSE(unpacks(0, 1, 4, 0)) << "clean with a slot";
  EXPECT_FALSE(unpacks(1, 1, 3, 0)) << "retired with a block";
  EXPECT_FALSE(unpacks(0, 1, 3, 1)) << "retired with sectors";
}

TEST(RemapFormat, another_version_is_said_to_be_one) {
  for (std::uint64_t version : {0, 2, 255}) {
    Buffer b = packed(some_superblock());
    forge(b, 12, version, 4);
    const auto got = unpack_superblock(b);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().errnum, EPROTONOSUPPORT);
  }
}

TEST(RemapFormat, what_was_never_written_is_said_to_be_so) {
  const Buffer zero(kMinBlockBytes);
  EXPECT_EQ(unpack_superblock(zero).error().place, "never written (all zero)");
  EXPECT_EQ(unpack_record(zero).error().place, "never written (all zero)");
}

TEST(RemapFormat, uuids_are_read_as_they_are_written) {
  const Uuid uuid = random_uuid();
  EXPECT_EQ(parse_uuid(uuid_text(uuid)), uuid);
  EXPECT_NE(random_uuid(), uuid);
  EXPECT_EQ(uuid_text(some_uuid()), "01234567-89ab-cdef-0123-456789abcdef");
  for (const char* word : {"", "1", "01234567-89ab-cdef-0123-456789abcde",
                           "01234567-89ab-cdef-0123-456789abcdefa",
                           "g1234567-89ab-cdef-0123-456789abcdef",
                           "{01234567-89ab-cdef-0123-456789abcdef}"})
    EXPECT_FALSE(parse_uuid(word)) << word;
}

TEST(RemapFormat, a_long_identity_is_cut_but_stays_its_own) {
  std::string a(201, 'a');  // only the last letter differs
  std::string b = a;
  b.back() = 'b';
  EXPECT_EQ(stored_identity("short"), "short");
  const std::string longest(kIdentityBytes, 'i');
  EXPECT_EQ(stored_identity(longest), longest);
  EXPECT_LE(stored_identity(a).size(), kIdentityBytes);
  EXPECT_NE(stored_identity(a), stored_identity(b));
  EXPECT_EQ(stored_identity(a), stored_identity(a));
}

void check_layout(const Layout& l) {
  struct Region {
    std::uint64_t begin, end;
  };
  std::vector<Region> regions;
  auto add = [&](DeviceOffset at, std::uint64_t bytes) {
    regions.push_back({at.value, at.value + bytes});
    EXPECT_EQ(at.value % l.block_bytes, 0U);
  };
  for (CopyIndex c : kCopies) {
    add(l.superblock(c), kSuperblockPlaceBytes);
    add(l.checkpoint(c, 0), l.checkpoint_bytes);
    add(l.checkpoint(c, 1), l.checkpoint_bytes);
    add(l.record(c, 0), l.log_records * l.block_bytes);
    // Mistake 8: the copies do not lie together.
    EXPECT_EQ(l.record(c, l.log_records).value - l.record(c, 0).value,
              l.log_records * l.block_bytes);
  }
  // Mistake 3: the slots are one more region that overlaps none.
  add(l.slot({0}), l.slots * l.block_bytes);
  EXPECT_EQ(l.slot({l.slots - 1}).value + l.block_bytes, regions.back().end);
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.begin < b.begin; });
  EXPECT_EQ(regions.front().begin, 0U);
  for (std::size_t i = 1; i < regions.size(); ++i)
    EXPECT_LE(regions[i - 1].end, regions[i].begin) << i;
  EXPECT_LE(regions.back().end, l.spare_bytes);
  // Every slot mapped or retired, and at least as many blocks pending.
  EXPECT_GE(l.entry_capacity(), l.slots + l.pending_capacity());
  EXPECT_GE(l.pending_capacity(), l.slots);
  EXPECT_GE(l.log_records, 64U);
}

TEST(RemapFormat, no_region_of_any_layout_overlaps_another) {
  std::uint64_t layouts = 0;
  for (std::uint32_t block : {4096U, 8192U, 16384U, 32768U}) {
    auto check = [&](std::uint64_t bytes) {
      const auto layout = compute_layout(bytes, block);
      if (!layout) return;
      SCOPED_TRACE(testing::Message() << bytes << " / " << block);
      check_layout(*layout);
      EXPECT_EQ(layout->spare_bytes, bytes);
      ++layouts;
    };
    for (std::uint64_t bytes = 512; bytes < 24 << 20; bytes += 37 * 512)
      check(bytes);
    for (unsigned shift = 20; shift < 56; ++shift)
      for (std::uint64_t odd : {0ULL, 512ULL, 4096ULL, 32768ULL, 1234432ULL})
        check((std::uint64_t{1} << shift) + odd);
  }
  EXPECT_GT(layouts, 4000U);
}

TEST(RemapFormat, the_place_of_the_tail_does_not_depend_on_the_block_size) {
  for (std::uint64_t bytes : {4U << 20, (4U << 20) + 512, (5U << 20) - 512}) {
    const std::uint64_t place = superblock_place(bytes, CopyIndex::tail).value;
    EXPECT_LE(place + kSuperblockPlaceBytes, bytes);
    for (std::uint32_t block : {4096U, 8192U, 16384U, 32768U})
      EXPECT_EQ(compute_layout(bytes, block)->superblock(CopyIndex::tail).value,
                place);
  }
}

TEST(RemapFormat, a_spare_of_the_size_for_n_slots_has_n_slots) {
  for (std::uint32_t block : {4096U, 32768U})
    for (std::uint64_t slots :
         {1ULL, 2ULL, 100ULL, 4096ULL, 4097ULL, 131072ULL, 1000000ULL}) {
      const std::uint64_t bytes = spare_bytes_for(slots, block);
      const auto layout = compute_layout(bytes, block);
      ASSERT_TRUE(layout);
      EXPECT_GE(layout->slots, slots);
      // And little more: rounding to the place of a superblock.
      EXPECT_LE((layout->slots - slots) * block, 2 * kSuperblockPlaceBytes);
    }
  EXPECT_FALSE(compute_layout(spare_bytes_for(1, 4096) - 1, 4096));
  EXPECT_FALSE(compute_layout(0, 4096));
}

}  // namespace
}  // namespace nbd_remap
