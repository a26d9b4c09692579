// SPDX-License-Identifier: BSD-3-Clause
// What a server leaves for the next one: a torn or damaged write of it leaves
// the one before, and nothing of it is ever in the way of a slot or the map.
#include "plugins/remap/state_area.hpp"

#include <gtest/gtest.h>

#include "plugins/remap/remap_grow.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/unit/spare_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kBytes = kLeastBytesWithStateArea;

std::vector<std::byte> text(const std::string& words) {
  const auto bytes = std::as_bytes(std::span(words));
  return {bytes.begin(), bytes.end()};
}
std::vector<std::byte> many(std::size_t n, unsigned seed) {
  std::vector<std::byte> out(n);
  for (std::size_t i = 0; i < n; ++i)
    out[i] = static_cast<std::byte>((i * 31 + seed) >> 3);
  return out;
}
std::vector<std::byte> read(StateArea& area, StateKind kind) {
  auto got = area.read(kind);
  EXPECT_TRUE(got) << got.error().text();
  return got ? *got : text("error");
}
std::uint64_t place(const Layout& l, StateKind kind, unsigned which) {
  return l.state_at +
         kStatePlaces[2 * (static_cast<unsigned>(kind) - 1) + which].at;
}

// Mistake 3: what is new overlaps nothing that was there.
TEST(StateArea, lies_beside_everything_else_in_every_layout_that_has_one) {
  for (const StatePlace& p : kStatePlaces) {
    EXPECT_EQ(p.at % kMaxBlockBytes, 0U);
    EXPECT_EQ(p.bytes % kMaxBlockBytes, 0U);
    EXPECT_GE(p.bytes, max_state_bytes(p.kind) + kStateHeaderBytes);
    EXPECT_LE(p.at + p.bytes, kStateAreaBytes);
    for (const StatePlace& q : kStatePlaces)
      if (&p != &q) {
        EXPECT_TRUE(p.at + p.bytes <= q.at || q.at + q.bytes <= p.at);
      }
  }
  for (const std::uint32_t block : {4096U, 8192U, 16384U, 32768U})
    for (std::uint64_t bytes = kBytes; bytes < 40 * kBytes; bytes *= 3) {
      auto layout = fresh_layout(bytes + 512, block);
      ASSERT_TRUE(layout);
      for (int grown = 0; grown < 3; ++grown) {
        EXPECT_TRUE(is_possible(*layout));
        const std::uint64_t from = layout->state_at;
        ASSERT_EQ(from, kSuperblockPlaceBytes);
        const std::uint64_t to = from + kStateAreaBytes;
        EXPECT_GE(layout->slots_at, to);
        for (CopyIndex c : kCopies)
          EXPECT_TRUE(layout->superblock(c).value + kSuperblockPlaceBytes <=
                          from ||
                      layout->superblock(c).value >= to);
        EXPECT_GE(layout->head_at, to);
        EXPECT_GE(layout->checkpoint(CopyIndex::tail, 0).value, to);
        layout = grow_layout(*layout, least_grown_bytes(*layout) + kBytes);
        ASSERT_TRUE(layout);
      }
    }
  EXPECT_EQ(fresh_layout(kBytes - 1, 4096)->state_at, 0U);
  EXPECT_EQ(fresh_layout(kBytes - 1, 4096), compute_layout(kBytes - 1, 4096));
}

TEST(StateArea, what_format_says_would_do_does) {
  for (const std::uint32_t block : {4096U, 32768U})
    for (std::uint64_t slots : {1U, 2000U, 20'000U, 123'456U}) {
      const std::uint64_t bytes = fresh_bytes_for(slots, block);
      EXPECT_GE(fresh_layout(bytes, block)->slots, slots);
      EXPECT_LT(fresh_layout(bytes - kSuperblockPlaceBytes, block)
                    .value_or(Layout{})
                    .slots,
                slots);
    }
}

