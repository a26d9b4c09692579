// SPDX-License-Identifier: BSD-3-Clause
// Contract M2: one copy damaged anywhere, both copies damaged, no copy at all.
#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/worn_spare.hpp"

namespace nbd_remap {
namespace {

enum class Damage { zeroes, noise, read_error };
constexpr std::array kDamages{Damage::zeroes, Damage::noise,
                              Damage::read_error};

// A twin of the worn SPARE, and what is done to it.
struct Victim {
  explicit Victim(const Worn& worn)
      : disk(twin_of(worn.pair.spare)), faulty(*disk) {}
  void damage(Range range, Damage kind, std::uint64_t seed = 1) {
    if (kind == Damage::read_error) {
      FaultyBackend::RangeOptions options;
      options.heal_on_write = true;
      faulty.add_bad_range(FaultOp::read, range.begin, range.length, EIO,
                           options);
      return;
    }
    const std::uint64_t begin = round_down(range.begin, 512);
    AlignedBuffer b(round_up(range.begin + range.length, 512) - begin);
    ASSERT_TRUE(disk->read({begin}, b.bytes()));
    std::mt19937_64 random(seed);
    for (std::uint64_t i = 0; i < range.length; ++i)
      b.bytes()[range.begin - begin + i] =
          kind == Damage::zeroes ? std::byte{}
                                 : static_cast<std::byte>(random());
    ASSERT_TRUE(disk->write({begin}, b.bytes(), Durability::cached));
  }

