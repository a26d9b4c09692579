// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/spare_format.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "plugins/base/build_id.hpp"
#include "plugins/base/crc32c.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

BackendInfo disk(const std::string& name, std::uint64_t bytes) {
  return fake_disk_info(name, bytes, 512, 4096);
}

// The error's text; and nothing was written.
std::string refused(Backend& spare, const Backend& main,
                    const FormatRequest& request) {
  const auto before = content_of(spare);
  const auto made = format_spare(spare, main, request);
  EXPECT_FALSE(made);
  EXPECT_EQ(before, content_of(spare));
  return made ? "" : made.error().text();
}

TEST(SpareFormat, a_new_spare_is_sound_and_empty_and_says_its_capacity) {
  const MemoryBackend main(kMainBytes);
  MemoryBackend spare(kSmallSpareBytes);
  FormatRequest request;
  request.now_unix_seconds = 1234;
  const auto made = format_spare(spare, main, request);
  ASSERT_TRUE(made) << made.error().text();
  EXPECT_GT(made->layout.slots, 0U);
  const auto survey = survey_metadata(spare);
  ASSERT_TRUE(survey) << survey.error().text();
  ASSERT_TRUE(survey->best);
  EXPECT_TRUE(survey->copies_agree());
  EXPECT_TRUE(survey->chosen().state.entries.empty());
  EXPECT_EQ(survey->superblock.uuid, made->uuid);
  EXPECT_EQ(survey->superblock.layout, made->layout);
  EXPECT_EQ(survey->superblock.created_unix_seconds, 1234U);
  EXPECT_EQ(survey->superblock.main_bytes, kMainBytes);
  EXPECT_EQ(survey->superblock.build_id, build_id());
  const auto& features = survey->superblock.features;
  EXPECT_EQ(features.compatible | features.read_only_compatible |
                features.incompatible,
            0U)
      << "a small one needs none";
}

TEST(SpareFormat, refuses_a_valid_superblock_unless_its_uuid_is_typed) {
  Pair pair;
  const Uuid old = survey_metadata(pair.spare)->superblock.uuid;
  EXPECT_TRUE(has(refused(pair.spare, pair.main, {}),
                  "type --replace=" + uuid_text(old)));
  FormatRequest request;
  request.replace = random_uuid();
  EXPECT_TRUE(has(refused(pair.spare, pair.main, request), "--replace="));
  request.replace = old;
  const auto made = format_spare(pair.spare, pair.main, request);
  ASSERT_TRUE(made) << made.error().text();
  EXPECT_NE(made->uuid, old);
  MemoryBackend blank(kSmallSpareBytes);
  EXPECT_TRUE(has(refused(blank, pair.main, request), "no SPARE"));
}

TEST(SpareFormat, one_whole_superblock_of_two_protects_a_spare) {
  for (CopyIndex c : kCopies) {
    Pair pair;
    ASSERT_TRUE(pair.spare.zero(superblock_place(kSmallSpareBytes, c),
                                kSuperblockPlaceBytes, ZeroMode::keep_allocated,
                                Durability::cached));
    EXPECT_TRUE(has(refused(pair.spare, pair.main, {}), "already a SPARE"));
  }
}

TEST(SpareFormat, a_spare_whose_superblocks_cannot_be_read_is_not_overwritten) {
  Pair pair;
  FaultyBackend faulty(pair.spare);
  for (CopyIndex c : kCopies)
    faulty.add_bad_range(FaultOp::read,
                         superblock_place(kSmallSpareBytes, c).value, 512, EIO);
  EXPECT_FALSE(format_spare(faulty, pair.main, {}));
  EXPECT_EQ(faulty.fired(), 2U);
  faulty.remove_all();
  const auto lost = faulty.add_failing_call(FaultOp::read, ESHUTDOWN);
  EXPECT_FALSE(format_spare(faulty, pair.main, {}));
  EXPECT_EQ(faulty.fired(lost), 1U);
  for (const Operation& o : faulty.trace()) EXPECT_EQ(o.op, FaultOp::read);
}

TEST(SpareFormat, refuses_what_cannot_be_a_spare_and_says_why) {
  const MemoryBackend main(kMainBytes);
  MemoryBackend spare(kSmallSpareBytes);
  BackendInfo info = disk("small", 100 * 4096);
  MemoryBackend small(info);
  const std::string words = refused(small, main, {});
  EXPECT_TRUE(has(words, "too small")) << words;
  EXPECT_TRUE(has(words, std::to_string(spare_bytes_for(1, 4096)))) << words;
  info = disk("no-flush", kSmallSpareBytes);
  info.can_flush = false;
  MemoryBackend no_flush(info);
  EXPECT_TRUE(has(refused(no_flush, main, {}), "FLUSH"));
  info = disk("read-only", kSmallSpareBytes);
  info.read_only = true;
  MemoryBackend read_only(info);
  EXPECT_TRUE(has(refused(read_only, main, {}), "read-only"));
  info = disk("coarse", kSmallSpareBytes);
  info.physical_block_bytes = 65536;
  MemoryBackend coarse(info);
  EXPECT_TRUE(has(refused(coarse, main, {}), "65536"));
  EXPECT_TRUE(has(refused(spare, spare, {}), "same disk"));
  MemoryBackend empty(std::uint64_t{0});
  EXPECT_TRUE(has(refused(spare, empty, {}), "empty"));
  for (std::uint32_t bytes : {0U, 512U, 2048U, 4097U, 12288U, 65536U}) {
    FormatRequest request;
    request.block_bytes = bytes;
    EXPECT_TRUE(has(refused(spare, main, request), "power of two")) << bytes;
  }
}

