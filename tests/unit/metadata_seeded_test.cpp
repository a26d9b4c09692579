// SPDX-License-Identifier: BSD-3-Clause
// Contract M2 by chance: thousands of seeded damages of one copy. Each that
// touches bytes that mean something is found by what check calls, and mended
// by what repair calls, to the very same map.
//
// Which bytes mean something is said here, apart from the reader: superblock,
// newest checkpoint with its entries, records up to the end of the log. The
// rest (the other area, older records, padding, what follows the superblock)
// is under no checksum that anyone reads.
//
// 10,000 damages, 100,000 with NBD_REMAP_LONG=1; NBD_REMAP_SEED is the first
// seed.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>

#include "plugins/base/crc32c.hpp"
#include "plugins/remap/spare_repair.hpp"
#include "plugins/spare_tool/check_command.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/worn_spare.hpp"

namespace nbd_remap {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// How the bytes of a range are damaged.
const std::vector<std::string> kRaw{"zeroes",     "noise", "one bit",
                                    "read error", "moved", "torn"};
// What is changed in one structure, under a right checksum.
const std::vector<std::string> kForged{
    "record sequence", "slot of two blocks", "slot outside",
    "block outside",   "mask outside",       "header sequence",
    "header entries",  "old superblock",     "other superblock"};

struct Meaning {
  Range superblock, header, body, log;
  std::uint64_t entries = 0;  // in the body
  std::vector<Range> all() const {
    std::vector<Range> out{superblock, header, log};
    if (body.length != 0) out.push_back(body);
    return out;
  }
};

bool overlap(const Range& a, const Range& b) {
  return a.begin < b.begin + b.length && b.begin < a.begin + a.length;
}
Range in_sectors(const Range& r) {
  const std::uint64_t begin = round_down(r.begin, 512);
  return {begin, round_up(r.begin + r.length, 512) - begin};
}

class Image {
 public:
  explicit Image(bool closed) : worn(closed), pristine(content_of(disk())) {
    const Layout& l = worn.layout;
    for (CopyIndex c : kCopies) {
      Meaning& m = meaning[static_cast<std::size_t>(c)];
      const std::uint64_t at = l.checkpoint(c, worn.area).value;
      m.entries =
          unpack_checkpoint_header(ConstBytes(pristine).subspan(at, 4096))
              ->entries;
      m.superblock = {l.superblock(c).value, 512};
      m.header = {at, 4096};
      m.body = {at + 4096, m.entries * 24};
      m.log = {l.record(c, 0).value, worn.length * 4096};
    }
  }
  Backend& disk() { return worn.pair.spare; }

  Worn worn;
  std::vector<std::byte> pristine;
  std::array<Meaning, 2> meaning;
};

class Damage {
 public:
  Damage(Image& image, bool closed, std::uint64_t seed)
      : image_(image),
        random_(seed),
        closed_(closed),
        copy(kCopies[random_() % 2]),
        meaning_(image.meaning[static_cast<std::size_t>(copy)]),
        bytes(image.pristine) {
    forged = random_() % 4 == 0;
    const auto& kinds = forged ? kForged : kRaw;
    kind = kinds[random_() % kinds.size()];
    forged ? forge() : destroy();
  }

  // Some byte that means something is not what it was, or cannot be read.
  bool matters() const {
    for (const Range& r : meaning_.all())
      if (unreadable.length ? overlap(in_sectors(r), in_sectors(unreadable))
                            : differs(r))
        return true;
    return false;
  }
  // Nothing but the last record, which no superblock speaks of yet: a crash
  // does that too.
  bool is_a_torn_tail() const {
    if (closed_ || unreadable.length) return false;
    const std::uint64_t last = meaning_.log.begin + meaning_.log.length - 4096;
    for (Range r : meaning_.all()) {
      if (r.begin == meaning_.log.begin) r.length -= 4096;
      if (differs(r)) return false;
    }
    return differs({last, 4096});
  }
  // A read error where the reader looks and finds nothing that counts.
  bool is_read_all_the_same() const {
    const Layout& l = image_.worn.layout;
    for (const Range& r :
         {Range{l.checkpoint(copy, 0).value, 4096},
          Range{l.checkpoint(copy, 1).value, 4096},
          Range{l.record(copy, 0).value, l.log_records * 4096}})
      if (unreadable.length && overlap(r, in_sectors(unreadable))) return true;
    return false;
  }

 private:
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  bool differs(const Range& r) const {
    return std::memcmp(bytes.data() + r.begin, image_.pristine.data() + r.begin,
                       r.length) != 0;
  }

