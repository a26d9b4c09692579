// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <string>

#include "plugins/spare_tool/check_command.hpp"
#include "plugins/spare_tool/dump_command.hpp"
#include "plugins/spare_tool/format_command.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMainBytes = 10 * 4096 + 1024;

Superblock superblock() {
  Superblock sb;
  sb.uuid[0] = 0xab;
  sb.sequence = 3;
  sb.owner_epoch = 2;
  sb.main_bytes = kMainBytes;
  sb.layout = *compute_layout(4 << 20, 4096);
  sb.main_identity = "serial \x1b[2J";
  sb.spare_identity = "not utf-8 \xff";
  return sb;
}

MetadataSurvey sound_survey() {
  MetadataSurvey survey;
  survey.superblock = superblock();
  for (CopySurvey& copy : survey.copies) {
    copy.superblock = survey.superblock;
    copy.checkpoint_sequence = 5;
    copy.log_length = 2;
    copy.last_sequence = 7;
    copy.max_sequence_seen = 7;
    copy.closed = true;
    copy.state.entries = {{BlockNo{0}, 0, 0xff},
                          {BlockNo{3}, RemapEntry::kNoSlot, 0xfe},
                          // The last block: two of its sectors exist.
                          {BlockNo{10}, 831, 0x01}};
    copy.state.retired = {SlotNo{4}, SlotNo{9}};
  }
  survey.best = CopyIndex::head;
  return survey;
}

CopySurvey& tail(MetadataSurvey& survey) { return survey.copies[1]; }

TEST(SpareCheck, two_sound_copies_that_a_crash_can_leave_are_sound) {
  MetadataSurvey survey = sound_survey();
  EXPECT_EQ(judge(survey), Verdict::sound);
  tail(survey).last_sequence = 6;
  EXPECT_EQ(judge(survey), Verdict::sound);
}

TEST(SpareCheck, one_copy_that_is_not_whole_is_repairable) {
  MetadataSurvey survey = sound_survey();
  tail(survey).last_sequence = 5;
  EXPECT_EQ(judge(survey), Verdict::repairable);
  survey = sound_survey();
  tail(survey).in_step = false;
  EXPECT_EQ(judge(survey), Verdict::repairable);
  survey = sound_survey();
  tail(survey).damages = {"tail copy: no checkpoint"};
  EXPECT_EQ(judge(survey), Verdict::repairable);
}

TEST(SpareCheck, without_a_copy_to_believe_it_is_damaged) {
  MetadataSurvey survey = sound_survey();
  survey.best.reset();
  EXPECT_EQ(judge(survey), Verdict::damaged);
}

TEST(SpareCheck, the_words_that_scripts_know_do_not_change) {
  EXPECT_EQ(static_cast<int>(Verdict::sound), 0);
  EXPECT_EQ(static_cast<int>(Verdict::repairable), 1);
  EXPECT_EQ(static_cast<int>(Verdict::damaged), 2);
  EXPECT_EQ(static_cast<int>(Verdict::unknown), 3);
  EXPECT_STREQ(verdict_word(Verdict::sound), "sound");
  EXPECT_STREQ(verdict_word(Verdict::repairable), "repairable");
  EXPECT_STREQ(verdict_word(Verdict::damaged), "damaged");
}

TEST(SpareCheck, a_report_says_what_each_copy_has) {
  CheckReport report;
  report.verdict = Verdict::repairable;
  report.spare_name = "/dev/sdc";
  report.survey = sound_survey();
  tail(*report.survey).damages = {"tail copy: a hole\n"};
  const std::string text = render_check(report, false);
  EXPECT_EQ(text,
            "/dev/sdc: repairable\n"
            "UUID       ab000000-0000-0000-0000-000000000000, for a MAIN of "
            "41.0 KiB (41984 bytes)\n"
            "head copy  sound, sequence 7 (checkpoint 5, 2 records after it)\n"
            "tail copy  damaged, sequence 7 (checkpoint 5, 2 records after "
            "it)\n"
            "           - tail copy: a hole\\n\n"
            "Newest     sequence 7, in the head copy; the last server stopped "
            "in order\n"
            "Holds      2 remapped blocks, 1 pending; 2 of 832 slots used, 2 "
            "retired\n");
  const json j = json::parse(render_check(report, true));
  EXPECT_EQ(j["verdict"], "repairable");
  EXPECT_EQ(j["believed"], "head");
  EXPECT_EQ(j["remapped"], 2);
  EXPECT_EQ(j["pending"], 1);
  EXPECT_EQ(j["retired"], 2);
  EXPECT_EQ(j["stopped_in_order"], true);
  EXPECT_EQ(j["copies"][1]["damages"][0], "tail copy: a hole\n");
}

std::string dump(const MetadataSurvey& survey, bool entries) {
  std::string out;
  EXPECT_TRUE(write_dump("s", survey, entries, [&](std::string_view text) {
    out += text;
    return true;
  }));
  return out;
}

