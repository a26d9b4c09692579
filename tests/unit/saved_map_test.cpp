// SPDX-License-Identifier: BSD-3-Clause
// What a file must be to be taken for the dump of a map.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/unit/spare_restore_fixture.hpp"

namespace nbd_remap {
namespace {

using json = nlohmann::ordered_json;
using SavedMapFile = SpareRestore;

TEST_F(SavedMapFile, a_file_that_is_cut_or_rubbish_is_refused) {
  for (std::size_t n = 0; n < dump_.size() - 2; n += 97)
    expect_refused(dump_.substr(0, n), "is not JSON, or cut short");
  std::mt19937_64 random(1);
  std::string noise(5000, ' ');
  for (char& c : noise) c = static_cast<char>(random());
  expect_refused(noise, "is not JSON");
  expect_refused("[]", "expected one object");
  expect_refused("7", "expected one object");
  expect_refused("{}", "there is no believed");
  expect_refused(std::string(100'000, '['), "expected one object");
  expect_refused("{\"copies\":" + std::string(100'000, '['), "not JSON");
}

// Mistake 4 among others: each field that the map is made of.
TEST_F(SavedMapFile, a_field_that_cannot_be_is_named) {
  const json good = json::parse(dump_);
  std::size_t at_slot = 0;
  while (good["entries"][at_slot]["kind"] != "remapped") ++at_slot;
  std::size_t at_pending = 0;
  while (good["entries"][at_pending]["kind"] != "pending") ++at_pending;
  struct Case {
    const char* path;  // JSON pointer; %s: an entry with a slot, %p: pending
    json value;        // null: the field is gone
    const char* part;
  };
  const Case cases[] = {
      {"/schema", 1, "schema 1: expected 2"},
      {"/schema", "2", "schema \"2\""},
      {"/believed", json(nullptr), "there is no believed"},
      {"/sequence", -1, "sequence: expected a whole number"},
      {"/sequence", 1.5, "sequence: expected a whole number"},
      {"/sequence", 1e30, "sequence: expected a whole number"},
      {"/sequence", ~std::uint64_t{0}, "an impossible sequence"},
      {"/entry_count", 5, "but should have 5"},
      {"/map_crc32c", "0x00000000", "do not fit their checksum"},
      {"/superblock", 3, "superblock: expected an object"},
      {"/superblock/format", 2, "format 2"},
      {"/superblock/uuid", "x", "expected a UUID"},
      {"/superblock/features/incompatible", 1U << 30, "newer build"},
      {"/superblock/main_size", 1000, "bytes of MAIN"},
      {"/superblock/main_size", 4096, "does not agree"},
      {"/superblock/main_identity", std::string(113, 'x'), "an identity"},
      {"/superblock/spare_identity", "", "an identity"},
      {"/layout/spare_size", 8 << 20, "does not follow"},
      {"/layout/block_size", 8192, "does not follow"},
      {"/layout/block_size", 1 << 30, "block_size"},
      {"/layout/slots", 1'000'000'000'000, "does not follow"},
      {"/entries", 7, "entries: expected a list"},
      {"/entries/3", 7, "entries: expected objects"},
      {"/entries/%s/block", -1, "block: expected a whole number"},
      {"/entries/%s/block", kMainBlocks + 5, "outside the volume"},
      {"/entries/%s/slot", 1'000'000, "slot 1000000: there are"},
      {"/entries/%s/slot", "3", "slot: expected a whole number"},
      {"/entries/%s/slot_offset", 0, "slot_offset does not agree"},
      {"/entries/%s/offset", 4096 * 999, "offset does not agree"},
      {"/entries/%s/kind", "retired", "kind \"retired\""},
      {"/entries/%s/kind", json(nullptr), "there is no kind"},
      {"/entries/%s/valid", 255, "valid: expected a text"},
      {"/entries/%s/valid", "0xZZ", "valid: expected a number"},
      {"/entries/%s/valid", "0x1ff", "do not fit their checksum"},
      {"/entries/%s/unreadable_sectors", json::array({1, 2}), "does not agree"},
      {"/entries/%p/slot", 3, "slot does not agree"},
      {"/retired_slots", json::object(), "retired_slots: expected a list"},
      {"/retired_slots/0", 1'000'000, "do not fit their checksum"},
      {"/retired_slots/0", "x", "retired slot: expected a whole number"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.path);
    std::string path = c.path;
    for (const auto& [mark, at] :
         {std::pair{"%s", at_slot}, {"%p", at_pending}})
      if (const auto i = path.find(mark); i != std::string::npos)
        path.replace(i, 2, std::to_string(at));
    json bad = good;
    const json::json_pointer pointer(path);
    if (c.value.is_null())
      bad.at(pointer.parent_pointer()).erase(pointer.back());
    else
      bad.at(pointer) = c.value;
    expect_refused(bad.dump(), c.part);
  }
  json twice = good;
  std::string text = twice.dump();
  text.back() = ',';
  expect_refused(text + "\"entries\":[]}", "\"entries\" is there twice");
  json late;
  for (const auto& [key, value] : good.items())
    if (key != "layout") late[key] = value;
  late["layout"] = good["layout"];
  expect_refused(late.dump(), "entries stands before layout");
}

// With a checksum that fits: what contradicts itself is refused all the same.
TEST_F(SavedMapFile, a_map_that_contradicts_itself_is_refused) {
  auto& entries = saved_.state.entries;
  std::vector<std::size_t> with_slot;
  for (std::size_t i = 0; i < entries.size(); ++i)
    if (entries[i].remapped()) with_slot.push_back(i);
  const std::size_t a = with_slot.at(0);
  const std::size_t b = with_slot.at(1);
  struct Case {
    std::function<void(MapState&)> change;
    const char* part;
  };
  const std::vector<Case> cases = {
      {[&](MapState& s) {
         s.entries[a].slot_or_none = s.entries[b].slot_or_none;
       },
       "is there twice"},
      {[&](MapState& s) { s.retired.push_back(s.entries[a].slot()); },
       "is there twice"},
      {[&](MapState& s) { s.retired.push_back(s.retired[0]); },
       "is there twice"},
      {[&](MapState& s) { s.retired[0].value = worn_.layout.slots; },
       "retired slot"},
      {[&](MapState& s) { s.entries[a].slot_or_none = worn_.layout.slots; },
       "remapped slot"},
      {[&](MapState& s) { s.entries[b].block = s.entries[a].block; },
       "twice, or out of order"},
      {[&](MapState& s) { std::swap(s.entries[a], s.entries[b]); },
       "twice, or out of order"},
      {[&](MapState& s) { s.entries.back().block.value = kMainBlocks; },
       "MAIN has"},
      {[&](MapState& s) { s.entries[a].valid = 0x100; }, "more sectors"},
      {[&](MapState& s) {
         s.entries[a].slot_or_none = RemapEntry::kNoSlot;
         s.entries[a].valid = 0xff;
       },
       "all of it can be read"},
  };
  for (const Case& c : cases) {
    SavedMap bad = saved_;
    c.change(bad.state);
    const Status status = check_saved(bad);
    ASSERT_FALSE(status) << c.part;
    EXPECT_NE(status.error().place.find(c.part), std::string::npos)
        << status.error().place;
    MemoryBackend disk(spare().info());
    EXPECT_FALSE(plan_restore(disk, bad, {uuid_, true}));
  }
}

}  // namespace
}  // namespace nbd_remap