TEST(StateArea, its_place_is_in_the_superblock_and_is_checked) {
  Superblock sb;
  sb.main_bytes = 1 << 30;
  sb.layout = *fresh_layout(kBytes, 4096);
  AlignedBuffer block(kSuperblockBytes);
  pack_superblock(sb, block.bytes());
  const auto got = unpack_superblock(block.bytes());
  ASSERT_TRUE(got) << got.error().text();
  EXPECT_EQ(got->layout, sb.layout);
  EXPECT_EQ(got->features.compatible, kFeatureStateArea);
  for (const std::uint64_t at :
       {std::uint64_t{0}, kSuperblockPlaceBytes - 512,
        2 * kSuperblockPlaceBytes, ~std::uint64_t{0} << 15, kBytes}) {
    Superblock bad = sb;
    bad.features.compatible = kFeatureStateArea;
    bad.layout.state_at = at == 0 ? 1 : at;
    pack_superblock(bad, block.bytes());
    EXPECT_FALSE(unpack_superblock(block.bytes())) << at;
  }
}

TEST(StateArea, keeps_each_kind_over_restarts_and_growth) {
  MemoryBackend main(kMainBytes);
  MemoryBackend large(2 * kBytes + (8 << 20));
  MemoryBackend spare(kBytes);
  ASSERT_TRUE(format_spare(spare, main, {}));
  const auto log = no_log();
  const auto most = many(max_state_bytes(StateKind::scan), 1);
  {
    auto store = RemapStore::open(spare, binding_of(main), false, log);
    ASSERT_TRUE(store) << store.error().text();
    StateArea* area = (*store)->state_area();
    ASSERT_TRUE(area);
    EXPECT_TRUE(read(*area, StateKind::scan).empty());
    EXPECT_TRUE(read(*area, StateKind::replace).empty());
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(area->write(StateKind::scan, many(100 + i * 5000, i)));
      ASSERT_TRUE(
          area->write(StateKind::replace, text("r" + std::string(i, 'x'))));
      EXPECT_EQ(read(*area, StateKind::scan), many(100 + i * 5000, i));
    }
    ASSERT_TRUE(area->write(StateKind::health, text("health")));
    ASSERT_TRUE(area->write(StateKind::scan, most));
    EXPECT_EQ(area->write(StateKind::scan, many(most.size() + 1, 0))
                  .error()
                  .error_class,
              ErrorClass::bug);
    map_blocks(**store, 5, 200);
    ASSERT_TRUE((*store)->close());
  }
  // The same disk, larger.
  BackendInfo info = large.info();
  info.identity = spare.info().identity;
  MemoryBackend grown(info);
  ASSERT_TRUE(grown.write({0}, content_of(spare), Durability::cached));
  const MapState before = map_on(spare);
  ASSERT_TRUE(grow_spare(grown, log));
  EXPECT_TRUE(same(map_on(grown), before));
  auto store = RemapStore::open(grown, binding_of(main), false, log);
  ASSERT_TRUE(store) << store.error().text();
  ASSERT_TRUE((*store)->state_area());
  EXPECT_EQ(read(*(*store)->state_area(), StateKind::scan), most);
  EXPECT_EQ(read(*(*store)->state_area(), StateKind::replace), text("rxxxx"));
  EXPECT_EQ(read(*(*store)->state_area(), StateKind::health), text("health"));
}

TEST(StateArea, a_small_spare_has_none) {
  Pair pair;
  EXPECT_FALSE(pair.open()->state_area());
}

TEST(StateArea, every_slot_of_such_a_spare_can_be_used) {
  Pair pair(kBytes);
  auto store = pair.open();
  ASSERT_TRUE(store->state_area());
  ASSERT_TRUE(store->state_area()->write(StateKind::scan, many(131072, 3)));
  const Layout& l = store->layout();
  for (std::uint64_t n = 0; n < l.slots; ++n) {
    const auto slot = store->take_slot();
    ASSERT_TRUE(slot) << n;
    const auto data = many(4096, static_cast<unsigned>(n));
    ASSERT_TRUE(pair.spare.write(l.slot(*slot), data, Durability::cached));
    if (n % 977 == 0) {
      ASSERT_TRUE(store->commit({remapped(n, *slot)}));
    }
  }
  EXPECT_FALSE(store->take_slot());
  EXPECT_EQ(read(*store->state_area(), StateKind::scan), many(131072, 3));
}