  void destroy() {
    Range all = image_.worn.region(copy);
    const auto parts = meaning_.all();
    if (below(2)) all = parts[below(parts.size())];
    Range r;
    r.length = std::min(1 + below(1ULL << below(20)), all.length);
    r.begin = all.begin + below(all.length - r.length + 1);
    if (kind == "read error") {
      unreadable = r;
    } else if (kind == "one bit") {
      bytes[r.begin] ^= static_cast<std::byte>(1U << below(8));
    } else if (kind == "moved") {
      const std::uint64_t from = below(bytes.size() - r.length + 1);
      std::copy_n(image_.pristine.begin() + static_cast<long>(from), r.length,
                  bytes.begin() + static_cast<long>(r.begin));
    } else if (kind == "torn") {
      const std::uint64_t last =
          meaning_.log.begin + meaning_.log.length - 4096;
      for (std::uint64_t s = 0; s < 8; ++s)
        if (below(2)) noise({last + s * 512, 512});
    } else if (kind == "zeroes") {
      std::fill_n(bytes.begin() + static_cast<long>(r.begin), r.length,
                  std::byte{});
    } else {
      noise(r);
    }
  }
  void noise(const Range& r) {
    for (std::uint64_t i = 0; i < r.length; ++i)
      bytes[r.begin + i] = static_cast<std::byte>(random_());
  }

  void forge() {
    if (kind.find("superblock") != std::string::npos) {
      const Bytes b = at(meaning_.superblock);
      Superblock sb = *unpack_superblock(b);
      if (kind == "old superblock")
        sb.sequence -= 1 + below(3);
      else
        sb.copy = other_copy(copy);
      pack_superblock(sb, b);
    } else if (kind.find("header") != std::string::npos) {
      const Bytes b = at(meaning_.header);
      CheckpointHeader header = *unpack_checkpoint_header(b);
      if (kind == "header entries")
        header.entries += 1 + below(1000) - (below(2) ? 1000 : 0);
      else
        header.sequence += 1 + below(5) - (below(2) ? 6 : 0);
      pack_checkpoint_header(header, b);
    } else if (kind == "record sequence") {
      change_record([&](Record& record) {
        record.sequence += 1 + below(100) - (below(2) ? 101 : 0);
        return true;
      });
    } else if (closed_ || below(2)) {
      change_body();
    } else {
      change_record([&](Record& record) {
        for (Entry& e : record.entries)
          if (change_entry(e)) return true;
        return false;
      });
    }
  }
  Bytes at(const Range& r) { return Bytes(bytes).subspan(r.begin, r.length); }

  void change_record(const std::function<bool(Record&)>& change) {
    for (int attempt = 0; attempt < 100; ++attempt) {
      const Bytes b =
          at({meaning_.log.begin + below(image_.worn.length) * 4096, 4096});
      Record record = *unpack_record(b);
      if (!change(record)) continue;
      pack_record(record, b);
      return;
    }
  }
  void change_body() {
    const Bytes body = at(meaning_.body);
    for (int attempt = 0; attempt < 100; ++attempt) {
      const Bytes place = body.subspan(below(meaning_.entries) * 24, 24);
      Entry e = *unpack_entry(place);
      if (!change_entry(e)) continue;
      pack_entry(e, place);
      const Bytes b = at(meaning_.header);
      CheckpointHeader header = *unpack_checkpoint_header(b);
      header.body_crc = crc32c(body);
      pack_checkpoint_header(header, b);
      return;
    }
  }
  bool change_entry(Entry& e) {
    if (e.kind != EntryKind::remapped) return false;
    const auto& entries = image_.worn.truth.entries;
    if (kind == "slot of two blocks") {
      const RemapEntry& other = entries[below(entries.size())];
      if (!other.remapped() || other.slot() == e.slot) return false;
      e.slot = other.slot();
    } else if (kind == "slot outside") {
      e.slot.value = image_.worn.layout.slots + below(1000);
    } else if (kind == "block outside") {
      e.block.value = kMainBlocks + below(1000);
    } else {
      e.valid |= 0x100ULL << below(56);
    }
    return true;
  }

  Image& image_;
  std::mt19937_64 random_;
  const bool closed_;

 public:
  const CopyIndex copy;

 private:
  const Meaning& meaning_;

 public:
  std::vector<std::byte> bytes;
  Range unreadable;
  std::string kind;
  bool forged = false;
};

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
