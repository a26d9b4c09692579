// SPDX-License-Identifier: BSD-3-Clause
// Images that a released format made are read by every later build (contract
// M6, mistake 21). An image that is kept is never made again: a new format gets
// a new file.
//
//   NBD_REMAP_MAKE_GOLDEN=FILE remap_golden_test
//
// writes such an image as this build would make it, to be kept as
// tests/golden/v1-small.img.xz after `xz -9e`. It refuses to overwrite.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr char kUuid[] = "6e62642d-7265-4d61-b001-676f6c64656e";

BackendInfo golden_disk(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.name = name;
  info.identity = std::string("golden ") + name;
  return info;
}
BackendInfo golden_main() { return golden_disk("main", 1 << 30); }
BackendInfo golden_spare() { return golden_disk("spare", kSmallSpareBytes); }
constexpr std::uint64_t kLastBlock = (1 << 30) / 4096 - 1;

// The map that is in the image.
MapState golden_map() {
  MapState map;
  map.entries = {remapped(0, {1}),        pending(5, 0x7f),
                 remapped(7, {2}, 0x01),  pending(100, 0),
                 remapped(101, {4}, 0x0), remapped(5000, {5}, 0xf0)};
  for (std::uint64_t i = 0; i < 70; ++i)
    map.entries.push_back(remapped(10000 + i * 3, {10 + i}));
  map.entries.push_back(remapped(kLastBlock, {0}));
  map.retired = {{3}, {6}};
  return map;
}

// By way of everything that a log can hold: a map that changes, slots that
// are retired, a block that is clean again, a checkpoint in the middle.
void make(Backend& spare) {
  const MemoryBackend main(golden_main());
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
  EXPECT_LT(store.status().log_length, 20U) << "the log was full once";
  commit({remapped(42, slots[8])});
  commit({clean(42)});
  commit({remapped(5000, slots[5], 0xf0)}, {slots[6]});
  commit({pending(5, 0x7f), remapped(101, slots[4], 0)});
  // Not closed: the image has a log.
}

TEST(Golden, what_this_build_makes_has_the_golden_map) {
  MemoryBackend spare(golden_spare());
  make(spare);
  EXPECT_TRUE(same(map_on(spare), golden_map()));
  const char* path = std::getenv("NBD_REMAP_MAKE_GOLDEN");
  if (!path) return;
  ASSERT_FALSE(std::ifstream(path)) << path << " exists";
  const auto bytes = content_of(spare);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

std::vector<std::byte> unpacked(const std::string& path) {
  std::vector<std::byte> all;
  std::FILE* xz = ::popen(("xz -dc '" + path + "'").c_str(), "r");
  if (!xz) return all;
  std::vector<std::byte> some(1 << 16);
  while (const std::size_t n = std::fread(some.data(), 1, some.size(), xz))
    all.insert(all.end(), some.begin(), some.begin() + static_cast<long>(n));
  EXPECT_EQ(::pclose(xz), 0);
  return all;
}

TEST(Golden, version_1_is_read_to_the_last_entry) {
  const auto image = unpacked(GOLDEN_DIR "/v1-small.img.xz");
  ASSERT_EQ(image.size(), kSmallSpareBytes);
  MemoryBackend spare(golden_spare());
  ASSERT_TRUE(spare.write({0}, image, Durability::cached));
  const auto survey = survey_metadata(spare);
  ASSERT_TRUE(survey) << survey.error().text();
  ASSERT_TRUE(survey->best) << survey->refusal;
  EXPECT_TRUE(survey->copies_agree());
  EXPECT_TRUE(same(survey->chosen().state, golden_map()));
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
  const MemoryBackend main(golden_main());
  auto store = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store) << store.error().text();
  EXPECT_EQ((*store)->table().snapshot(), golden_map().entries);
  ASSERT_TRUE((*store)->commit({remapped(1, *(*store)->take_slot())}));
  ASSERT_TRUE((*store)->close());
  EXPECT_EQ(map_on(spare).entries.size(), golden_map().entries.size() + 1);
}

}  // namespace
}  // namespace nbd_remap
