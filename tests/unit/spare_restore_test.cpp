// SPDX-License-Identifier: BSD-3-Clause
// What spare dump writes goes back by spare restore, whole or not at all.
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include "plugins/remap/fresh_map.hpp"
#include "plugins/remap/remap_grow.hpp"
#include "plugins/spare_tool/dump_command.hpp"
#include "plugins/spare_tool/saved_map.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/unit/worn_spare.hpp"

namespace nbd_remap {
namespace {

using json = nlohmann::ordered_json;

std::string dump_of(Backend& spare) {
  const auto survey = survey_metadata(spare);
  EXPECT_TRUE(survey) << survey.error().text();
  std::string out;
  EXPECT_TRUE(write_dump("s", *survey, true, [&](std::string_view text) {
    out += text;
    return true;
  }));
  return out;
}

Result<SavedMap> parse(const std::string& text) {
  std::istringstream in(text);
  return parse_saved_map(in, "d.json");
}

void expect_refused(const std::string& text, const std::string& part) {
  const auto saved = parse(text);
  ASSERT_FALSE(saved) << part;
  EXPECT_EQ(saved.error().error_class, ErrorClass::caller);
  EXPECT_NE(saved.error().place.find(part), std::string::npos)
      << saved.error().place << "\nexpected: " << part;
  EXPECT_EQ(saved.error().place.find('\n'), std::string::npos);
  EXPECT_TRUE(saved.error().place.starts_with("d.json: "));
}

class SpareRestore : public testing::Test {
 protected:
  SpareRestore()
      : worn_(true),
        dump_(dump_of(spare())),
        saved_(*parse(dump_)),
        uuid_(saved_.superblock.uuid) {}

  Backend& spare() { return worn_.pair.spare; }
  void ruin(Backend& disk, const Range& range) {
    std::mt19937_64 random(7);
    const Range whole{round_down(range.begin, 512),
                      round_up(range.length, 512)};
    AlignedBuffer b(whole.length);
    for (std::byte& byte : b.bytes()) byte = static_cast<std::byte>(random());
    ASSERT_TRUE(disk.write({whole.begin}, b.bytes(), Durability::cached));
  }
  // All but the superblocks, or all.
  void ruin_maps(Backend& disk, bool superblocks) {
    for (CopyIndex c : kCopies) {
      const Layout& l = worn_.layout;
      const std::uint64_t begin = l.checkpoint(c, 0).value;
      ruin(disk, {begin, l.record(c, l.log_records).value - begin});
      if (superblocks) ruin(disk, {l.superblock(c).value, 512});
    }
  }
  Status restore(Backend& disk, const RestoreRequest& request) {
    const auto before = content_of(disk);
    const auto plan = plan_restore(disk, saved_, request);
    EXPECT_EQ(before, content_of(disk)) << "a plan writes nothing";
    if (!plan) return plan.error();
    reached_ = plan->reached;
    return write_fresh_map(disk, plan->superblock, saved_.state);
  }
  void expect_restored(Backend& disk) {
    const auto survey = survey_metadata(disk);
    ASSERT_TRUE(survey) << survey.error().text();
    ASSERT_TRUE(survey->best) << survey->refusal;
    EXPECT_TRUE(survey->copies_agree());
    EXPECT_TRUE(same(survey->chosen().state, worn_.truth));
    EXPECT_EQ(survey->superblock.uuid, uuid_);
    EXPECT_GT(survey->chosen().last_sequence, saved_.sequence);
    // And the server takes it, to go on with it.
    auto store =
        RemapStore::open(disk, binding_of(worn_.pair.main), false, no_log());
    ASSERT_TRUE(store) << store.error().text();
    EXPECT_EQ((*store)->table().snapshot(), worn_.truth.entries);
    EXPECT_EQ((*store)->status().slots.retired, worn_.truth.retired.size());
    EXPECT_TRUE((*store)->commit({remapped(3, *(*store)->take_slot())}));
  }
  void expect_no(Backend& disk, const RestoreRequest& request,
                 const std::string& part) {
    const Status status = restore(disk, request);
    ASSERT_FALSE(status) << part;
    EXPECT_NE(status.error().place.find(part), std::string::npos)
        << status.error().place << "\nexpected: " << part;
  }

