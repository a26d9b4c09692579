// SPDX-License-Identifier: BSD-3-Clause
// scan finds SPAREs among files, and repair says what it does.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "plugins/backend/open_backend.hpp"
#include "plugins/spare_tool/repair_command.hpp"
#include "plugins/spare_tool/scan_command.hpp"
#include "tests/fakes/scratch.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

class SpareScan : public testing::Test {
 protected:
  SpareScan() {
    main_ = dir_.make_file("main.img", 8 << 20);
    for (const char* name : {"a.img", "b.img", "c.img"})
      spares_.push_back(dir_.make_file(name, 1 << 20));
    for (const std::string& path : spares_) {
      auto main = open_backend(main_, {});
      auto spare = open_backend(path, {});
      EXPECT_TRUE(format_spare(**spare, **main, {}));
    }
  }
  // Ruins one copy's checkpoints, or both.
  void ruin(const std::string& path, bool both) const {
    auto disk = open_backend(path, {});
    ASSERT_TRUE(disk);
    const Layout l = survey_metadata(**disk)->superblock.layout;
    AlignedBuffer noise(4096);
    std::fill(noise.bytes().begin(), noise.bytes().end(), std::byte{'x'});
    for (CopyIndex c : kCopies) {
      if (c == CopyIndex::tail && !both) continue;
      for (unsigned area : {0U, 1U}) {
        ASSERT_TRUE((*disk)->write(l.checkpoint(c, area), noise.bytes(),
                                   Durability::fua));
      }
    }
  }

  const ScratchDir dir_;
  std::string main_;
  std::vector<std::string> spares_;
};

TEST_F(SpareScan, a_folder_is_searched_and_each_disk_counts_once) {
  ruin(spares_[1], false);
  ruin(spares_[2], true);
  dir_.make_file("zeroes.img", 1 << 20);
  dir_.make_file("empty", 0);
  std::ofstream(dir_.file("odd")) << "not a multiple of 512";
  std::filesystem::create_symlink(spares_[0], dir_.file("link"));
  std::filesystem::create_symlink("nowhere", dir_.file("dangling"));
  std::filesystem::create_directory(dir_.file("sub"));
  const ScanReport report = run_scan({{dir_.path(), spares_[0]}, false});
  ASSERT_EQ(report.spares.size(), 3U);
  EXPECT_TRUE(report.not_spares.empty());
  EXPECT_TRUE(report.not_scanned.empty()) << report.not_scanned.front();
  EXPECT_EQ(report.looked_at, 5U);
  EXPECT_EQ(report.spares[0].verdict, Verdict::sound);
  EXPECT_EQ(report.spares[1].verdict, Verdict::repairable);
  EXPECT_EQ(report.spares[2].verdict, Verdict::damaged);
  for (const ScannedSpare& spare : report.spares) {
    ASSERT_TRUE(spare.superblock);
    EXPECT_EQ(spare.superblock->main_bytes, 8U << 20);
    EXPECT_EQ(spare.main_name, main_);
  }
  EXPECT_EQ(scan_verdict(report), Verdict::damaged);
  EXPECT_NE(render_scan(report, false).find(main_ + "\n"), std::string::npos);
  const json j = json::parse(render_scan(report, true));
  EXPECT_EQ(j["spares"].size(), 3U);
  EXPECT_EQ(j["spares"][0]["main"], main_);
  EXPECT_EQ(j["spares"][1]["verdict"], "repairable");
  EXPECT_EQ(j["spares"][2]["remapped"], nullptr);
}

TEST_F(SpareScan, what_a_server_holds_is_told_by_its_superblock) {
  auto held = open_backend(spares_[0], {});
  ASSERT_TRUE(held);
  const ScanReport report = run_scan({spares_, false});
  ASSERT_EQ(report.spares.size(), 3U);
  EXPECT_TRUE(report.spares[0].in_use);
  ASSERT_TRUE(report.spares[0].superblock);
  EXPECT_FALSE(report.spares[0].counts);
  EXPECT_FALSE(report.spares[1].in_use);
  EXPECT_EQ(scan_verdict(report), Verdict::sound);
  EXPECT_NE(render_scan(report, false).find("a.img: in use\n"),
            std::string::npos);
}

