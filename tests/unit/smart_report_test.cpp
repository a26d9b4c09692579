// SPDX-License-Identifier: BSD-3-Clause
// What smartctl said, of good and bad disks, and what never was smartctl's.
#include "server/smart_report.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <sstream>

#include "plugins/base/tool_text.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;
using Count = std::optional<std::uint64_t>;

std::string fixture(const std::string& name) {
  std::ifstream in(std::string(SMART_FIXTURES "/") + name);
  std::ostringstream out;
  out << in.rdbuf();
  EXPECT_FALSE(out.str().empty()) << name;
  return out.str();
}
SmartReport report(const std::string& name) {
  auto parsed = parse_smart(fixture(name), name);
  EXPECT_TRUE(parsed) << parsed.error().place;
  return parsed ? *parsed : SmartReport();
}

TEST(SmartReport, the_counts_of_each_kind_of_disk_are_read) {
  struct Case {
    const char* file;
    const char* protocol;
    std::optional<bool> passed;
    Count pending;
    Count reallocated;
    Count uncorrected;
    std::size_t lbas;
  };
  for (const Case& c : std::vector<Case>{
           {"ata-healthy.json", "ATA", true, 0, 0, 0, 0},
           {"ata-pending.json", "ATA", true, 8, 16, 8, 8},
           {"ata-failing.json", "ATA", false, 8, 1975, 0, 0},
           {"sas-healthy.json", "SCSI", true, 0, 0, 0, 0},
           {"sas-failing.json", "SCSI", true, 2, 0, 7, 6},
           {"sas-failing-index.json", "SCSI", true, 2, 0, 7, 2},
           {"nvme-healthy.json", "NVMe", true, {}, {}, 0, 0},
           {"nvme-media-errors.json", "NVMe", true, {}, {}, 7, 0},
           {"nvme-failing.json", "NVMe", false, {}, {}, 121, 0},
       }) {
    const SmartReport r = report(c.file);
    EXPECT_EQ(r.protocol, c.protocol) << c.file;
    EXPECT_EQ(r.passed, c.passed) << c.file;
    EXPECT_EQ(r.pending, c.pending) << c.file;
    EXPECT_EQ(r.reallocated, c.reallocated) << c.file;
    EXPECT_EQ(r.uncorrected, c.uncorrected) << c.file;
    EXPECT_EQ(r.lbas.size(), c.lbas) << c.file;
    EXPECT_EQ(r.block_bytes, 512U) << c.file;
    EXPECT_FALSE(r.model.empty()) << c.file;
    EXPECT_FALSE(smart_words(r).empty()) << c.file;
  }
  EXPECT_EQ(report("nvme-failing.json").spare_percent, 4U);
  EXPECT_EQ(report("nvme-failing.json").used_percent, 103U);
  EXPECT_TRUE(report("nvme-failing.json").below_threshold);
  EXPECT_TRUE(report("ata-failing.json").below_threshold);
  EXPECT_FALSE(report("ata-pending.json").below_threshold);
}

TEST(SmartReport, the_unreadable_come_before_the_recovered_and_none_twice) {
  EXPECT_EQ(report("ata-pending.json").lbas.front(), 22791960168U);
  const std::vector<std::uint64_t> expected{0xefaf7808, 0xefaf7809, 0xefaf7858,
                                            0xefaf7a90, 0xeed2ee30, 0xf7def2d8};
  EXPECT_EQ(report("sas-failing.json").lbas, expected);
}

TEST(SmartReport, the_exit_status_of_smartctl_is_read_bit_by_bit) {
  json said = json::parse(fixture("ata-healthy.json"));
  for (int bit = 0; bit < 8; ++bit) {
    said["smartctl"]["exit_status"] = 1U << bit;
    const auto parsed = parse_smart(said.dump(), "x");
    ASSERT_EQ(parsed.ok(), bit > 1) << bit;
    if (!parsed) continue;
    EXPECT_EQ(parsed->passed, bit != 3) << bit;
    EXPECT_EQ(parsed->below_threshold, bit == 4) << bit;
  }
}

