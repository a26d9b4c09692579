// SPDX-License-Identifier: BSD-3-Clause
// Images that a released format made are read by every later build (contract
// M6, mistake 21). An image that is kept is never made again: a new format gets
// a new file.
//
//   NBD_REMAP_MAKE_GOLDEN=FOLDER remap_golden_test
//
// writes such images as this build would make them, to be kept as
// tests/golden/NAME.img.xz after `xz -9e`. It refuses to overwrite.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "plugins/remap/remap_grow.hpp"
#include "tests/golden/golden_image.hpp"

namespace nbd_remap {
namespace {

using namespace golden;  // NOLINT: this file is about them

// By way of everything that a log can hold: a map that changes, slots that
// are retired, a block that is clean again, a checkpoint in the middle.
void make(Backend& spare) {
  const MemoryBackend main(main_disk());
  FormatRequest request;
  request.uuid = parse_uuid(kUuid);
  request.now_unix_seconds = 1'700'000'000;
  ASSERT_TRUE(format_spare(spare, main, request));
  auto opened = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(opened);
  RemapStore& store = **opened;
  std::vector<SlotNo> slots;
  for (int i = 0; i < 80; ++i) slots.push_back(*store.take_slot());
  auto commit = [&](const std::vector<RemapEntry>& entries,
                    const std::vector<SlotNo>& retire = {}) {
    const Status status = store.commit(entries, retire);
    ASSERT_TRUE(status) << status.error().text();
  };
  commit({remapped(kLastBlock, slots[0]), pending(100, 0)});
  commit({remapped(0, slots[7], 0x03)});
  commit({remapped(0, slots[1])});  // slot 7 is free again
  commit({remapped(7, slots[3])});
  commit({remapped(7, slots[2], 0x01)}, {slots[3]});
  for (std::uint64_t i = 0; i < 70; ++i)
    commit({remapped(10000 + i * 3, slots[10 + i])});
  if (store.layout().log_records == 64) {
    EXPECT_LT(store.status().log_length, 20U) << "the log was full once";
  }
  commit({remapped(42, slots[8])});
  commit({clean(42)});
  commit({remapped(5000, slots[5], 0xf0)}, {slots[6]});
  commit({pending(5, 0x7f), remapped(101, slots[4], 0)});
  // Not closed: the image has a log.
}

void keep(Backend& spare, const std::string& name) {
  const char* folder = std::getenv("NBD_REMAP_MAKE_GOLDEN");
  if (!folder) return;
  const std::string path = std::string(folder) + "/" + name + ".img";
  ASSERT_FALSE(std::ifstream(path)) << path << " exists";
  const auto bytes = content_of(spare);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

TEST(Golden, what_this_build_makes_has_the_golden_map) {
  MemoryBackend spare(spare_disk());
  make(spare);
  EXPECT_TRUE(same(map_on(spare), small_map()));
  keep(spare, "v1-small");
}

// That of v1-small, and two blocks in slots that were not there before: one
// below the head copy, which lies among the slots now, and the last one.
MapState grown_map(const Layout& layout) {
  MapState map = small_map();
  const auto at = map.entries.begin() + 4;
  map.entries.insert(
      at, {remapped(42, {layout.slot_end() - 1}), remapped(43, {120}, 0x3c)});
  std::sort(map.entries.begin(), map.entries.end(),
            [](const auto& a, const auto& b) { return a.block < b.block; });
  return map;
}

TEST(Golden, what_this_build_makes_of_an_enlarged_spare_has_its_map) {
  MemoryBackend before(spare_disk());
  make(before);
  MemoryBackend spare(spare_disk(kGrownSpareBytes));
  ASSERT_TRUE(spare.write({0}, content_of(before), Durability::cached));
  const auto grown = grow_spare(spare, no_log());
  ASSERT_TRUE(grown) << grown.error().text();
  const Layout& layout = grown->layout;
  ASSERT_TRUE(layout.grown());
  const MemoryBackend main(main_disk());
  auto store = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  const MapState wanted = grown_map(layout);
  std::vector<RemapEntry> added;
  while (added.size() < 2) {
    const auto slot = (*store)->take_slot();
    ASSERT_TRUE(slot) << "slots 120 and the last one are free";
    for (const RemapEntry& e : wanted.entries)
      if (e.slot_or_none == slot->value) added.push_back(e);
  }
  for (const RemapEntry& e : added) ASSERT_TRUE((*store)->commit({e}));
  ASSERT_TRUE((*store)->close());
  EXPECT_TRUE(same(map_on(spare), wanted));
  keep(spare, "v1-grown");
}

std::vector<std::byte> golden_state(StateKind kind) {
  std::vector<std::byte> out(5000);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<std::byte>(i * 7 + static_cast<unsigned>(kind));
  return out;
}
constexpr std::array kStateKinds{StateKind::scan, StateKind::replace,
                                 StateKind::health};

TEST(Golden, what_this_build_notes_is_the_golden_state) {
  MemoryBackend spare(spare_disk(kLeastBytesWithStateArea));
  make(spare);
  const MemoryBackend main(main_disk());
  auto store = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  StateArea* area = (*store)->state_area();
  ASSERT_TRUE(area);
  for (const auto kind : kStateKinds) {
    ASSERT_TRUE(area->write(kind, {}));
    ASSERT_TRUE(area->write(kind, golden_state(kind)));
  }
  keep(spare, "v1-state");
}

TEST(Golden, version_1_with_a_state_area_is_read_to_the_last_byte) {
  const auto spare = disk_of(unpacked("v1-state"));
  ASSERT_EQ(spare->info().size_bytes, kLeastBytesWithStateArea);
  // The same blocks; their slots are others, as the head copy lies among them.
  const auto entries = map_on(*spare).entries;
  const auto small = small_map().entries;
  ASSERT_EQ(entries.size(), small.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(entries[i].block, small[i].block) << i;
    EXPECT_EQ(entries[i].valid, small[i].valid) << i;
  }
  MemoryBackend made(spare_disk(kLeastBytesWithStateArea));
  make(made);
  EXPECT_TRUE(same(map_on(*spare), map_on(made)));
  const MemoryBackend main(main_disk());
  auto store = RemapStore::open(*spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_EQ((*store)->layout(), *fresh_layout(kLeastBytesWithStateArea, 4096));
  StateArea* area = (*store)->state_area();
  ASSERT_TRUE(area);
  for (const auto kind : kStateKinds) {
    const auto got = area->read(kind);
    ASSERT_TRUE(got);
    EXPECT_EQ(*got, golden_state(kind));
    ASSERT_TRUE(area->write(kind, {}));
  }
  ASSERT_TRUE((*store)->commit({remapped(1, *(*store)->take_slot())}));
  ASSERT_TRUE((*store)->close());
  EXPECT_EQ(map_on(*spare).entries.size(), small_map().entries.size() + 1);
}

TEST(Golden, version_1_is_read_to_the_last_entry) {
  const auto kept_disk = disk_of(unpacked("v1-small"));
  MemoryBackend& spare = *kept_disk;
  ASSERT_EQ(spare.info().size_bytes, kSmallSpareBytes);
  const auto survey = survey_metadata(spare);
  ASSERT_TRUE(survey) << survey.error().text();
  ASSERT_TRUE(survey->best) << survey->refusal;
  EXPECT_TRUE(survey->copies_agree());
  EXPECT_TRUE(same(survey->chosen().state, small_map()));
  const Superblock& sb = survey->superblock;
  EXPECT_EQ(uuid_text(sb.uuid), kUuid);
  EXPECT_EQ(sb.main_bytes, 1U << 30);
  EXPECT_EQ(sb.created_unix_seconds, 1'700'000'000U);
  EXPECT_EQ(sb.main_identity, "golden main");
  EXPECT_EQ(sb.spare_identity, "golden spare");
  EXPECT_EQ(sb.owner_epoch, 1U);
  EXPECT_EQ(sb.layout, *compute_layout(kSmallSpareBytes, 4096));
  EXPECT_EQ(survey->chosen().checkpoint_sequence, 65U + 1U);
  EXPECT_FALSE(survey->chosen().closed);

  // And it can be used: opened, changed, closed, with all it had.
  const MemoryBackend main(main_disk());
  auto store = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_EQ((*store)->table().snapshot(), small_map().entries);
  ASSERT_TRUE((*store)->commit({remapped(1, *(*store)->take_slot())}));
  ASSERT_TRUE((*store)->close());
  EXPECT_EQ(map_on(spare).entries.size(), small_map().entries.size() + 1);
}

TEST(Golden, an_enlarged_version_1_is_read_to_the_last_entry) {
  const auto spare = disk_of(unpacked("v1-grown"));
  ASSERT_EQ(spare->info().size_bytes, kGrownSpareBytes);
  const auto survey = survey_metadata(*spare);
  ASSERT_TRUE(survey) << survey.error().text();
  ASSERT_TRUE(survey->best) << survey->refusal;
  EXPECT_TRUE(survey->copies_agree());
  const Superblock& sb = survey->superblock;
  EXPECT_EQ(sb.features.incompatible, kFeatureGrown);
  EXPECT_EQ(sb.growing_to_bytes, 0U);
  EXPECT_EQ(uuid_text(sb.uuid), kUuid);
  EXPECT_EQ(sb.layout, *grow_layout(*compute_layout(kSmallSpareBytes, 4096),
                                    kGrownSpareBytes));
  EXPECT_TRUE(same(survey->chosen().state, grown_map(sb.layout)));
  EXPECT_TRUE(survey->chosen().closed);

  const MemoryBackend main(main_disk());
  auto store = RemapStore::open(*spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_EQ((*store)->table().snapshot(), grown_map(sb.layout).entries);
  ASSERT_TRUE((*store)->commit({remapped(1, *(*store)->take_slot())}));
  ASSERT_TRUE((*store)->close());
  EXPECT_EQ(map_on(*spare).entries.size(),
            grown_map(sb.layout).entries.size() + 1);
}

}  // namespace
}  // namespace nbd_remap