TEST_F(SpareScan, what_was_named_and_is_none_is_said) {
  ScanReport report = run_scan({{main_}, false});
  EXPECT_EQ(report.not_spares, std::vector<std::string>{main_});
  EXPECT_EQ(scan_verdict(report), Verdict::unknown);
  report = run_scan({{spares_[0], dir_.file("none")}, false});
  ASSERT_EQ(report.not_scanned.size(), 1U);
  EXPECT_EQ(scan_verdict(report), Verdict::unknown);
  report = run_scan({{spares_[0], main_}, false});
  EXPECT_EQ(scan_verdict(report), Verdict::sound);
}

TEST_F(SpareScan, one_lost_superblock_does_not_hide_a_spare) {
  for (const DeviceOffset at :
       {DeviceOffset{0}, DeviceOffset{(1 << 20) - kSuperblockPlaceBytes}}) {
    auto disk = open_backend(spares_[0], {});
    AlignedBuffer zero(4096);
    AlignedBuffer before(4096);
    ASSERT_TRUE((*disk)->read(at, before.bytes()));
    ASSERT_TRUE((*disk)->write(at, zero.bytes(), Durability::fua));
    disk = Error{};
    const ScanReport report = run_scan({{spares_[0]}, false});
    ASSERT_EQ(report.spares.size(), 1U);
    EXPECT_EQ(report.spares[0].verdict, Verdict::repairable);
    disk = open_backend(spares_[0], {});
    ASSERT_TRUE((*disk)->write(at, before.bytes(), Durability::fua));
  }
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(SpareScan, repair_writes_only_when_told_and_only_what_can_be_mended) {
  ruin(spares_[0], false);
  ruin(spares_[1], true);
  std::string before = content(spares_[0]);
  RepairReport report = run_repair({spares_[0], false, false});
  EXPECT_EQ(report.verdict, Verdict::repairable);
  EXPECT_FALSE(report.written);
  ASSERT_EQ(report.plan.size(), 2U);
  EXPECT_NE(render_repair(report, false).find("type --yes"), std::string::npos);
  EXPECT_EQ(content(spares_[0]), before);
  report = run_repair({spares_[0], true, false});
  EXPECT_EQ(report.verdict, Verdict::sound) << report.failure;
  EXPECT_EQ(report.before.verdict, Verdict::repairable);
  EXPECT_TRUE(report.written);
  EXPECT_NE(render_repair(report, false).find("Done: both copies are whole"),
            std::string::npos);
  EXPECT_EQ(run_check({spares_[0], main_, false}).verdict, Verdict::sound);

  before = content(spares_[0]);
  report = run_repair({spares_[0], true, false});
  EXPECT_EQ(report.verdict, Verdict::sound);
  EXPECT_FALSE(report.written);
  EXPECT_EQ(content(spares_[0]), before) << "nothing to do";

  before = content(spares_[1]);
  report = run_repair({spares_[1], true, false});
  EXPECT_EQ(report.verdict, Verdict::damaged);
  EXPECT_FALSE(report.written);
  EXPECT_EQ(content(spares_[1]), before) << "both copies are damaged";
  EXPECT_NE(render_repair(report, false).find("spare restore"),
            std::string::npos);
  const json j = json::parse(render_repair(report, true));
  EXPECT_EQ(j["verdict"], "damaged");
  EXPECT_EQ(j["written"], false);

  report = run_repair({main_, true, false});
  EXPECT_EQ(report.before.verdict, Verdict::unknown);
  EXPECT_NE(report.before.reason.find("not a SPARE"), std::string::npos);
}

}  // namespace
}  // namespace nbd_remap
