// SPDX-License-Identifier: BSD-3-Clause
// Random operations against a vector of bytes, from one thread and from many.

#include <algorithm>
#include <random>
#include <thread>

#include "tests/contract/contract_fixture.hpp"

namespace nbd_remap {
namespace {

// A disk and what it must hold, over the range [begin, begin + model.size()).
class Model {
 public:
  Model(Backend& disk, std::uint64_t begin, std::uint64_t length,
        std::uint64_t seed)
      : disk_(disk), begin_(begin), content_(length), random_(seed) {}

  // False, and a failed EXPECT, when disk and model differ.
  bool step() {
    const std::uint64_t unit = disk_.info().logical_block_bytes;
    const std::uint64_t kind = random_() % 100;
    if (kind < 45) return compare(random_range(1));
    const Range range = random_range(unit);
    const Durability durability =
        random_() % 64 == 0 ? Durability::fua : Durability::cached;
    if (kind < 85) return write(range, durability);
    if (kind < 95) return zero(range, durability);
    if (kind < 98) {
      // Unspecified afterwards, so written at once.
      const Status s = disk_.trim({begin_ + range.offset}, range.length);
      EXPECT_TRUE(s.ok()) << s.error().text();
      return s.ok() && write(range, durability);
    }
    return kind < 99 ? check_extent(range) : rare_flush();
  }
  bool check_all() { return compare({0, content_.size()}); }

 private:
  struct Range {
    std::uint64_t offset, length;
  };

  Range random_range(std::uint64_t unit) {
    // Mostly small; often one that begins or ends at the model's edge.
    const std::uint64_t units = content_.size() / unit;
    const std::uint64_t most = std::min<std::uint64_t>(
        units, std::max<std::uint64_t>(16384 / unit, 1));
    const std::uint64_t length = 1 + random_() % most;
    std::uint64_t offset = random_() % (units - length + 1);
    if (random_() % 16 == 0) offset = random_() % 2 ? 0 : units - length;
    return {offset * unit, length * unit};
  }

  bool compare(const Range& range) {
    const std::size_t shift = random_() % 4;
    std::vector<std::byte> got(range.length + shift);
    const Bytes part = Bytes(got).subspan(shift);
    const Status s = disk_.read({begin_ + range.offset}, part);
    EXPECT_TRUE(s.ok()) << s.error().text();
    const auto same = same_bytes(
        part, ConstBytes(content_).subspan(range.offset, range.length));
    EXPECT_TRUE(same) << "read " << range.length << " at " << range.offset;
    return s.ok() && same;
  }

  bool write(const Range& range, Durability durability) {
    const auto data =
        pattern(++writes_ % 251, begin_ + range.offset, range.length);
    const Status s = disk_.write({begin_ + range.offset}, data, durability);
    EXPECT_TRUE(s.ok()) << s.error().text();
    std::copy(data.begin(), data.end(),
              content_.begin() + static_cast<std::ptrdiff_t>(range.offset));
    return s.ok();
  }

  bool zero(const Range& range, Durability durability) {
    const auto mode = static_cast<ZeroMode>(random_() % 3);
    const Status s =
        disk_.zero({begin_ + range.offset}, range.length, mode, durability);
    if (!s.ok()) {
      const bool refused =
          mode == ZeroMode::fast_only && s.error().errnum == ENOTSUP;
      EXPECT_TRUE(refused) << s.error().text();
      return refused;
    }
    std::fill_n(content_.begin() + static_cast<std::ptrdiff_t>(range.offset),
                range.length, std::byte{});
    return true;
  }

  bool check_extent(const Range& range) {
    const auto extent = disk_.extent({begin_ + range.offset}, range.length);
    EXPECT_TRUE(extent.ok());
    if (!extent.ok()) return false;
    bool honest = extent->length > 0 && extent->length <= range.length;
    if (honest && extent->zeroes) {
      const auto content =
          ConstBytes(content_).subspan(range.offset, extent->length);
      honest = std::all_of(content.begin(), content.end(),
                           [](std::byte b) { return b == std::byte{}; });
    }
    EXPECT_TRUE(honest) << "extent at " << range.offset;
    return honest;
  }

  bool rare_flush() {
    if (random_() % 8 != 0) return true;
    const Status s = disk_.flush();
    EXPECT_TRUE(s.ok()) << s.error().text();
    return s.ok();
  }

  Backend& disk_;
  const std::uint64_t begin_;
  std::vector<std::byte> content_;
  std::mt19937_64 random_;
  std::uint64_t writes_ = 0;
};

// Mistake 5
TEST_P(BackendContract, random_operations_agree_with_a_vector_of_bytes) {
  open(256 * 1024);
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Model model(disk(), 0, size(), seed);
  for (std::uint32_t i = 0; i < GetParam().random_operations; ++i)
    ASSERT_TRUE(model.step()) << "operation " << i;
  EXPECT_TRUE(model.check_all());
}

TEST_P(BackendContract, threads_on_distinct_ranges_do_not_disturb_one_another) {
  open(4 * kMiB);
  constexpr std::uint64_t kThreads = 4;
  const std::uint64_t share = size() / kThreads;
  const std::uint32_t steps = GetParam().random_operations / 20;
  std::vector<Model> models;
  for (std::uint64_t i = 0; i < kThreads; ++i)
    models.emplace_back(disk(), i * share, share, 1000 + i);
  {
    std::vector<std::jthread> threads;
    for (Model& model : models)
      threads.emplace_back([&model, steps] {
        for (std::uint32_t i = 0; i < steps; ++i)
          if (!model.step()) return;
      });
  }
  for (Model& model : models) EXPECT_TRUE(model.check_all());
}

}  // namespace
}  // namespace nbd_remap
