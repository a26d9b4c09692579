// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare, as people and scripts meet it.
#include <fmt/format.h>

#include "plugins/spare_tool/signatures.hpp"
#include "tests/e2e/remapctl_fixture.hpp"

namespace nbd_remap {
namespace {

TEST_F(RemapctlTest, format_prints_what_is_then_on_spare) {
  Ended ended = format({"--json"});
  ASSERT_EQ(ended.status, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  const json j = json::parse(ended.out);
  const Superblock first = survey().superblock;
  EXPECT_EQ(j["uuid"], uuid_text(first.uuid));
  EXPECT_EQ(j["block_size"], first.layout.block_bytes);
  EXPECT_EQ(j["slots"], first.layout.slots);
  EXPECT_EQ(j["capacity"], first.layout.slots * first.layout.block_bytes);
  EXPECT_EQ(j["main"]["size"], 8 << 20);
  EXPECT_EQ(j["spare"]["size"], 4 << 20);

  ended = format({"--replace=" + uuid_text(first.uuid), "--block-size=8K"});
  ASSERT_EQ(ended.status, 0) << ended.err;
  const Superblock second = survey().superblock;
  EXPECT_NE(second.uuid, first.uuid);
  EXPECT_EQ(second.layout.block_bytes, 8192U);
  for (const std::string& words :
       {uuid_text(second.uuid), fmt::to_string(second.layout.slots) + " slots",
        fmt::format("({} bytes)", second.layout.slots * 8192)})
    EXPECT_NE(ended.out.find(words), std::string::npos) << words << "\n"
                                                        << ended.out;
}

// Mistake 4: what format promises can be used.
TEST_F(RemapctlTest, the_printed_capacity_can_be_used) {
  const json j = json::parse(format({"--json"}).out);
  const auto main = open(main_);
  const auto spare = open(spare_);
  Binding binding;
  binding.main_bytes = main->info().size_bytes;
  binding.main_identity = main->info().identity;
  auto store = RemapStore::open(*spare, binding, false,
                                [](LogLevel, std::string_view) {});
  ASSERT_TRUE(store) << store.error().text();
  std::uint64_t slots = 0;
  while ((*store)->take_slot()) ++slots;
  EXPECT_EQ(j["slots"], slots);
  EXPECT_GT(slots, 0U);
}

// Mistake 12
TEST_F(RemapctlTest, each_refusal_of_format_leaves_both_files_as_they_were) {
  const auto words = [&](const std::string& main, const std::string& spare) {
    return Words{"spare", "format", "--main=" + main, "--spare=" + spare};
  };
  // Small: they are compared whole, again and again.
  make(main_, 1 << 20);
  make(spare_, 1 << 20);
  ASSERT_EQ(format().status, 0);
  const std::string uuid = uuid_text(survey().superblock.uuid);
  const std::string other = "11111111-2222-3333-4444-555555555555";

  expect_refusal(format_words(), 4, "type --replace=" + uuid);
  Words replace = format_words();
  replace.push_back("--replace=" + other);
  expect_refusal(replace, 4, uuid);
  replace.back() = "--replace=rubbish";
  expect_refusal(replace, 1, "nothing called rubbish");
  expect_refusal(words(spare_, main_), 4, "is itself a SPARE, " + uuid);
  expect_refusal(words(spare_, spare_), 1, "the same disk");
  const std::string link = dir_ + "/link";
  fs::create_symlink(spare_, link);
  expect_refusal(words(link, spare_), 1, "the same disk");
  fs::create_hard_link(main_, dir_ + "/hard");
  expect_refusal(words(main_, dir_ + "/hard"), 1, "the same disk");

  const std::string small = dir_ + "/small";
  make(small, 64 << 10);
  expect_refusal(words(main_, small), 1, "too small for a SPARE: ");
  EXPECT_EQ(content(small), std::string(64 << 10, '\0'));

  // One that was never a SPARE: no UUID of one fits.
  make(spare_, 0);
  make(spare_, 1 << 20);
  expect_refusal(replace, 1, "nothing called rubbish");
  replace.back() = "--replace=" + other;
  expect_refusal(replace, 1, "no SPARE " + other);
  for (const char* size : {"0", "4095", "2K", "64K", "12K", "x", "-4K"}) {
    replace.back() = fmt::format("--block-size={}", size);
    expect_refusal(replace, 2, fmt::format("--block-size={}: expected", size));
  }
  expect_refusal(words(dir_, spare_), 1, "a directory");
  expect_refusal(words(main_, dir_), 1, "a directory");
  expect_refusal(words(dir_ + "/none", spare_), 3, "no such file");
  expect_refusal(words(main_, dir_ + "/none"), 3, "no such file");
  EXPECT_FALSE(fs::exists(dir_ + "/none"));
  expect_refusal(words("/dev/null", spare_), 1, "a character device");
  expect_refusal(words(main_, "nbd+unix:///?socket=" + dir_ + "/none"), 3,
                 "nbd");
  ASSERT_EQ(format().status, 0) << "after all that it still can be formatted";
}

TEST_F(RemapctlTest, what_another_program_holds_is_in_use) {
  ASSERT_EQ(format().status, 0);
  const std::string uuid = uuid_text(survey().superblock.uuid);
  Words replace = format_words();
  replace.push_back("--replace=" + uuid);
  {
    const auto server = open(spare_);
    expect_refusal(replace, 4, "in use");
    expect_refusal({"spare", "check", spare_}, 3, "in use");
    expect_refusal({"spare", "dump", spare_}, 4, "in use");
  }
  {
    const auto server = open(main_);
    expect_refusal(replace, 4, "in use");
    expect_refusal({"spare", "check", spare_, "--main=" + main_}, 3, "in use");
  }
  EXPECT_EQ(run({"spare", "check", spare_}).status, 0);
}

// A RAID member of metadata 1.2: its superblock is at 4096, where format itself
// writes nothing.
TEST_F(RemapctlTest, what_else_is_there_must_be_named_and_is_then_gone) {
  const std::string uuid = "0ed7764e-cc51-4916-bbff-0f6605f4ccdf";
  std::string raid(256, '\0');
  raid.replace(0, 8, std::string("\xfc\x4e\x2b\xa9\1\0\0\0", 8));
  const Uuid bytes = *parse_uuid(uuid);
  raid.replace(16, 16, std::string(bytes.begin(), bytes.end()));
  raid[144] = 8;  // where it is, in sectors
  {
    std::fstream file(spare_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(4096);
    file << raid;
    ASSERT_TRUE(file.flush());
  }
  ASSERT_EQ(find_signatures(spare_)->size(), 1U);
  expect_refusal(format_words(), 4, "holds linux_raid_member " + uuid);
  Words replace = format_words();
  replace.push_back("--replace=linux_raid_member");
  expect_refusal(replace, 4, "holds linux_raid_member " + uuid);
  const Ended ended = format({"--replace=" + uuid});
  ASSERT_EQ(ended.status, 0) << ended.err;
  EXPECT_EQ(find_signatures(spare_)->size(), 0U);
  EXPECT_EQ(run({"spare", "check", spare_}).status, 0);
}

TEST_F(RemapctlTest, check_tells_sound_from_repairable_from_damaged) {
  ASSERT_EQ(format().status, 0);
  Ended ended = run({"spare", "check", spare_});
  EXPECT_EQ(ended.status, 0);
  EXPECT_NE(ended.out.find("no server has used it"), std::string::npos);
  use_spare(true);
  ended = run({"spare", "check", spare_, "--main=" + main_});
  EXPECT_EQ(ended.status, 0) << ended.out;
  EXPECT_NE(ended.out.find("spare.img: sound\n"), std::string::npos);
  EXPECT_NE(ended.out.find("stopped in order"), std::string::npos);
  EXPECT_NE(ended.out.find("2 remapped blocks, 1 pending; 2 of "),
            std::string::npos)
      << ended.out;
  EXPECT_NE(ended.out.find("1 retired"), std::string::npos);
  use_spare(false);
  ended = run({"spare", "check", spare_});
  EXPECT_EQ(ended.status, 0) << ended.out;
  EXPECT_NE(ended.out.find("did not stop in order"), std::string::npos);

  // The current checkpoint of one copy, then of the other.
  const MetadataSurvey before = survey();
  const Layout& layout = before.superblock.layout;
  for (unsigned area : {0U, 1U})
    damage(layout.checkpoint(CopyIndex::head, area));
  const std::string one_damaged = content(spare_);
  ended = run({"spare", "check", spare_});
  EXPECT_EQ(ended.status, 1) << ended.out;
  EXPECT_NE(ended.out.find("spare.img: repairable\n"), std::string::npos);
  EXPECT_NE(ended.out.find("- head copy: "), std::string::npos) << ended.out;
  json j = json::parse(run({"spare", "check", spare_, "--json"}).out);
  EXPECT_EQ(j["verdict"], "repairable");
  EXPECT_EQ(j["believed"], "tail");
  for (unsigned area : {0U, 1U})
    damage(layout.checkpoint(CopyIndex::tail, area));
  ended = run({"spare", "check", spare_});
  EXPECT_EQ(ended.status, 2) << ended.out;
  EXPECT_NE(ended.out.find("spare.img: damaged\n"), std::string::npos);
  j = json::parse(run({"spare", "check", spare_, "--json"}).out);
  EXPECT_EQ(j["verdict"], "damaged");
  // check has mended nothing, and dump invents nothing.
  ended = run({"spare", "dump", spare_});
  EXPECT_EQ(ended.status, 1);
  EXPECT_FALSE(json::parse(ended.out).contains("entries"));
  EXPECT_NE(ended.err.find("no copy"), std::string::npos) << ended.err;

  std::ofstream(spare_, std::ios::binary) << one_damaged;
  damage(layout.superblock(CopyIndex::head));
  EXPECT_EQ(run({"spare", "check", spare_}).status, 1);
  damage(DeviceOffset{layout.superblock(CopyIndex::head).value + 512});
  EXPECT_EQ(run({"spare", "check", spare_}).status, 1);
}

TEST_F(RemapctlTest, check_says_what_does_not_belong_together) {
  ASSERT_EQ(format().status, 0);
  const std::string other = dir_ + "/other";
  make(other, 8 << 20);
  Ended ended = run({"spare", "check", spare_, "--main=" + other});
  EXPECT_EQ(ended.status, 2);
  EXPECT_NE(ended.out.find("spare.img: mismatch\n"), std::string::npos)
      << ended.out;
  EXPECT_NE(ended.out.find("another MAIN"), std::string::npos) << ended.out;
  // Mistake 12: a copy of SPARE.
  fs::copy_file(spare_, dir_ + "/copy");
  ended = run({"spare", "check", dir_ + "/copy"});
  EXPECT_EQ(ended.status, 0);
  EXPECT_NE(ended.out.find("note: a copy"), std::string::npos) << ended.out;
  fs::resize_file(spare_, (4 << 20) + 4096);
  EXPECT_NE(run({"spare", "check", spare_}).status, 0);
}

TEST_F(RemapctlTest, dump_is_what_the_survey_reads) {
  ASSERT_EQ(format().status, 0);
  use_spare(true);
  const Ended ended = run({"spare", "dump", spare_});
  ASSERT_EQ(ended.status, 0) << ended.err;
  const json j = json::parse(ended.out);
  const MetadataSurvey want = survey();
  const Superblock& sb = want.superblock;
  const MapState& state = want.chosen().state;
  ASSERT_EQ(state.entries.size(), 3U);
  ASSERT_EQ(j["entries"].size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    const RemapEntry& e = state.entries[i];
    const json& got = j["entries"][i];
    EXPECT_EQ(got["block"], e.block.value);
    EXPECT_EQ(got["offset"], e.block.value * 4096);
    EXPECT_EQ(got["kind"], e.remapped() ? "remapped" : "pending");
    if (!e.remapped()) continue;
    EXPECT_EQ(got["slot"], e.slot().value);
    EXPECT_EQ(got["slot_offset"], sb.layout.slot(e.slot()).value);
  }
  EXPECT_EQ(j["entries"][1]["unreadable_sectors"], json::array({41}));
  EXPECT_EQ(j["entries"][2]["unreadable_sectors"],
            json::array({16380, 16381, 16382, 16383}));
  EXPECT_EQ(j["retired_slots"], json::array({state.retired.at(0).value}));
  EXPECT_EQ(j["superblock"]["uuid"], uuid_text(sb.uuid));
  EXPECT_EQ(j["sequence"], want.chosen().last_sequence);
  EXPECT_EQ(j["stopped_in_order"], true);
  EXPECT_FALSE(json::parse(run({"spare", "dump", spare_, "--entries=no"}).out)
                   .contains("entries"));
}

}  // namespace
}  // namespace nbd_remap