TEST(StateArea, one_that_is_damaged_anywhere_counts_as_not_there) {
  Pair pair(kBytes);
  auto store = pair.open();
  StateArea& area = *store->state_area();
  ASSERT_TRUE(area.write(StateKind::scan, text("first")));
  ASSERT_TRUE(area.write(StateKind::scan, text("second")));
  const std::uint64_t newest = place(store->layout(), StateKind::scan, 1);
  AlignedBuffer sound(512);
  ASSERT_TRUE(pair.spare.read({newest}, sound.bytes()));
  for (std::size_t bit = 0; bit < (64 + 6) * 8; ++bit) {
    AlignedBuffer bad(512);
    std::copy_n(sound.data(), 512, bad.data());
    bad.data()[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    ASSERT_TRUE(pair.spare.write({newest}, bad.bytes(), Durability::cached));
    EXPECT_EQ(read(area, StateKind::scan), text("first")) << bit;
  }
  ASSERT_TRUE(pair.spare.write({newest}, sound.bytes(), Durability::cached));
  EXPECT_EQ(read(area, StateKind::scan), text("second"));
  // Of the other kind, with a checksum that fits.
  AlignedBuffer all(160 << 10);
  ASSERT_TRUE(pair.spare.read({newest}, all.bytes()));
  ASSERT_TRUE(pair.spare.write({place(store->layout(), StateKind::replace, 0)},
                               all.first(96 << 10), Durability::cached));
  EXPECT_TRUE(read(area, StateKind::replace).empty());
}

TEST(StateArea, what_was_there_is_not_of_the_next_spare) {
  Pair pair(kBytes);
  const Uuid uuid = pair.open()->status().superblock.uuid;
  ASSERT_TRUE(pair.open()->state_area()->write(StateKind::scan, text("old")));
  // Of a SPARE that was copied here, and formatted with another UUID since.
  Uuid other = uuid;
  other[0] ^= 1U;
  StateArea foreign(pair.spare, DeviceOffset{pair.open()->layout().state_at},
                    other, [] { return Status(); });
  EXPECT_TRUE(read(foreign, StateKind::scan).empty());
  FormatRequest again;
  again.replace = uuid;
  again.uuid = uuid;
  ASSERT_TRUE(format_spare(pair.spare, pair.main, again));
  EXPECT_TRUE(read(*pair.open()->state_area(), StateKind::scan).empty());
}

// The last sequence that can be read: what went beyond it would be lost.
TEST(StateArea, after_the_last_sequence_nothing_is_written) {
  Pair pair(kBytes);
  auto store = pair.open();
  StateHeader last;
  last.kind = static_cast<std::uint32_t>(StateKind::scan);
  last.uuid = store->status().superblock.uuid;
  last.sequence = kMaxCount;
  AlignedBuffer bytes(kMaxBlockBytes);
  pack_state(last, text("last"),
             bytes.bytes().first(kStateHeaderBytes + text("last").size()));
  ASSERT_TRUE(
      pair.spare.write(DeviceOffset{place(store->layout(), StateKind::scan, 0)},
                       bytes.bytes(), Durability::cached));
  StateArea& area = *store->state_area();
  const Status status = area.write(StateKind::scan, text("more"));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().errnum, EUCLEAN);
  EXPECT_EQ(read(area, StateKind::scan), text("last"));
}