TEST(SmartReport, what_says_nothing_is_refused_in_one_line_that_says_why) {
  struct Case {
    std::string text;
    const char* why;
    int errnum;
  };
  const std::string whole = fixture("ata-pending.json");
  std::string nested(1000, '[');
  std::string rubbish =
      "\x7f"
      "ELF\x02\x01\x01";
  rubbish += std::string(3, '\0') + "\xff\xfe\n";
  for (const Case& c : std::vector<Case>{
           {fixture("virtual-disk.json"), "Unable to detect device type", EIO},
           {fixture("usb-bridge.json"), "Unknown USB bridge", EIO},
           {fixture("cannot-open.json"), "No such device", EIO},
           {fixture("no-smart.json"), "no SMART data", ENODATA},
           {whole.substr(0, whole.size() / 2), "ends too early", EINVAL},
           {rubbish, "no JSON from byte", EINVAL},
           {"", "ends too early", EINVAL},
           {"[]", "expected what smartctl", EINVAL},
           {"null", "expected what smartctl", EINVAL},
           {R"({"smartctl":{"exit_status":-1}})", "expected what", EINVAL},
           {R"({"smartctl":[]})", "expected what smartctl", EINVAL},
           {nested, "too deep", EINVAL},
           {std::string(kMaxSmartBytes + 1, ' '), "too large", EINVAL},
       }) {
    const auto parsed = parse_smart(c.text, "saved.json");
    ASSERT_FALSE(parsed) << c.why;
    const std::string& line = parsed.error().place;
    EXPECT_NE(line.find(c.why), std::string::npos) << line;
    EXPECT_EQ(line.find("saved.json: "), 0U) << line;
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    EXPECT_LT(line.size(), 200U);
    EXPECT_EQ(parsed.error().errnum, c.errnum) << line;
  }
}

TEST(SmartReport, a_number_that_is_packed_with_others_is_taken_out) {
  json said = json::parse(fixture("ata-pending.json"));
  json& raw = said["ata_smart_attributes"]["table"][0]["raw"];
  raw = {{"value", 2000ULL << 16 | 8}, {"string", "8 (2000 0)"}};
  EXPECT_EQ(parse_smart(said.dump(), "x")->reallocated, 8U);
  raw["string"] = "0x0008";
  raw["value"] = 9;
  EXPECT_EQ(parse_smart(said.dump(), "x")->reallocated, 9U);
}

TEST(SmartReport, every_truncation_is_refused) {
  const std::string whole = fixture("sas-failing.json");
  const std::size_t end = whole.find_last_of('}');
  for (std::size_t n = 0; n <= end; ++n)
    ASSERT_FALSE(parse_smart(std::string_view(whole).substr(0, n), "x")) << n;
}

// Each member in turn is of a wrong type, huge or negative: never a crash, and
// what is left is still read.
TEST(SmartReport, a_member_of_another_type_is_as_if_it_were_not_there) {
  for (const char* file : {"ata-pending.json", "sas-failing.json",
                           "sas-failing-index.json", "nvme-failing.json"}) {
    const json whole = json::parse(fixture(file)).flatten();
    for (const auto& [path, value] : whole.items())
      for (const json& odd :
           {json("text"), json(-1), json(1.5), json(), json(true),
            json(~std::uint64_t{0}), json::array({1}), json{{"lba", "x"}}}) {
        json changed = whole.unflatten();
        changed[json::json_pointer(path)] = odd;
        const auto parsed = parse_smart(changed.dump(), file);
        if (!parsed) {
          EXPECT_NE(path.find("exit_status"), std::string::npos) << path << odd;
          continue;
        }
        EXPECT_LE(parsed->pending.value_or(0), 27344764928U * 2) << path;
      }
  }
  json huge = json::parse(fixture("ata-pending.json"));
  huge["ata_pending_defects_log"]["count"] = ~std::uint64_t{0};
  EXPECT_EQ(parse_smart(huge.dump(), "x")->pending, 8U);
}

