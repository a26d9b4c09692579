// SPDX-License-Identifier: BSD-3-Clause
// nbd-remap-format(5) against the code: the bytes of its example are read by
// the reader that the server uses. Mistake 37
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "plugins/remap/metadata_survey.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

// Lines of `hexdump -C`; what the page leaves out is zero.
std::map<std::uint64_t, std::vector<std::byte>> hex_lines() {
  std::map<std::uint64_t, std::vector<std::byte>> lines;
  std::ifstream page(NBD_REMAP_FORMAT_POD);
  const std::regex form("^ ([0-9a-f]{8})  (([0-9a-f]{2} +){16})\\|.*");
  for (std::string line; std::getline(page, line);) {
    std::smatch m;
    if (!std::regex_match(line, m, form)) continue;
    std::istringstream in(m[2]);
    auto& bytes = lines[std::stoull(m[1], nullptr, 16)];
    for (unsigned n{}; in >> std::hex >> n;)
      bytes.push_back(static_cast<std::byte>(n));
  }
  return lines;
}

TEST(FormatPage, the_example_is_a_head_copy_that_the_server_believes) {
  const auto lines = hex_lines();
  ASSERT_GT(lines.size(), 40U);
  MemoryBackend spare(4 << 20);
  for (const auto& [at, bytes] : lines) {
    ASSERT_EQ(bytes.size(), 16U);
    std::vector<std::byte> sector(kSectorBytes);
    const DeviceOffset place{round_down(at, kSectorBytes)};
    ASSERT_TRUE(spare.read(place, sector));
    std::copy(bytes.begin(), bytes.end(),
              sector.begin() + static_cast<long>(at - place.value));
    ASSERT_TRUE(spare.write(place, sector, Durability::cached));
  }
  const auto survey = survey_metadata(spare);
  ASSERT_TRUE(survey) << survey.error().text();
  ASSERT_EQ(survey->best, CopyIndex::head) << survey->refusal;
  EXPECT_TRUE(survey->chosen().sound());
  const Superblock& sb = survey->superblock;
  EXPECT_EQ(uuid_text(sb.uuid), "6f1d3c52-8a4b-4e0f-9c27-d15b7e9a0f34");
  EXPECT_EQ(sb.sequence, 4U);
  EXPECT_EQ(sb.owner_epoch, 1U);
  EXPECT_EQ(sb.map_sequence, 5U);
  EXPECT_EQ(sb.main_bytes, 0x4000000U);
  EXPECT_EQ(sb.layout, *compute_layout(4 << 20, 4096));
  EXPECT_EQ(sb.layout.slots, 832U);
  EXPECT_EQ(sb.layout.slot(SlotNo{0}).value, 0x60000U);
  const CopySurvey& head = survey->chosen();
  EXPECT_EQ(head.checkpoint_sequence, 4U);
  EXPECT_EQ(head.last_sequence, 5U);
  EXPECT_TRUE(head.closed);
  EXPECT_EQ(
      head.state.entries,
      (std::vector<RemapEntry>{{BlockNo{0x1234}, 1, 0xff},
                               {BlockNo{0x2000}, RemapEntry::kNoSlot, 0xf7}}));
}

}  // namespace
}  // namespace nbd_remap