TEST(SpareDump, entries_have_their_places_and_what_cannot_be_read) {
  const json j = json::parse(dump(sound_survey(), true));
  const Layout layout = superblock().layout;
  ASSERT_EQ(j["entries"].size(), 3U);
  EXPECT_EQ(j["entry_count"], 3);
  EXPECT_EQ(j["entries"][0],
            json({{"block", 0},
                  {"offset", 0},
                  {"kind", "remapped"},
                  {"valid", "0xff"},
                  {"slot", 0},
                  {"slot_offset", layout.slot(SlotNo{0}).value},
                  {"unreadable_sectors", json::array()}}));
  EXPECT_EQ(j["entries"][1]["kind"], "pending");
  EXPECT_TRUE(j["entries"][1]["slot"].is_null());
  EXPECT_EQ(j["entries"][1]["unreadable_sectors"], json::array({24}));
  EXPECT_EQ(j["entries"][1]["valid"], "0xfe");
  EXPECT_EQ(j["entries"][2]["slot"], 831);
  EXPECT_EQ(j["entries"][2]["unreadable_sectors"], json::array({81}));
  EXPECT_EQ(j["retired_slots"], json::array({4, 9}));
  EXPECT_EQ(j["superblock"]["uuid"], "ab000000-0000-0000-0000-000000000000");
  EXPECT_EQ(j["layout"]["slots"], layout.slots);
  EXPECT_EQ(j["believed"], "head");
}

TEST(SpareDump, without_entries_or_without_belief_there_are_none) {
  EXPECT_FALSE(json::parse(dump(sound_survey(), false)).contains("entries"));
  MetadataSurvey survey = sound_survey();
  survey.best.reset();
  survey.refusal = "both copies\x1b";
  const json j = json::parse(dump(survey, true));
  EXPECT_FALSE(j.contains("entries"));
  EXPECT_TRUE(j["believed"].is_null());
  EXPECT_EQ(j["refusal"], "both copies\x1b");
}

TEST(SpareDump, a_million_entries_go_out_in_pieces_and_a_full_disk_ends_it) {
  MetadataSurvey survey = sound_survey();
  auto& entries = survey.copies[0].state.entries;
  entries.clear();
  for (std::uint64_t i = 0; i < 1'000'000; ++i)
    entries.push_back({BlockNo{i}, i, 0xff});
  std::size_t largest = 0;
  std::size_t lines = 0;
  EXPECT_TRUE(write_dump("s", survey, true, [&](std::string_view text) {
    largest = std::max(largest, text.size());
    lines +=
        static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    return true;
  }));
  EXPECT_GT(lines, 1'000'000U);
  EXPECT_LT(largest, 128U << 10);
  int pieces = 0;
  EXPECT_FALSE(write_dump("s", survey, true,
                          [&](std::string_view) { return ++pieces < 3; }));
  EXPECT_EQ(pieces, 3);
}

TEST(SpareFormat, everything_found_must_be_given_up_by_its_name) {
  const std::string ext4 = "0ed7764e-cc51-4916-bbff-0f6605f4ccdf";
  const std::string spare = "cc33c12e-c33f-4c68-af57-1fa0ae448444";
  const std::vector<Signature> found{{"ext4", ext4, 1080, 2},
                                     {"dos", "", 510, 2}};
  struct Case {
    std::vector<std::string> replace;
    int errnum;  // 0: goes on
    std::string words;
  };
  for (const Case& c : {
           Case{{},
                EEXIST,
                "holds ext4 " + ext4 +
                    " and dos; to destroy it, "
                    "type --replace=" +
                    ext4 + " --replace=dos"},
           Case{{ext4}, EEXIST, "holds dos;"},
           Case{{"dos", "ext4"}, EEXIST, "holds ext4 "},
           Case{{spare}, EEXIST, "holds ext4 "},
           Case{{ext4, "DOS"}, 0, ""},
           Case{{ext4, "dos", "gpt"}, EINVAL, "nothing called gpt"},
           Case{{ext4, "dos", spare, ext4.substr(1) + "0"},
                EINVAL,
                "nothing called ed7764e"},
       }) {
    const auto left = match_replace("/dev/x", found, c.replace);
    EXPECT_EQ(left.ok(), c.errnum == 0);
    if (left) continue;
    EXPECT_EQ(left.error().errnum, c.errnum);
    EXPECT_NE(left.error().place.find(c.words), std::string::npos)
        << left.error().place;
  }
  const auto left = match_replace("/dev/x", found, {"dos", spare, ext4});
  ASSERT_TRUE(left);
  EXPECT_EQ(**left, *parse_uuid(spare));
  EXPECT_EQ(*match_replace("/dev/x", {}, {}), std::nullopt);
}

TEST(SpareFormat, the_report_says_what_can_be_used) {
  const FormatReport report{"/dev/a\n", "/dev/b", true, superblock()};
  const std::string text = render_format(report, false);
  EXPECT_NE(text.find("/dev/b is now the SPARE of /dev/a\\n.\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("Capacity    3.2 MiB (3407872 bytes): 832 slots of 4096 "
                      "bytes\n"),
            std::string::npos)
      << text;
  const json j = json::parse(render_format(report, true));
  EXPECT_EQ(j["slots"], 832);
  EXPECT_EQ(j["capacity"], 3407872);
  EXPECT_EQ(j["block_size"], 4096);
  EXPECT_EQ(j["main"]["size"], kMainBytes);
}

}  // namespace
}  // namespace nbd_remap