TEST(SmartReport, a_place_behind_the_end_of_the_disk_is_none) {
  for (const char* file : {"ata-pending.json", "sas-failing.json"}) {
    json whole = json::parse(fixture(file));
    const SmartReport said = report(file);
    ASSERT_FALSE(said.lbas.empty());
    const auto last = *std::max_element(said.lbas.begin(), said.lbas.end());
    whole["user_capacity"]["blocks"] = last + 1;
    EXPECT_EQ(parse_smart(whole.dump(), file)->lbas, said.lbas);
    whole["user_capacity"]["blocks"] = last;
    const auto fewer = parse_smart(whole.dump(), file);
    EXPECT_EQ(fewer->lbas.size(), said.lbas.size() - 1);
    EXPECT_EQ(std::count(fewer->lbas.begin(), fewer->lbas.end(), last), 0);
    EXPECT_EQ(fewer->more_lbas, 0U);
  }
}

TEST(SmartReport, a_million_entries_cost_no_more_than_a_line) {
  std::string many = R"({"smartctl":{"exit_status":0},"logical_block_size":512,
    "ata_pending_defects_log":{"count":1000000,"table":[)";
  for (int i = 0; i < 1'000'000; ++i)
    many += (i == 0 ? "{\"lba\":" : ",{\"lba\":") + std::to_string(i) + "}";
  const auto refused = parse_smart(many + "]}}", "x");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().place.find("too large"), std::string::npos);
}

TEST(SmartReport, more_places_than_any_log_has_are_counted_only) {
  json many = json::parse(fixture("ata-pending.json"));
  json& table = many["ata_pending_defects_log"]["table"];
  for (std::uint64_t i = 0; i < kMaxSmartLbas; ++i)
    table.push_back({{"lba", i}});
  const auto parsed = parse_smart(many.dump(), "x");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->lbas.size(), kMaxSmartLbas);
  EXPECT_EQ(parsed->more_lbas, 8U);
}

SmartReport at(std::vector<std::uint64_t> lbas, std::uint32_t bytes = 512) {
  SmartReport r;
  r.block_bytes = bytes;
  r.lbas = std::move(lbas);
  return r;
}

TEST(SmartSeeds, lbas_become_blocks_of_the_volume) {
  using Ranges = std::vector<ByteRange>;
  constexpr std::uint64_t kSize = 100 * 4096;
  // All of a whole disk; the last one reaches beyond it.
  SmartSeeds seeds =
      place_seeds(at({0, 7, 8, 799, 800, ~std::uint64_t{0}}), 0, kSize, 4096);
  EXPECT_EQ(seeds.ranges, (Ranges{{0, 2 * 4096}, {99 * 4096, 4096}}));
  EXPECT_EQ(seeds.outside, 2U);
  // A partition from LBA 2048.
  seeds = place_seeds(at({2047, 2048, 2048 + 799, 2048 + 800}), 2048 * 512,
                      kSize, 4096);
  EXPECT_EQ(seeds.ranges, (Ranges{{0, 4096}, {99 * 4096, 4096}}));
  EXPECT_EQ(seeds.outside, 2U);
  // Blocks of 4096 bytes across the partition's start and end.
  seeds = place_seeds(at({0, 100}, 4096), 512, kSize, 4096);
  EXPECT_EQ(seeds.ranges, (Ranges{{0, 4096}, {99 * 4096, 4096}}));
  EXPECT_EQ(seeds.outside, 0U);
  // A volume that ends within a block.
  seeds = place_seeds(at({8}), 0, 4096 + 512, 4096);
  EXPECT_EQ(seeds.ranges, (Ranges{{4096, 512}}));
  // The order is that of urgency; nothing is read twice.
  seeds = place_seeds(at({80, 8, 81, 16}), 0, kSize, 4096);
  EXPECT_EQ(seeds.ranges, (Ranges{{10 * 4096, 4096}, {4096, 2 * 4096}}));
  // Nothing wraps.
  seeds = place_seeds(at({~std::uint64_t{0} / 512}), ~std::uint64_t{0} - 4096,
                      ~std::uint64_t{0}, 4096);
  EXPECT_EQ(seeds.ranges.size() + seeds.outside, 1U);
}

TEST(SmartReport, what_the_server_is_told_has_only_what_is_known) {
  EXPECT_EQ(smart_counts_json(report("nvme-media-errors.json")),
            json::parse(R"({"passed":true,"uncorrected":7,"spare_percent":99,
              "spare_threshold_percent":10,"used_percent":3,
              "below_threshold":false})"));
}

}  // namespace
}  // namespace nbd_remap