  std::unique_ptr<MemoryBackend> disk;
  FaultyBackend faulty;
};

// Opens, with the true map; says so if there was something to say; and has
// mended it. True if there was.
bool heals(const Worn& worn, Victim& victim) {
  const auto survey = survey_metadata(victim.faulty);
  EXPECT_TRUE(survey) << survey.error().text();
  if (!survey) return false;
  const bool hurt = !survey->copies_agree();
  EXPECT_TRUE(survey->best) << survey->refusal;
  if (!survey->best) return false;
  EXPECT_TRUE(same(survey->chosen().state, worn.truth));
  LogLines log;
  auto store = RemapStore::open(victim.faulty, binding_of(worn.pair.main),
                                false, log.sink());
  EXPECT_TRUE(store) << store.error().text();
  if (!store) return false;
  EXPECT_EQ((*store)->table().snapshot(), worn.truth.entries);
  EXPECT_EQ(log.have("bad: "), hurt) << log.all();
  const auto after = survey_metadata(victim.faulty);
  EXPECT_TRUE(after && after->copies_agree());
  for (CopyIndex c : kCopies)
    EXPECT_TRUE(after->copy(c).sound()) << after->copy(c).damages.front();
  EXPECT_TRUE(same(after->chosen().state, worn.truth));
  // And it works: another mapping, with a slot of its own.
  EXPECT_TRUE(
      (*store)->commit({remapped(999'999, *(*store)->take_slot())}).ok());
  return hurt;
}

// Opening is refused, read-only too, and not one byte is written.
std::string refused(const Worn& worn, Victim& victim) {
  const auto before = content_of(*victim.disk);
  std::string text;
  for (bool read_only : {true, false}) {
    const auto store = RemapStore::open(
        victim.faulty, binding_of(worn.pair.main), read_only, no_log());
    EXPECT_FALSE(store);
    if (!store) text = store.error().text();
  }
  EXPECT_EQ(before, content_of(*victim.disk));
  for (const Operation& o : victim.faulty.trace())
    EXPECT_EQ(o.op, FaultOp::read);
  return text;
}

struct Part {
  const char* name;
  Range range;
  bool map;  // needed to know the map
};

std::vector<Part> parts_of(const Worn& w, CopyIndex c) {
  const Layout& l = w.layout;
  const std::uint64_t checkpoint = l.checkpoint(c, w.area).value;
  auto record = [&](std::uint64_t n) { return l.record(c, n).value; };
  return {
      {"superblock", {l.superblock(c).value, 512}, false},
      {"one byte of the superblock", {l.superblock(c).value + 2, 1}, false},
      {"the newest header", {checkpoint, 4096}, true},
      {"the newest body", {checkpoint + 4096, 1000}, true},
      {"one byte of the newest body",
       {checkpoint + 4096 + 20 * 24 + 15, 1},
       true},
      {"the whole checkpoint", {checkpoint, l.checkpoint_bytes}, true},
      {"the first record", {record(0), 4096}, true},
      {"the log's first half", {record(0), w.length / 2 * 4096}, true},
      {"a record in the middle", {record(w.length / 2), 512}, true},
      {"the whole copy but the superblock",
       {l.checkpoint(c, 0).value,
        record(l.log_records) - l.checkpoint(c, 0).value},
       true},
  };
}

TEST(MetadataDamage, any_part_of_one_copy_may_be_damaged) {
  const Worn worn(false);
  for (CopyIndex c : kCopies)
    for (const Part& part : parts_of(worn, c))
      for (Damage kind : kDamages) {
        SCOPED_TRACE(testing::Message() << copy_name(c) << ", " << part.name
                                        << ", " << static_cast<int>(kind));
        Victim victim(worn);
        victim.damage(part.range, kind);
        EXPECT_TRUE(heals(worn, victim)) << "the damage was not seen";
      }
}

TEST(MetadataDamage, the_end_of_one_log_may_be_damaged) {
  const Worn worn(false);
  for (CopyIndex c : kCopies)
    for (std::uint64_t records : {1ULL, 2ULL, 10ULL})
      for (Damage kind : kDamages) {
        SCOPED_TRACE(testing::Message() << copy_name(c) << " " << records);
        Victim victim(worn);
        victim.damage({worn.layout.record(c, worn.length - records).value,
                       records * 4096},
                      kind);
        EXPECT_TRUE(heals(worn, victim));
      }
}

// By way of the server's own start; metadata_seeded_test has many more.
TEST(MetadataDamage, any_range_of_one_copy_may_be_damaged) {
  const Worn open(false);
  const Worn closed(true);
  int hurt = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const Worn& worn = seed % 4 ? open : closed;
    const Range all = worn.region(kCopies[random() % 2]);
    Range range;
    range.length = 1 + random() % (1ULL << random() % 20);
    range.length = std::min(range.length, all.length);
    range.begin = all.begin + random() % (all.length - range.length + 1);
    Victim victim(worn);
    victim.damage(range, kDamages[random() % 3], seed);
    hurt += heals(worn, victim);
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_GT(hurt, 125);
}

// The map lies in the checkpoint and the log. As long as one copy of these is
// whole it is found, whichever superblock is left.
TEST(MetadataDamage, both_copies_damaged_is_refused_and_nothing_written) {
  const Worn worn(false);
  int refusals = 0;
  for (const Part& head : parts_of(worn, CopyIndex::head))
    for (const Part& tail : parts_of(worn, CopyIndex::tail))
      for (Damage kind : kDamages) {
        SCOPED_TRACE(testing::Message() << head.name << ", " << tail.name
                                        << ", " << static_cast<int>(kind));
        Victim victim(worn);
        victim.damage(head.range, kind);
        victim.damage(tail.range, kind, 2);
        if (head.map != tail.map) {
          EXPECT_TRUE(heals(worn, victim));
          continue;
        }
        EXPECT_FALSE(refused(worn, victim).empty());
        ++refusals;
      }
  EXPECT_EQ(refusals, 3 * (8 * 8 + 2 * 2));
}

// Mistake 10. What was stopped in order cannot lose its end unseen.
TEST(MetadataDamage, a_half_zeroed_spare_is_refused_or_right) {
  const Worn worn(true);
  int right = 0;
  int refusals = 0;
  auto check = [&](Victim& victim) {
    const auto survey = survey_metadata(victim.faulty);
    if (survey && survey->best) {
      EXPECT_TRUE(same(survey->chosen().state, worn.truth));
      ++right;
    } else {
      refused(worn, victim);
      ++refusals;
    }
  };
  for (std::uint64_t i = 1; i <= 64; ++i)
    for (bool front : {true, false}) {
      const std::uint64_t at = i * kSmallSpareBytes / 64;
      Victim victim(worn);
      victim.damage(front ? Range{0, at} : Range{kSmallSpareBytes - at, at},
                    Damage::zeroes);
      check(victim);
    }
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    Victim victim(worn);
    const std::uint64_t unit = 4096 << random() % 6;
    for (std::uint64_t at = 0; at < kSmallSpareBytes; at += unit)
      if (random() % 2) victim.damage({at, unit}, Damage::zeroes);
    check(victim);
  }
  EXPECT_GT(right, 10);
  EXPECT_GT(refusals, 10);
}

TEST(MetadataDamage, both_logs_lost_after_an_orderly_stop_is_refused) {
  const Worn worn(true);
  Victim victim(worn);
  for (CopyIndex c : kCopies)
    victim.damage({worn.layout.record(c, 0).value, 64 * 4096}, Damage::zeroes);
  EXPECT_NE(refused(worn, victim).find("had reached"), std::string::npos);
}

TEST(MetadataDamage, a_blank_or_foreign_disk_is_not_a_spare) {
  const Worn worn(false);
  for (Damage kind : {Damage::zeroes, Damage::noise}) {
    Victim victim(worn);
    victim.damage({0, kSmallSpareBytes}, kind);
    const auto survey = survey_metadata(victim.faulty);
    ASSERT_FALSE(survey);
    EXPECT_EQ(survey.error().errnum, ENODATA);
    EXPECT_NE(refused(worn, victim).find("not a SPARE"), std::string::npos);
  }
  MemoryBackend tiny(65536);
  EXPECT_EQ(survey_metadata(tiny).error().errnum, ENODATA);
}

TEST(MetadataDamage, a_disk_that_does_not_answer_is_not_called_damaged) {
  const Worn worn(false);
  Victim victim(worn);
  bool reached = true;
  for (std::uint64_t nth = 1; reached; ++nth) {
    const auto rule = victim.faulty.add_failing_call(
        FaultOp::read, ETIMEDOUT, {.nth = nth, .sticky = true});
    const auto survey = survey_metadata(victim.faulty);
    reached = victim.faulty.fired(rule) > 0;
    EXPECT_EQ(survey.ok(), !reached);
    if (!survey) {
      EXPECT_EQ(survey.error().error_class, ErrorClass::transport);
    }
    victim.faulty.remove(rule);
  }
}

TEST(MetadataDamage, a_hole_in_the_middle_of_the_log_is_damage) {
  const Worn worn(false);
  for (std::uint64_t n : {std::uint64_t{0}, worn.length / 2, worn.length - 2}) {
    Victim victim(worn);
    for (CopyIndex c : kCopies)
      victim.damage({worn.layout.record(c, n).value, 512}, Damage::zeroes);
    EXPECT_NE(refused(worn, victim).find("hole"), std::string::npos) << n;
  }
}

}  // namespace
}  // namespace nbd_remap
