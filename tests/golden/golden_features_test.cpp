// SPDX-License-Identifier: BSD-3-Clause
// What a build does with features of a later one (contract M6): it refuses to
// read (incompatible), to write (read-only compatible), or minds its business
// (compatible). Asked of the images that are kept.
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "plugins/remap/remap_grow.hpp"
#include "plugins/remap/spare_repair.hpp"
#include "tests/golden/golden_image.hpp"

namespace nbd_remap {
namespace {

using namespace golden;  // NOLINT: this file is about them

// In the superblock of the copies; a place of the format, not of this build.
void set_bits(Backend& spare, const std::vector<CopyIndex>& copies,
              std::uint64_t Features::*which, std::uint64_t bits) {
  for (const CopyIndex c : copies) {
    std::vector<std::byte> bytes(kSuperblockBytes);
    const DeviceOffset at = superblock_place(spare.info().size_bytes, c);
    ASSERT_TRUE(spare.read(at, bytes));
    auto sb = unpack_superblock(bytes);
    ASSERT_TRUE(sb) << sb.error().text();
    sb->features.*which |= bits;
    pack_superblock(*sb, bytes);
    ASSERT_TRUE(spare.write(at, bytes, Durability::cached));
  }
}

Features features_of(Backend& spare, CopyIndex c) {
  std::vector<std::byte> bytes(kSuperblockBytes);
  EXPECT_TRUE(spare.read(superblock_place(spare.info().size_bytes, c), bytes));
  const auto sb = unpack_superblock(bytes);
  EXPECT_TRUE(sb);
  return sb ? sb->features : Features{};
}

const std::vector<std::vector<CopyIndex>> kWhere{
    {CopyIndex::head, CopyIndex::tail}, {CopyIndex::head}, {CopyIndex::tail}};
const std::vector<std::string> kImages{"v1-small", "v1-grown"};

TEST(GoldenFeatures, an_unknown_incompatible_bit_is_refused_by_everybody) {
  const MemoryBackend main(main_disk());
  for (const std::string& name : kImages) {
    const auto image = unpacked(name);
    for (const auto& where : kWhere)
      for (unsigned bit = 0; bit < 64; ++bit) {
        if (kKnownIncompatible >> bit & 1) continue;
        // One bit of 64 in one copy is as good as in both; all in both.
        if (where.size() == 1 && bit % 9 != 1) continue;
        SCOPED_TRACE(name + " bit " + std::to_string(bit));
        const auto spare = disk_of(image);
        set_bits(*spare, where, &Features::incompatible,
                 std::uint64_t{1} << bit);
        const auto before = content_of(*spare);
        const auto survey = survey_metadata(*spare);
        ASSERT_FALSE(survey);
        EXPECT_EQ(survey.error().errnum, EPROTONOSUPPORT);
        EXPECT_NE(survey.error().place.find("newer build"), std::string::npos);
        for (const bool read_only : {false, true}) {
          const auto store =
              RemapStore::open(*spare, binding_of(main), read_only, no_log());
          ASSERT_FALSE(store);
          EXPECT_EQ(store.error().errnum, EPROTONOSUPPORT);
        }
        FormatRequest replace;
        EXPECT_FALSE(format_spare(*spare, main, replace));
        EXPECT_FALSE(grow_spare(*spare, no_log()));
        EXPECT_EQ(content_of(*spare), before) << "something was written";
      }
  }
}

TEST(GoldenFeatures, a_read_only_compatible_bit_lets_read_and_not_write) {
  const MemoryBackend main(main_disk());
  for (const std::string& name : kImages) {
    const auto image = unpacked(name);
    for (const auto& where : kWhere)
      for (const unsigned bit : {0U, 1U, 31U, 32U, 63U}) {
        SCOPED_TRACE(name + " bit " + std::to_string(bit));
        const auto spare = disk_of(image);
        const MapState map = map_on(*spare);
        set_bits(*spare, where, &Features::read_only_compatible,
                 std::uint64_t{1} << bit);
        const auto before = content_of(*spare);
        const auto survey = survey_metadata(*spare);
        ASSERT_TRUE(survey) << survey.error().text();
        ASSERT_TRUE(survey->best);
        EXPECT_TRUE(same(survey->chosen().state, map));
        const auto reader =
            RemapStore::open(*spare, binding_of(main), true, no_log());
        ASSERT_TRUE(reader) << reader.error().text();
        EXPECT_EQ((*reader)->table().snapshot(), map.entries);
        const auto writer =
            RemapStore::open(*spare, binding_of(main), false, no_log());
        ASSERT_FALSE(writer);
        EXPECT_EQ(writer.error().errnum, EPROTONOSUPPORT);
        EXPECT_FALSE(repair_spare(*spare, *survey, no_log()));
        EXPECT_FALSE(grow_spare(*spare, no_log()));
        EXPECT_EQ(content_of(*spare), before) << "something was written";
      }
  }
}

TEST(GoldenFeatures, a_compatible_bit_is_kept_and_otherwise_ignored) {
  const MemoryBackend main(main_disk());
  for (const std::string& name : kImages) {
    SCOPED_TRACE(name);
    const auto image = unpacked(name);
    const auto spare = disk_of(image);
    const MapState map = map_on(*spare);
    const std::uint64_t bits = ~std::uint64_t{0} << 32;
    set_bits(*spare, kWhere[0], &Features::compatible, bits);
    auto store = RemapStore::open(*spare, binding_of(main), false, no_log());
    ASSERT_TRUE(store) << store.error().text();
    EXPECT_EQ((*store)->table().snapshot(), map.entries);
    ASSERT_TRUE((*store)->commit({remapped(1, *(*store)->take_slot())}));
    ASSERT_TRUE((*store)->close());
    EXPECT_EQ(map_on(*spare).entries.size(), map.entries.size() + 1);
    for (const CopyIndex c : kCopies)
      EXPECT_EQ(features_of(*spare, c).compatible & bits, bits) << copy_name(c);
  }
}

}  // namespace
}  // namespace nbd_remap