TEST(StateArea, an_unreadable_place_leaves_the_other_one) {
  MemoryBackend memory(kBytes);
  FaultyBackend spare(memory);
  MemoryBackend main(kMainBytes);
  ASSERT_TRUE(format_spare(spare, main, {}));
  auto store = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store);
  StateArea& area = *(*store)->state_area();
  ASSERT_TRUE(area.write(StateKind::scan, text("first")));
  ASSERT_TRUE(area.write(StateKind::scan, text("second")));
  const std::uint64_t at = place((*store)->layout(), StateKind::scan, 1);
  const auto bad = spare.add_bad_range(FaultOp::read, at, 512, EIO);
  EXPECT_EQ(read(area, StateKind::scan), text("first"));
  EXPECT_GE(spare.fired(bad), 1U);
}

// A place that takes no writes costs a try, not the notes; but of a replacement
// what the other place says must not be found again.
TEST(StateArea, a_place_that_takes_no_writes_is_left_alone) {
  MemoryBackend memory(kBytes);
  FaultyBackend spare(memory);
  MemoryBackend main(kMainBytes);
  ASSERT_TRUE(format_spare(spare, main, {}));
  auto store = RemapStore::open(spare, binding_of(main), false, no_log());
  ASSERT_TRUE(store);
  StateArea& area = *(*store)->state_area();
  ASSERT_TRUE(area.write(StateKind::scan, text("0")));
  ASSERT_TRUE(area.write(StateKind::replace, text("0")));
  const auto bad = spare.add_bad_range(
      FaultOp::write, place((*store)->layout(), StateKind::scan, 1), 512, EIO);
  spare.extend(bad, place((*store)->layout(), StateKind::replace, 1), 512);
  for (int i = 1; i < 5; ++i) {
    ASSERT_TRUE(area.write(StateKind::scan, text(std::to_string(i))));
    EXPECT_EQ(spare.fired(bad), 1U) << "it is tried again and again";
    EXPECT_EQ(read(area, StateKind::scan), text(std::to_string(i)));
  }
  EXPECT_FALSE(area.write(StateKind::replace, text("1")));
  EXPECT_EQ(read(area, StateKind::replace), text("0"));
}

TEST(StateArea, a_power_cut_leaves_the_last_state_or_the_one_under_way) {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CrashBackend spare(kBytes);
    MemoryBackend main(kMainBytes);
    ASSERT_TRUE(format_spare(spare, main, {}));
    {
      auto store = RemapStore::open(spare, binding_of(main), false, no_log());
      ASSERT_TRUE(store);
      StateArea& area = *(*store)->state_area();
      for (unsigned i = 0; i <= seed % 4; ++i)
        ASSERT_TRUE(area.write(StateKind::scan, many(20'000, i)));
      spare.power_cut_after(seed % 3);
      (void)area.write(StateKind::scan, many(20'000, 99));
      spare.crash(seed);
    }
    auto store = RemapStore::open(spare, binding_of(main), false, no_log());
    ASSERT_TRUE(store) << seed;
    const auto got = read(*(*store)->state_area(), StateKind::scan);
    EXPECT_TRUE(got == many(20'000, seed % 4) || got == many(20'000, 99))
        << "seed " << seed;
    lost += got == many(20'000, seed % 4);
  }
  EXPECT_GT(lost, 0);
}

TEST(StateArea, a_server_that_lost_spare_writes_nothing_there) {
  Pair pair(kBytes);
  auto first = pair.open();
  ASSERT_TRUE(first->state_area()->write(StateKind::scan, text("first")));
  auto second = pair.open();
  ASSERT_FALSE(first->commit({pending(3, 0)}));
  ASSERT_TRUE(first->taken_over());
  EXPECT_EQ(
      first->state_area()->write(StateKind::scan, text("x")).error().errnum,
      ESHUTDOWN);
  auto reader = pair.try_open(pair.spare, true);
  ASSERT_TRUE(reader);
  EXPECT_EQ((*reader)->state_area()->write(StateKind::scan, {}).error().errnum,
            EROFS);
  EXPECT_EQ(read(*(*reader)->state_area(), StateKind::scan), text("first"));
}

}  // namespace
}  // namespace nbd_remap
