// SPDX-License-Identifier: BSD-3-Clause
// Contract M2 by chance: thousands of seeded damages of one copy. Each that
// touches bytes that mean something is found by what check calls, and mended
// by what repair calls, to the very same map.
//
// 10,000 damages, 100,000 with NBD_REMAP_LONG=1; NBD_REMAP_SEED is the first
// seed.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <map>

#include "plugins/remap/spare_repair.hpp"
#include "plugins/spare_tool/check_command.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/seeded_damage.hpp"

namespace nbd_remap {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// The damaged disk: like the pristine one but where it is not.
class Patient {
 public:
  Patient(const Image& image, const Damage& damage)
      : disk_(image.worn.pair.spare.info()), faulty(disk_) {
    EXPECT_TRUE(disk_.write({0}, damage.bytes, Durability::cached));
    if (damage.unreadable.length == 0) return;
    FaultyBackend::RangeOptions options;
    options.heal_on_write = true;
    faulty.add_bad_range(FaultOp::read, damage.unreadable.begin,
                         damage.unreadable.length, EIO, options);
  }
  std::uint64_t changes() const {
    std::uint64_t n = 0;
    for (const Operation& o : faulty.trace())
      n += o.op == FaultOp::write || o.op == FaultOp::zero;
    return n;
  }

 private:
  MemoryBackend disk_;

 public:
  FaultyBackend faulty;
};

struct Tally {
  std::map<std::string, int> cases, found, mended, harmless, refused;
};

void expect_whole(const MetadataSurvey& survey, const MapState& truth) {
  ASSERT_TRUE(survey.best) << survey.refusal;
  EXPECT_TRUE(survey.copies_agree());
  EXPECT_EQ(judge(survey), Verdict::sound);
  for (CopyIndex c : kCopies) {
    EXPECT_TRUE(survey.copy(c).sound()) << survey.copy(c).damages.front();
    EXPECT_TRUE(same(survey.copy(c).state, truth)) << copy_name(c);
  }
}

void examine(Image& image, bool closed, std::uint64_t seed, Tally& tally) {
  const Damage damage(image, closed, seed);
  SCOPED_TRACE("NBD_REMAP_SEED=" + std::to_string(seed) + ", " + damage.kind +
               ", " + copy_name(damage.copy) +
               (closed ? ", stopped in order" : ""));
  Patient patient(image, damage);
  const auto survey = survey_metadata(patient.faulty);
  ASSERT_TRUE(survey) << survey.error().text();
  const MapState& truth = image.worn.truth;
  const CopySurvey& copy = survey->copy(damage.copy);
  const CopySurvey& other = survey->copy(other_copy(damage.copy));

  // Found; a damage in words that name the copy. A sequence from the future,
  // under a right checksum, makes the other copy look old: that is found too.
  const bool found = !copy.damages.empty() || !copy.notes.empty() ||
                     !other.damages.empty() || !other.notes.empty();
  if (!damage.forged) {
    EXPECT_TRUE(other.sound());
  }
  for (const std::string& words : copy.damages)
    EXPECT_TRUE(words.starts_with(copy_name(damage.copy))) << words;
  ++tally.cases[damage.kind];
  if (damage.forged) {
    // What is not seen has changed nothing: a later entry replaces it.
    if (!found && survey->best) {
      EXPECT_TRUE(same(copy.state, truth));
      EXPECT_EQ(damage.kind, "slot of two blocks");
    }
  } else if (damage.kind == "moved") {
    if (damage.matters()) {
      EXPECT_TRUE(found);
    }
  } else if (damage.matters()) {
    EXPECT_TRUE(found);
    if (!damage.is_a_torn_tail()) {
      EXPECT_FALSE(copy.damages.empty());
      EXPECT_NE(judge(*survey), Verdict::sound);
    }
  } else {
    EXPECT_EQ(found, damage.is_read_all_the_same());
  }
  tally.found[damage.kind] += found;

  if (!survey->best) {
    // Only under a right checksum: nothing tells it from a copy that is right.
    ++tally.refused[damage.kind];
    EXPECT_TRUE(damage.forged) << survey->refusal;
    EXPECT_EQ(judge(*survey), Verdict::damaged);
    EXPECT_FALSE(repair_spare(patient.faulty, *survey, no_log()));
    EXPECT_EQ(patient.changes(), 0U);
    return;
  }
  EXPECT_TRUE(same(survey->chosen().state, truth));
  const auto after = repair_spare(patient.faulty, *survey, no_log());
  ASSERT_TRUE(after) << after.error().text();
  EXPECT_EQ(patient.changes() != 0, found);
  if (!found) {
    ++tally.harmless[damage.kind];
    return;
  }
  expect_whole(*after, truth);
  if (!damage.forged) {
    EXPECT_EQ(after->chosen().closed, closed);
  }
  EXPECT_GT(after->chosen().last_sequence, survey->max_sequence_seen());
  ++tally.mended[damage.kind];
}

TEST(MetadataSeeded, every_damage_of_one_copy_is_found_and_mended) {
  const bool long_form = from_environment("NBD_REMAP_LONG", 0) == 1;
  const std::uint64_t count = long_form ? 100'000 : 10'000;
  const std::uint64_t first = from_environment("NBD_REMAP_SEED", 1);
  Image open(false);
  Image closed(true);
  // Mistake 51
  ASSERT_GT(open.meaning[0].entries, 20U);
  ASSERT_GT(open.meaning[0].log.length, 20 * 4096U);
  Tally tally;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    examine(seed % 4 ? open : closed, seed % 4 == 0, seed, tally);
    if (testing::Test::HasFailure()) break;
  }
  std::string table = "first seed " + std::to_string(first) + "\n";
  int found = 0;
  for (const auto& [kind, cases] : tally.cases) {
    table += kind + ": " + std::to_string(cases) + " cases, " +
             std::to_string(tally.found[kind]) + " found, " +
             std::to_string(tally.mended[kind]) + " mended, " +
             std::to_string(tally.harmless[kind]) + " harmless, " +
             std::to_string(tally.refused[kind]) + " refused\n";
    found += tally.found[kind];
    // Every kind does what it is for.
    EXPECT_GT(tally.mended[kind], 0) << kind;
  }
  std::printf("%s", table.c_str());
  EXPECT_EQ(tally.cases.size(), kRaw.size() + kForged.size());
  EXPECT_GT(found, static_cast<int>(count / 2));
}

}  // namespace
}  // namespace nbd_remap