// It could not be read again. A remote may say that it is so large.
TEST(SpareFormat, a_disk_larger_than_any_spare_can_be_is_refused) {
  const MemoryBackend main(kMainBytes);
  const auto largest = compute_layout(kMaxSpareBytes, 4096);
  ASSERT_TRUE(largest);
  EXPECT_TRUE(is_possible(*largest));
  // Nor can any hold a hundredth of this MAIN; the advice ends all the same.
  MemoryBackend small(100 * 4096);
  EXPECT_TRUE(has(refused(small, MemoryBackend(1UL << 62), {}), "too small"));
  for (const std::uint64_t bytes : {kMaxSpareBytes + 1, 1UL << 62}) {
    EXPECT_FALSE(compute_layout(bytes, 4096));
    MemoryBackend larger(bytes);
    const auto refused = format_spare(larger, main, {});
    ASSERT_FALSE(refused);
    EXPECT_TRUE(has(refused.error().place, std::to_string(kMaxSpareBytes)))
        << refused.error().text();
    EXPECT_EQ(larger.calls().write, 0U);
  }
}

TEST(SpareFormat, the_block_is_the_larger_physical_one) {
  const MemoryBackend main(kMainBytes, 512, 16384);
  MemoryBackend spare(4 << 20);
  const auto made = format_spare(spare, main, {});
  ASSERT_TRUE(made);
  EXPECT_EQ(made->layout.block_bytes, 16384U);
}

// The same UUID on purpose: only then could an old log be taken for a new one.
TEST(SpareFormat, an_old_map_does_not_come_back_even_under_the_same_uuid) {
  Pair pair;
  {
    auto store = pair.open();
    map_blocks(*store, 0, 90);
  }
  ASSERT_EQ(map_on(pair.spare).entries.size(), 90U);  // Mistake 51
  FormatRequest request;
  request.uuid = request.replace = survey_metadata(pair.spare)->superblock.uuid;
  ASSERT_TRUE(format_spare(pair.spare, pair.main, request));
  EXPECT_TRUE(map_on(pair.spare).entries.empty());
  EXPECT_TRUE(survey_metadata(pair.spare)->copies_agree());
}

TEST(SpareFormat, a_power_cut_leaves_the_old_map_or_none_or_the_new_one) {
  const MemoryBackend main(kMainBytes);
  CrashBackend base(kSmallSpareBytes);
  ASSERT_TRUE(format_spare(base, main, {}));
  {
    auto store = RemapStore::open(base, binding_of(main), false, no_log());
    ASSERT_TRUE(store);
    map_blocks(**store, 0, 90);
  }
  ASSERT_TRUE(base.flush());
  const MapState old = map_on(base);
  ASSERT_EQ(old.entries.size(), 90U);  // Mistake 51
  const Uuid uuid = survey_metadata(base)->superblock.uuid;
  std::set<std::string> ends;
  bool finished = false;
  for (std::uint64_t cut = 0; !finished; ++cut)
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      auto spare = base.crashed_copy([](auto, auto) { return 0; });
      FormatRequest request;
      request.replace = uuid;
      spare->power_cut_after(cut);
      finished = format_spare(*spare, main, request).ok();
      spare->crash(seed);
      const auto survey = survey_metadata(*spare);
      if (!survey) {
        ends.insert("none");
      } else if (!survey->best) {
        ends.insert("refused");
      } else if (survey->superblock.uuid == uuid) {
        EXPECT_TRUE(same(survey->chosen().state, old)) << cut << " " << seed;
        ends.insert("old");
      } else {
        EXPECT_TRUE(survey->chosen().state.entries.empty());
        ends.insert("new");
      }
    }
  EXPECT_EQ(ends, (std::set<std::string>{"none", "old", "new"}));
}