  Worn worn_;
  const std::string dump_;
  SavedMap saved_;
  const Uuid uuid_;
  std::uint64_t reached_ = 0;
};

TEST_F(SpareRestore, a_dump_is_read_to_the_last_bit) {
  ASSERT_GT(worn_.truth.entries.size(), 60U);  // Mistake 51
  ASSERT_GT(worn_.truth.retired.size(), 2U);
  EXPECT_TRUE(same(saved_.state, worn_.truth));
  const Superblock sb = survey_metadata(spare())->superblock;
  EXPECT_EQ(saved_.superblock.layout, sb.layout);
  EXPECT_EQ(saved_.superblock.main_bytes, sb.main_bytes);
  EXPECT_EQ(saved_.superblock.main_identity, sb.main_identity);
  EXPECT_EQ(saved_.superblock.spare_identity, sb.spare_identity);
  EXPECT_EQ(saved_.superblock.created_unix_seconds, sb.created_unix_seconds);
  // White space is all that others may change.
  EXPECT_TRUE(same(parse(json::parse(dump_).dump(4))->state, worn_.truth));
  EXPECT_LT(json::parse(dump_).dump(8).size(),
            max_dump_bytes(kSmallSpareBytes));
}

TEST_F(SpareRestore, a_map_that_is_lost_in_both_copies_comes_back) {
  for (bool superblocks : {false, true}) {
    const auto disk = twin_of(spare());
    ruin_maps(*disk, superblocks);
    const auto survey = survey_metadata(*disk);
    ASSERT_FALSE(survey && survey->best);
    expect_no(*disk, {}, "type --replace=" + uuid_text(uuid_));
    expect_no(*disk, {random_uuid(), false}, "is " + uuid_text(uuid_));
    ASSERT_TRUE(restore(*disk, {uuid_, false}));
    EXPECT_EQ(reached_, superblocks ? 0 : saved_.sequence);
    expect_restored(*disk);
  }
}

TEST_F(SpareRestore, a_map_that_can_be_read_is_not_overwritten_unless_forced) {
  expect_no(spare(), {uuid_, false}, "its own map can still be read");
  {
    auto store = worn_.pair.open();
    map_blocks(*store, 500'000, 3);
  }
  const auto disk = twin_of(spare());
  expect_no(*disk, {uuid_, false}, "--lose-newer-data");
  expect_no(*disk, {std::nullopt, true}, "type --replace=");
  ASSERT_TRUE(restore(*disk, {uuid_, true}));
  EXPECT_GT(reached_, saved_.sequence);
  expect_restored(*disk);
}

// The dangerous case: an old dump, and no map on SPARE to compare it with but
// what is left of newer records.
TEST_F(SpareRestore, an_older_dump_than_what_the_disk_shows_is_refused) {
  {
    auto store = worn_.pair.open();
    map_blocks(*store, 500'000, 3);
  }
  const Layout& l = worn_.layout;
  for (bool superblocks : {false, true}) {
    const auto disk = twin_of(spare());
    for (CopyIndex c : kCopies) {
      for (unsigned area : {0U, 1U})
        ruin(*disk, {l.checkpoint(c, area).value, 4096});
      if (superblocks) ruin(*disk, {l.superblock(c).value, 512});
    }
    expect_no(*disk, {uuid_, false}, "it had reached sequence");
    ASSERT_TRUE(restore(*disk, {uuid_, true}));
    expect_restored(*disk);
  }
  // The superblocks alone tell it too, after an orderly stop.
  {
    auto store = worn_.pair.open();
    ASSERT_TRUE(store->close());
  }
  const auto disk = twin_of(spare());
  ruin_maps(*disk, false);
  expect_no(*disk, {uuid_, false}, "it had reached sequence");
}

TEST_F(SpareRestore, a_spare_that_was_formatted_by_mistake_gets_its_map_back) {
  const auto disk = twin_of(spare());
  FormatRequest format;
  format.replace = uuid_;
  const Uuid fresh = format_spare(*disk, worn_.pair.main, format)->uuid;
  expect_no(*disk, {}, "type --replace=" + uuid_text(fresh));
  expect_no(*disk, {uuid_, false}, "is " + uuid_text(fresh));
  const auto used = twin_of(*disk);
  ASSERT_TRUE(restore(*disk, {fresh, false}));
  EXPECT_EQ(reached_, 0U) << "nothing tells how far the old map had got";
  expect_restored(*disk);

  ASSERT_TRUE(worn_.pair.open(*used));
  expect_no(*used, {fresh, false}, "another SPARE, " + uuid_text(fresh));
  ASSERT_TRUE(restore(*used, {fresh, true}));
  expect_restored(*used);
}

TEST_F(SpareRestore, what_a_format_with_other_blocks_overwrote_is_not_led_to) {
  Pair pair(16 << 20);
  map_blocks(*pair.open(), 0, 9);
  saved_ = *parse(dump_of(pair.spare));
  FormatRequest format;
  format.replace = saved_.superblock.uuid;
  format.block_bytes = 8192;
  const auto other = format_spare(pair.spare, pair.main, format);
  ASSERT_TRUE(other) << other.error().text();
  expect_no(pair.spare, {other->uuid, true}, "blocks of 8192");
}

TEST_F(SpareRestore, the_map_of_an_enlarged_spare_comes_back) {
  BackendInfo info = spare().info();
  info.size_bytes *= 4;
  MemoryBackend large(info);
  ASSERT_TRUE(large.write({0}, content_of(spare()), Durability::cached));
  const auto grown = grow_spare(large, no_log());
  ASSERT_TRUE(grown) << grown.error().text();
  worn_.layout = grown->layout;
  ASSERT_TRUE(worn_.layout.grown());
  {
    auto store = worn_.pair.open(large);
    for (std::uint64_t block = 600'000;; ++block) {
      const auto slot = store->take_slot();
      if (!slot) break;
      ASSERT_TRUE(store->commit({remapped(block, *slot)}));
    }
    ASSERT_TRUE(store->close());
  }
  worn_.truth = map_on(large);
  ASSERT_GT(worn_.truth.entries.size(), saved_.state.entries.size());
  const auto old = parse(dump_);
  saved_ = *parse(dump_of(large));
  EXPECT_TRUE(same(saved_.state, worn_.truth));
  ruin_maps(large, true);
  ASSERT_FALSE(plan_restore(large, *old, {uuid_, true})) << "of another size";
  ASSERT_TRUE(restore(large, {uuid_, false}));
  const auto survey = survey_metadata(large);
  ASSERT_TRUE(survey && survey->best);
  EXPECT_EQ(survey->superblock.layout, worn_.layout);
  EXPECT_TRUE(same(survey->chosen().state, worn_.truth));
  // A number over the head copy is no slot.
  std::uint64_t none = 0;
  while (worn_.layout.has_slot({none})) ++none;
  ASSERT_LT(none, worn_.layout.slot_end());
  for (RemapEntry& e : saved_.state.entries)
    if (e.remapped()) {
      e.slot_or_none = none;
      break;
    }
  EXPECT_FALSE(check_saved(saved_));
}

// Mistake 12
TEST_F(SpareRestore, another_disk_is_refused) {
  BackendInfo info = spare().info();
  info.identity = "serial 2";
  MemoryBackend other(info);
  expect_no(other, {uuid_, true}, "the data that it leads to is not here");
  info = spare().info();
  info.size_bytes += 1 << 20;
  MemoryBackend larger(info);
  expect_no(larger, {uuid_, true}, "is the map of a SPARE of");
  info = spare().info();
  info.can_flush = false;
  MemoryBackend unsure(info);
  expect_no(unsure, {uuid_, true}, "no FLUSH");
  info.can_flush = info.read_only = true;
  MemoryBackend fixed(info);
  expect_no(fixed, {uuid_, true}, "read-only");
}

TEST_F(SpareRestore, a_power_cut_leaves_no_map_or_the_whole_one) {
  const auto ruined = twin_of(spare());
  ruin_maps(*ruined, false);
  CrashBackend base(kSmallSpareBytes);
  ASSERT_TRUE(base.write({0}, content_of(*ruined), Durability::fua));
  saved_.superblock.spare_identity = stored_identity(base.info().identity);
  const RestoreRequest request{uuid_, false};
  std::set<std::string> ends;
  bool finished = false;
  for (std::uint64_t cut = 0; !finished; ++cut)
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      SCOPED_TRACE(testing::Message() << "cut " << cut << " seed " << seed);
      auto disk = base.crashed_copy([](auto, auto) { return 0; });
      const auto plan = plan_restore(*disk, saved_, request);
      ASSERT_TRUE(plan) << plan.error().text();
      disk->power_cut_after(cut);
      finished = write_fresh_map(*disk, plan->superblock, saved_.state).ok();
      disk->crash(seed);
      const auto survey = survey_metadata(*disk);
      if (!survey || !survey->best) {
        ends.insert("none");
        // And it can be done again.
        ASSERT_TRUE(restore(*disk, request));
      } else {
        ends.insert("whole");
      }
      EXPECT_TRUE(same(map_on(*disk), worn_.truth));
    }
  EXPECT_EQ(ends, (std::set<std::string>{"none", "whole"}));
}

TEST_F(SpareRestore, a_file_that_is_cut_or_rubbish_is_refused) {
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
TEST_F(SpareRestore, a_field_that_cannot_be_is_named) {
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
TEST_F(SpareRestore, a_map_that_contradicts_itself_is_refused) {
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
