// SPDX-License-Identifier: BSD-3-Clause
// What plugins/backend/backend.hpp promises, clause by clause.

#include <algorithm>
#include <array>

#include "tests/contract/contract_fixture.hpp"

namespace nbd_remap {
namespace {

constexpr std::array kDurabilities{Durability::cached, Durability::fua};
constexpr std::uint64_t kHuge = ~std::uint64_t{0};

TEST_P(BackendContract, its_information_is_sane) {
  const BackendInfo& info = disk().info();
  EXPECT_EQ(info.size_bytes, kDiskBytes);
  EXPECT_TRUE(is_power_of_two(info.logical_block_bytes));
  EXPECT_GE(info.logical_block_bytes, kSectorBytes);
  EXPECT_TRUE(is_power_of_two(info.physical_block_bytes));
  EXPECT_GE(info.physical_block_bytes, info.logical_block_bytes);
  EXPECT_EQ(info.size_bytes % info.logical_block_bytes, 0U);
  EXPECT_FALSE(info.read_only);
  EXPECT_FALSE(info.name.empty());
  EXPECT_FALSE(info.identity.empty());
  EXPECT_LE(info.identity.size(), 95U);
  for (char c : info.identity) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
}

TEST_P(BackendContract, what_was_written_is_read_and_neighbours_are_not) {
  open(4 * kMiB);
  const std::uint64_t unit = logical();
  std::vector<std::byte> expected = pattern(1, 0, size());
  ASSERT_TRUE(disk().write({0}, expected, Durability::cached).ok());
  std::uint64_t seed = 2;
  for (std::uint64_t offset :
       {std::uint64_t{0}, 3 * unit, 4096 - (unit % 4096), kMiB + unit,
        3 * kMiB - unit, size() - unit, size() - 2 * kMiB})
    for (std::uint64_t length :
         {unit, 2 * unit, 4096 + unit, kMiB - unit, kMiB + unit}) {
      if (offset + length > size()) continue;
      // A vector's memory is not aligned to a page; one byte further it is
      // aligned to nothing.
      auto data = pattern(seed++, offset, length + 1);
      data.erase(data.begin());
      const Status s = disk().write({offset}, data, kDurabilities[seed % 2]);
      ASSERT_TRUE(s.ok()) << s.error().text();
      std::copy(data.begin(), data.end(),
                expected.begin() + static_cast<std::ptrdiff_t>(offset));
    }
  EXPECT_TRUE(same_bytes(read_all(disk(), 0, size()), expected));
}

TEST_P(BackendContract, reads_may_begin_and_end_at_any_byte) {
  open(4 * kMiB);
  const auto content = pattern(3, 0, size());
  ASSERT_TRUE(disk().write({0}, content, Durability::cached).ok());
  std::vector<std::byte> memory(2 * kMiB + 8192);
  const auto check = [&](std::uint64_t offset, std::uint64_t length,
                         std::size_t shift) {
    const Bytes part = Bytes(memory).subspan(shift, length);
    std::fill(memory.begin(), memory.end(), std::byte{0xee});
    const Status s = disk().read({offset}, part);
    ASSERT_TRUE(s.ok()) << s.error().text();
    EXPECT_TRUE(same_bytes(part, ConstBytes(content).subspan(offset, length)))
        << "read " << length << " at " << offset;
    // Nothing but the buffer was touched.
    EXPECT_EQ(memory[shift + length], std::byte{0xee});
    if (shift > 0) {
      EXPECT_EQ(memory[shift - 1], std::byte{0xee});
    }
  };
  for (std::uint64_t offset : {0, 1, 511, 512, 513, 4095, 4096, 4097, 1048575})
    for (std::uint64_t length : {1, 2, 511, 512, 513, 4096, 4097, 65536})
      check(offset, length, offset % 3);
  check(1, 2 * kMiB, 5);
  check(kMiB + 7, kMiB, 1);
  check(size() - 1, 1, 0);
  check(size() - 513, 513, 1);
}

TEST_P(BackendContract, requests_beyond_32_mib_work) {
  const std::uint64_t length = 33 * kMiB + logical();
  const std::uint64_t offset = 3 * logical();
  const auto data = pattern(4, offset, length);
  ASSERT_TRUE(disk().write({offset}, data, Durability::fua).ok());
  EXPECT_TRUE(same_bytes(read_all(disk(), offset, length), data));
  const std::vector<std::byte> got = read_all(disk(), offset + 1, length - 2);
  EXPECT_TRUE(same_bytes(got, ConstBytes(data).subspan(1, length - 2)));
  const Status s = disk().zero({offset}, length, ZeroMode::keep_allocated,
                               Durability::cached);
  ASSERT_TRUE(s.ok()) << s.error().text();
  EXPECT_TRUE(same_bytes(read_all(disk(), offset, length),
                         std::vector<std::byte>(length)));
}

TEST_P(BackendContract, a_range_beyond_the_end_is_refused_and_nothing_changes) {
  const std::uint64_t unit = logical();
  const std::uint64_t tail = 64 * 1024;
  const auto head_content = pattern(5, 0, tail);
  const auto tail_content = pattern(5, size() - tail, tail);
  ASSERT_TRUE(disk().write({0}, head_content, Durability::cached).ok());
  ASSERT_TRUE(
      disk().write({size() - tail}, tail_content, Durability::cached).ok());
  std::vector<std::byte> memory(2 * unit, std::byte{0x55});
  const auto refused = [&](const Status& s) {
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().error_class, ErrorClass::bug) << s.error().text();
    EXPECT_EQ(s.error().errnum, EINVAL);
  };
  // The second and fourth wrap round past 2^64.
  for (std::uint64_t offset : {size() - unit, round_down(kHuge, unit), size(),
                               round_down(kHuge, 4096) - 2 * unit + 4096,
                               size() + unit, std::uint64_t{1} << 63U}) {
    SCOPED_TRACE(offset);
    refused(disk().read({offset}, memory));
    refused(disk().write({offset}, memory, Durability::cached));
    refused(disk().write({offset}, memory, Durability::fua));
    for (ZeroMode mode :
         {ZeroMode::keep_allocated, ZeroMode::may_punch, ZeroMode::fast_only})
      refused(disk().zero({offset}, 2 * unit, mode, Durability::cached));
    refused(disk().trim({offset}, 2 * unit));
    refused(disk().cache({offset}, 2 * unit));
    const auto extent = disk().extent({offset}, 2 * unit);
    ASSERT_FALSE(extent.ok());
    refused(extent.error());
  }
  refused(disk().zero({unit}, round_down(kHuge, unit), ZeroMode::may_punch,
                      Durability::cached));
  refused(disk().trim({unit}, round_down(kHuge, unit)));
  EXPECT_TRUE(same_bytes(read_all(disk(), 0, tail), head_content));
  EXPECT_TRUE(same_bytes(read_all(disk(), size() - tail, tail), tail_content));
}

TEST_P(BackendContract, a_change_of_part_of_a_block_is_refused) {
  const std::uint64_t unit = logical();
  const auto content = pattern(6, 0, 4 * unit);
  ASSERT_TRUE(disk().write({0}, content, Durability::cached).ok());
  std::vector<std::byte> memory(2 * unit, std::byte{0x55});
  struct Range {
    std::uint64_t offset, length;
  };
  for (const Range& range : {Range{1, unit}, Range{0, unit - 1},
                             Range{unit / 2, unit / 2}, Range{unit - 1, 2}}) {
    const ConstBytes data = ConstBytes(memory).first(range.length);
    for (const Status& s :
         {disk().write({range.offset}, data, Durability::cached),
          disk().zero({range.offset}, range.length, ZeroMode::may_punch,
                      Durability::fua),
          disk().trim({range.offset}, range.length)}) {
      ASSERT_FALSE(s.ok()) << range.offset << " " << range.length;
      EXPECT_EQ(s.error().error_class, ErrorClass::bug) << s.error().text();
    }
  }
  EXPECT_TRUE(same_bytes(read_all(disk(), 0, 4 * unit), content));
}

TEST_P(BackendContract, a_length_of_zero_does_nothing) {
  const auto content = pattern(7, 0, 65536);
  ASSERT_TRUE(disk().write({0}, content, Durability::cached).ok());
  for (std::uint64_t offset : {std::uint64_t{0}, logical(), size()}) {
    EXPECT_TRUE(disk().read({offset}, {}).ok());
    for (Durability durability : kDurabilities) {
      EXPECT_TRUE(disk().write({offset}, {}, durability).ok());
      EXPECT_TRUE(
          disk().zero({offset}, 0, ZeroMode::may_punch, durability).ok());
    }
    EXPECT_TRUE(disk().trim({offset}, 0).ok());
    EXPECT_TRUE(disk().cache({offset}, 0).ok());
    const auto extent = disk().extent({offset}, 0);
    ASSERT_TRUE(extent.ok());
    EXPECT_EQ(extent->length, 0U);
  }
  EXPECT_TRUE(same_bytes(read_all(disk(), 0, 65536), content));
}

TEST_P(BackendContract, a_zeroed_range_reads_as_zeroes_and_no_more_does) {
  const std::uint64_t unit = logical();
  const std::uint64_t span = 3 * kMiB;
  const auto background = pattern(8, 0, span);
  for (ZeroMode mode :
       {ZeroMode::keep_allocated, ZeroMode::may_punch, ZeroMode::fast_only})
    for (Durability durability : kDurabilities) {
      ASSERT_TRUE(disk().write({0}, background, Durability::cached).ok());
      auto expected = background;
      struct Range {
        std::uint64_t offset, length;
      };
      for (const Range& range :
           {Range{0, unit}, Range{4096, 4096}, Range{3 * 4096 - unit, unit},
            Range{5 * 4096 + unit, 3 * 4096}, Range{kMiB, 65536},
            Range{2 * kMiB - 65536 - unit, 65536 + 2 * unit},
            Range{span - unit, unit}}) {
        const Status s =
            disk().zero({range.offset}, range.length, mode, durability);
        if (!s.ok()) {
          // Only fast_only may refuse, and then nothing has changed.
          ASSERT_EQ(mode, ZeroMode::fast_only) << s.error().text();
          ASSERT_EQ(s.error().errnum, ENOTSUP) << s.error().text();
          continue;
        }
        std::fill_n(
            expected.begin() + static_cast<std::ptrdiff_t>(range.offset),
            range.length, std::byte{});
      }
      EXPECT_TRUE(same_bytes(read_all(disk(), 0, span), expected))
          << "mode " << static_cast<int>(mode);
      // Written again, a zeroed range holds data again.
      ASSERT_TRUE(disk().write({0}, background, durability).ok());
      EXPECT_TRUE(same_bytes(read_all(disk(), 0, span), background));
    }
}

TEST_P(BackendContract, a_trim_leaves_its_neighbours_alone) {
  const std::uint64_t unit = logical();
  const std::uint64_t span = 3 * kMiB;
  const auto background = pattern(9, 0, span);
  struct Range {
    std::uint64_t offset, length;
  };
  for (const Range& range :
       {Range{0, unit}, Range{4096, 4096}, Range{2 * 4096 - unit, 2 * unit},
        Range{kMiB - unit, kMiB + 2 * unit}, Range{span - unit, unit}}) {
    ASSERT_TRUE(disk().write({0}, background, Durability::cached).ok());
    const Status s = disk().trim({range.offset}, range.length);
    ASSERT_TRUE(s.ok()) << s.error().text();
    const std::uint64_t end = range.offset + range.length;
    EXPECT_TRUE(same_bytes(read_all(disk(), 0, range.offset),
                           ConstBytes(background).first(range.offset)));
    EXPECT_TRUE(same_bytes(read_all(disk(), end, span - end),
                           ConstBytes(background).subspan(end)));
    // Its own content is unspecified until it is written.
    const auto data = pattern(10, range.offset, range.length);
    ASSERT_TRUE(disk().write({range.offset}, data, Durability::cached).ok());
    EXPECT_TRUE(same_bytes(read_all(disk(), range.offset, range.length), data));
  }
}

TEST_P(BackendContract, extents_stay_in_their_range_and_tell_no_lies) {
  std::vector<std::byte> expected(size());
  for (std::uint64_t offset :
       {std::uint64_t{0}, 5 * kMiB + 4096, 20 * kMiB, size() - 8192}) {
    const auto data = pattern(11, offset, 8192);
    ASSERT_TRUE(disk().write({offset}, data, Durability::cached).ok());
    std::copy(data.begin(), data.end(),
              expected.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  struct Range {
    std::uint64_t offset, length;
  };
  for (const Range& range :
       {Range{0, size()}, Range{1, size() - 1}, Range{0, 1}, Range{4095, 2},
        Range{size() - 1, 1}, Range{6 * kMiB + 13, 7}, Range{kMiB, 19 * kMiB},
        Range{20 * kMiB - 100, 9000}}) {
    SCOPED_TRACE(range.offset);
    std::uint64_t at = range.offset;
    const std::uint64_t end = range.offset + range.length;
    while (at < end) {
      const auto extent = disk().extent({at}, end - at);
      ASSERT_TRUE(extent.ok()) << extent.error().text();
      ASSERT_GT(extent->length, 0U);
      ASSERT_LE(extent->length, end - at);
      const auto content = ConstBytes(expected).subspan(at, extent->length);
      if (extent->zeroes) {
        EXPECT_TRUE(std::all_of(content.begin(), content.end(),
                                [](std::byte b) { return b == std::byte{}; }))
            << "called zeroes at " << at;
      }
      at += extent->length;
    }
  }
}

TEST_P(BackendContract, flush_and_fua_succeed_and_lose_nothing) {
  const auto data = pattern(12, 0, 64 * 1024);
  EXPECT_TRUE(disk().flush().ok());
  ASSERT_TRUE(disk().write({0}, data, Durability::cached).ok());
  EXPECT_TRUE(disk().flush().ok());
  ASSERT_TRUE(disk().write({kMiB}, data, Durability::fua).ok());
  EXPECT_TRUE(disk().flush().ok());
  EXPECT_TRUE(same_bytes(read_all(disk(), 0, data.size()), data));
  EXPECT_TRUE(same_bytes(read_all(disk(), kMiB, data.size()), data));
}

TEST_P(BackendContract, cache_changes_nothing) {
  const auto data = pattern(13, 0, 64 * 1024);
  ASSERT_TRUE(disk().write({0}, data, Durability::cached).ok());
  EXPECT_TRUE(disk().cache({1}, 70'000).ok());
  EXPECT_TRUE(disk().cache({size() - 1}, 1).ok());
  EXPECT_TRUE(same_bytes(read_all(disk(), 0, data.size()), data));
}

}  // namespace
}  // namespace nbd_remap