// Mistake 12: each with its own message.
TEST(Binding, each_wrong_pair_is_refused_in_its_own_words) {
  Pair pair;
  const Superblock sb = survey_metadata(pair.spare)->superblock;
  const Binding good = binding_of(pair.main);
  ASSERT_TRUE(check_binding(sb, pair.spare, good));
  std::set<std::string> seen;
  auto refusal = [&](const Superblock& of, const Backend& spare,
                     const Binding& binding, const std::string& words) {
    const Status status = check_binding(of, spare, binding);
    ASSERT_FALSE(status) << words;
    EXPECT_EQ(status.error().error_class, ErrorClass::caller);
    EXPECT_TRUE(has(status.error().text(), words)) << status.error().text();
    EXPECT_TRUE(seen.insert(status.error().text()).second);
  };
  Binding other = good;
  other.spare_uuid = random_uuid();
  refusal(sb, pair.spare, other, "not the wanted");
  other = good;
  other.main_bytes += 512;
  refusal(sb, pair.spare, other, "resized");
  other = good;
  other.main_identity = "a clone of MAIN";
  refusal(sb, pair.spare, other, "belongs to another MAIN");
  refusal(sb, MemoryBackend(kSmallSpareBytes), good, "copy of SPARE");
  other = good;
  other.block_bytes = 8192;
  refusal(sb, pair.spare, other, "blocks of 4096 bytes, not 8192");
  EXPECT_EQ(seen.size(), 5U);
  other = good;
  other.spare_uuid = sb.uuid;
  other.block_bytes = 4096;
  EXPECT_TRUE(check_binding(sb, pair.spare, other));
}

TEST(Binding, a_refused_pair_is_not_opened_and_nothing_is_written) {
  Pair a;
  Pair b;
  const auto before = content_of(b.spare);
  const auto store = a.try_open(b.spare);  // the SPAREs are swapped
  ASSERT_FALSE(store);
  EXPECT_TRUE(has(store.error().text(), "another MAIN"));
  EXPECT_FALSE(a.try_open(a.main)) << "MAIN as SPARE";
  EXPECT_EQ(before, content_of(b.spare));
}

TEST(Binding, a_resized_spare_is_refused) {
  Pair pair;
  for (std::uint64_t bytes :
       {kSmallSpareBytes + 65536, kSmallSpareBytes - 65536}) {
    BackendInfo info = pair.spare.info();
    info.size_bytes = bytes;
    MemoryBackend resized(info);
    AlignedBuffer all(std::min(bytes, kSmallSpareBytes));
    ASSERT_TRUE(pair.spare.read({0}, all.bytes()));
    ASSERT_TRUE(resized.write({0}, all.bytes(), Durability::cached));
    const auto store = pair.try_open(resized);
    ASSERT_FALSE(store);
    EXPECT_TRUE(has(store.error().text(), "resized")) << store.error().text();
  }
}

// A superblock that says something else, with a checksum that fits.
void forge_superblock(Backend& spare, CopyIndex copy, std::size_t offset,
                      std::byte value) {
  AlignedBuffer b(kSuperblockBytes);
  const DeviceOffset at = superblock_place(spare.info().size_bytes, copy);
  ASSERT_TRUE(spare.read(at, b.bytes()));
  b.bytes()[offset] = value;
  std::fill_n(b.data() + 8, 4, std::byte{});
  const std::uint32_t crc = crc32c(b.bytes());
  for (unsigned i = 0; i < 4; ++i)
    b.bytes()[8 + i] = static_cast<std::byte>(crc >> (8 * i));
  ASSERT_TRUE(spare.write(at, b.bytes(), Durability::cached));
}

TEST(Features, bits_of_a_newer_build_are_honoured) {
  struct Case {
    std::size_t offset;
    bool reads, writes;
  };
  for (const Case& c :
       {Case{16, true, true}, Case{24, true, false}, Case{32, false, false}})
    for (std::uint32_t copies : {1U, 2U, 3U}) {
      SCOPED_TRACE(testing::Message() << c.offset << " " << copies);
      Pair pair;
      for (CopyIndex copy : kCopies)
        if (copies & copy_bit(copy))
          forge_superblock(pair.spare, copy, c.offset, std::byte{0x80});
      const auto before = content_of(pair.spare);
      EXPECT_EQ(pair.try_open(pair.spare, true).ok(), c.reads);
      EXPECT_EQ(before, content_of(pair.spare));
      const auto store = pair.try_open(pair.spare, false);
      EXPECT_EQ(store.ok(), c.writes);
      if (c.writes) continue;
      EXPECT_TRUE(has(store.error().text(), "newer build"));
      EXPECT_EQ(before, content_of(pair.spare));
    }
}

TEST(Features, another_version_is_refused_and_never_repaired) {
  for (std::uint32_t copies : {1U, 2U, 3U}) {
    Pair pair;
    for (CopyIndex copy : kCopies)
      if (copies & copy_bit(copy))
        forge_superblock(pair.spare, copy, 12, std::byte{2});
    const auto before = content_of(pair.spare);
    for (bool read_only : {false, true}) {
      const auto store = pair.try_open(pair.spare, read_only);
      ASSERT_FALSE(store);
      EXPECT_TRUE(has(store.error().text(), "format version 2"));
    }
    FormatRequest request;
    request.replace = random_uuid();
    EXPECT_TRUE(has(refused(pair.spare, pair.main, request), "another format"));
    EXPECT_EQ(before, content_of(pair.spare));
  }
}

}  // namespace
}  // namespace nbd_remap
