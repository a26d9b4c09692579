// SPDX-License-Identifier: BSD-3-Clause
// Mistake 5: random requests against a model that knows of every sector what
// it must hold. NBD_REMAP_RANDOM_OPS and NBD_REMAP_SEED make it longer, or
// the same again.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tests/fakes/spotty_backend.hpp"
#include "tests/fakes/volume_fixture.hpp"

namespace nbd_remap {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Shape {
  std::uint32_t block_bytes;
  std::uint32_t logical;
  PendingWrite on_pending_write;
};

// What a sector must answer.
enum class State : std::uint8_t {
  known,  // its content, or EIO while MAIN cannot read it
  any,    // trimmed, or of a write that failed
  lost,   // EIO until it is written
};

class Model {
 public:
  Model(const Shape& shape, std::uint64_t seed)
      : shape_(shape),
        random_(seed),
        size_((40 << 20) + 3 * shape.logical),
        main_memory_(disk("main", size_)),
        spare_memory_(disk("spare", spare_bytes_for(4000, shape.block_bytes))),
        main_(main_memory_, seed + 1),
        spare_(spare_memory_, seed + 2),
        image_(size_),
        states_(size_ / kSectorBytes, State::known),
        noise_(size_) {
    for (std::size_t i = 0; i + 8 <= noise_.size(); i += 8) {
      const std::uint64_t word = random_();
      std::memcpy(noise_.data() + i, &word, 8);
    }
    options_.on_pending_write = shape.on_pending_write;
    options_.search_bound = std::chrono::hours(1);
    format_for(spare_memory_, main_memory_, shape.block_bytes);
    open();
    layout_ = volume_->status().store.superblock.layout;
  }

  void run(std::uint64_t operations) {
    for (op_ = 0; op_ < operations && !testing::Test::HasFailure(); ++op_) {
      if (op_ % 64 == 0) add_fault();
      if (op_ % 25'000 == 24'999) restart();
      step();
    }
    restart();
    const StoreStatus store = volume_->status().store;
    EXPECT_GT(store.remapped, 100U);
    EXPECT_GT(most_pending_, 0U);
    EXPECT_GT(store.slots.retired, 0U);
    EXPECT_GT(main_.failed_reads(), 100U);
    EXPECT_GT(main_.failed_writes(), 100U);
    EXPECT_GT(spare_.failed_writes(), 0U);
    EXPECT_GT(failed_, 0U);
  }

 private:
  struct Range {
    std::uint64_t offset, end;
    std::uint64_t first() const { return offset / kSectorBytes; }
    std::uint64_t last() const { return (end - 1) / kSectorBytes; }
    bool covers(std::uint64_t s) const {
      return offset <= s * kSectorBytes && (s + 1) * kSectorBytes <= end;
    }
  };

  BackendInfo disk(const char* name, std::uint64_t size) const {
    return fake_disk_info(name, size, shape_.logical, 4096);
  }
  void open() {
    volume_ = open_volume(main_, spare_, options_, clock_,
                          [](LogLevel, std::string_view) {});
  }
  std::uint64_t pick(std::uint64_t n) { return random_() % n; }
  std::uint64_t per_block() const { return shape_.block_bytes / kSectorBytes; }

  // The entries of the blocks of a range, by block from its first one.
  std::vector<std::optional<RemapEntry>> look(const Range& r) const {
    const std::uint64_t first = r.first() / per_block();
    std::vector<std::optional<RemapEntry>> out(r.last() / per_block() - first +
                                               1);
    for (const RemapEntry& e : volume_->entries(BlockNo{first}, out.size())) {
      if (e.block.value >= first + out.size()) break;
      out[e.block.value - first] = e;
    }
    return out;
  }
  bool bad_on_main(const std::vector<std::optional<RemapEntry>>& map,
                   const Range& r, std::uint64_t s) const {
    const auto& entry = map[s / per_block() - r.first() / per_block()];
    return main_.read_bad(s) && !(entry && entry->remapped());
  }

  Range pick_range() {
    const std::uint64_t kind = pick(50'000);
    const std::uint64_t most = kind == 0      ? 32 << 20
                               : kind < 150   ? 256 << 10
                               : kind < 4'000 ? 32 << 10
                                              : 4096;
    std::uint64_t length = 1 + pick(most);
    std::uint64_t offset = pick(size_);
    switch (pick(8)) {
      case 0:  // the first and the last bytes
        offset = pick(2) == 0 ? 0 : size_ - std::min(length, size_);
        break;
      case 1:
      case 2:
      case 3:
        offset = round_down(offset, shape_.logical);
        length = round_up(length, shape_.logical);
        break;
      case 4:
        offset = round_down(offset, kSectorBytes);
        length = round_up(length, kSectorBytes);
        break;
      default:
        break;
    }
    return {offset, std::min(offset + length, size_)};
  }

  void step() {
    const Range r = pick_range();
    const std::uint64_t kind = pick(100);
    if (kind < 45) return read(r);
    if (kind < 85) return change(r, false);
    if (kind < 92) return change(r, true);
    if (kind < 95) return trim(r);
    if (kind < 98) return extents(r);
    EXPECT_TRUE(volume_->flush()) << where();
  }

  std::string where() const {
    return "operation " + std::to_string(op_) + " of this seed";
  }

  void read(const Range& r) {
    const auto map = look(r);
    bool pending = false;
    bool bad = false;
    for (std::uint64_t s = r.first(); s <= r.last(); ++s) {
      pending |= states_[s] == State::lost;
      bad |= bad_on_main(map, r, s);
    }
    buffer_.resize(r.end - r.offset);
    const int answer = told(volume_->read(VolumeOffset{r.offset}, buffer_));
    ASSERT_EQ(answer, pending || bad ? EIO : 0)
        << where() << ": read " << r.offset << " to " << r.end;
    if (answer == 0) return compare(r);
    ++failed_;
    if (pending) return;
    for (std::uint64_t s = r.first(); s <= r.last(); ++s)
      if (bad_on_main(map, r, s)) states_[s] = State::lost;
  }

  void compare(const Range& r) {
    for (std::uint64_t s = r.first(); s <= r.last(); ++s) {
      if (states_[s] != State::known) continue;
      const std::uint64_t from = std::max(r.offset, s * kSectorBytes);
      const std::uint64_t to = std::min(r.end, (s + 1) * kSectorBytes);
      ASSERT_EQ(std::memcmp(buffer_.data() + (from - r.offset),
                            image_.data() + from, to - from),
                0)
          << where() << ": sector " << s;
    }
  }

  // A write, or zeroes.
  void change(const Range& r, bool zero) {
    const auto map = look(r);
    bool refused = false;  // part of a sector of which the rest is unknown
    bool clean = true;
    for (const auto& entry : map) clean &= !entry.has_value();
    for (std::uint64_t s : {r.first(), r.last()})
      if (!r.covers(s))
        refused |= states_[s] == State::lost || bad_on_main(map, r, s);
    const std::uint64_t length = r.end - r.offset;
    const Durability durability =
        pick(8) == 0 ? Durability::fua : Durability::cached;
    ConstBytes data;
    int answer = 0;
    if (zero) {
      zeroes_.resize(std::max<std::size_t>(zeroes_.size(), length));
      data = ConstBytes(zeroes_).first(length);
      const auto mode = static_cast<ZeroMode>(pick(3));
      const bool slow = !clean || r.offset % shape_.logical != 0 ||
                        length % shape_.logical != 0;
      answer =
          told(volume_->zero(VolumeOffset{r.offset}, length, mode, durability));
      if (mode == ZeroMode::fast_only && slow) {
        ASSERT_EQ(answer, ENOTSUP) << where();
        return;
      }
    } else {
      data = ConstBytes(noise_).subspan(pick(size_ - length + 1), length);
      answer = told(volume_->write(VolumeOffset{r.offset}, data, durability));
    }
    ASSERT_EQ(answer, refused ? EIO : 0)
        << where() << ": change " << r.offset << " to " << r.end;
    const auto after = look(r);
    failed_ += refused;
    if (!refused) std::memcpy(image_.data() + r.offset, data.data(), length);
    for (std::uint64_t s = r.first(); s <= r.last(); ++s) {
      const State old = states_[s];
      if (!refused && r.covers(s)) states_[s] = State::known;
      if (refused && !(bad_on_main(map, r, s) && !r.covers(s)) &&
          (r.covers(s) || old == State::known))
        states_[s] = State::any;
    }
    take_losses(r, map, after, refused);
  }

  // Sectors beside the request of blocks that it remapped: what MAIN could not
  // read is lost. After a failure the map is believed.
  void take_losses(const Range& r,
                   const std::vector<std::optional<RemapEntry>>& before,
                   const std::vector<std::optional<RemapEntry>>& after,
                   bool believe) {
    const std::uint64_t base = r.first() / per_block();
    for (std::size_t i = 0; i < after.size(); ++i) {
      const bool fresh = after[i] && after[i]->remapped() &&
                         !(before[i] && before[i]->remapped());
      for (std::uint64_t s = (base + i) * per_block();
           s < std::min((base + i + 1) * per_block(), states_.size()); ++s) {
        if (believe && after[i] && !(after[i]->valid >> (s % per_block()) & 1))
          states_[s] = State::lost;
        if (!believe && fresh && !r.covers(s) && main_.read_bad(s))
          states_[s] = State::lost;
      }
    }
  }

  void trim(const Range& r) {
    ASSERT_EQ(told(volume_->trim(VolumeOffset{r.offset}, r.end - r.offset,
                                 Durability::cached)),
              0)
        << where();
    for (std::uint64_t s = r.first(); s <= r.last(); ++s)
      if (r.covers(s) && states_[s] == State::known) states_[s] = State::any;
  }

  // From the beginning of the range to its end, extent by extent.
  void extents(const Range& r) {
    const auto map = look(r);
    std::uint64_t at = r.offset;
    while (at < r.end) {
      const auto extent = volume_->extent(VolumeOffset{at}, r.end - at);
      ASSERT_TRUE(extent) << where();
      ASSERT_GT(extent->length, 0U) << where();
      ASSERT_LE(extent->length, r.end - at) << where();
      const Range part{at, at + extent->length};
      at = part.end;
      if (!extent->hole && !extent->zeroes) continue;
      for (std::uint64_t s = part.first(); s <= part.last(); ++s) {
        ASSERT_FALSE(map[s / per_block() - r.first() / per_block()]) << where();
        if (states_[s] != State::known) continue;
        for (std::uint64_t b = std::max(part.offset, s * kSectorBytes);
             b < std::min(part.end, (s + 1) * kSectorBytes); ++b)
          ASSERT_EQ(image_[b], std::byte{}) << where() << ": byte " << b;
      }
    }
  }

  void add_fault() {
    using S = SpottyBackend;
    const StoreStatus store = volume_->status().store;
    most_pending_ = std::max(most_pending_, store.pending);
    if (store.slots.used + store.slots.retired + 500 > store.slots.slots)
      return;
    if (pick(12) == 0) {
      const std::uint64_t slot =
          layout_.slot(SlotNo{pick(layout_.slots)}).value;
      spare_.spoil(slot / kSectorBytes + pick(per_block()), S::kWriteBad);
      return;
    }
    constexpr std::array<std::uint8_t, 5> kKinds{
        S::kReadBad, S::kReadBad | S::kHeals, S::kWriteBad,
        S::kReadBad | S::kWriteBad, S::kReadBad | S::kWriteBad | S::kHeals};
    const std::uint8_t kind = kKinds.at(pick(kKinds.size()));
    std::uint64_t sector = pick(states_.size());
    if (pick(40) == 0) sector = pick(2) == 0 ? 0 : states_.size() - 1;
    for (std::uint64_t n = 1 + pick(8); n > 0 && sector < states_.size(); --n)
      main_.spoil(sector++, kind);
  }

  // Everything is compared, before and after.
  void restart() {
    audit();
    const auto before = volume_->entries(BlockNo{0}, ~std::size_t{0});
    const auto retired = volume_->status().store.slots.retired;
    ASSERT_GT(volume_->status().store.remapped, 0U) << "mistake 51";
    volume_->close_gate();
    ASSERT_TRUE(volume_->drain(std::chrono::seconds(1)));
    if (pick(2) == 0) {
      ASSERT_TRUE(volume_->close());
    }
    volume_.reset();
    open();
    ASSERT_EQ(volume_->entries(BlockNo{0}, ~std::size_t{0}), before);
    ASSERT_EQ(volume_->status().store.slots.retired, retired);
    audit();
  }

  void audit() {
    const Range all{0, size_};
    const auto map = look(all);
    for (std::uint64_t s = 0; s < states_.size(); ++s) {
      const auto& entry = map[s / per_block()];
      const bool invalid = entry && !(entry->valid >> (s % per_block()) & 1);
      ASSERT_EQ(states_[s] == State::lost, invalid)
          << where() << ": sector " << s;
    }
    for (std::uint64_t s = 0; s < states_.size();) {
      std::uint64_t n = 0;
      while (n < 2048 && s + n < states_.size() &&
             states_[s + n] != State::lost && !bad_on_main(map, all, s + n))
        ++n;
      if (n == 0) {
        ++s;
        continue;
      }
      const Range run{s * kSectorBytes, (s + n) * kSectorBytes};
      buffer_.resize(n * kSectorBytes);
      ASSERT_TRUE(volume_->read(VolumeOffset{run.offset}, buffer_)) << where();
      compare(run);
      s += n;
    }
  }

  const Shape shape_;
  std::mt19937_64 random_;
  const std::uint64_t size_;
  MemoryBackend main_memory_;
  MemoryBackend spare_memory_;
  SpottyBackend main_;
  SpottyBackend spare_;
  VolumeOptions options_;
  SystemClock clock_;
  std::unique_ptr<Volume> volume_;
  Layout layout_;
  std::vector<std::byte> image_;
  std::vector<State> states_;
  std::vector<std::byte> noise_;
  std::vector<std::byte> zeroes_;
  std::vector<std::byte> buffer_;
  std::uint64_t op_ = 0;
  std::uint64_t failed_ = 0;
  std::uint64_t most_pending_ = 0;
};

class VolumeRandom : public testing::TestWithParam<Shape> {};

TEST_P(VolumeRandom, every_request_answers_as_the_model_does) {
  const std::uint64_t seed = from_environment("NBD_REMAP_SEED", 20261121);
  const std::uint64_t operations =
      from_environment("NBD_REMAP_RANDOM_OPS", 600'000);
  SCOPED_TRACE("NBD_REMAP_SEED=" + std::to_string(seed));
  Model model(GetParam(), seed);
  model.run(operations);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, VolumeRandom,
    testing::Values(Shape{4096, 512, PendingWrite::main_first},
                    Shape{4096, 4096, PendingWrite::spare_first},
                    Shape{16384, 512, PendingWrite::spare_first},
                    Shape{16384, 4096, PendingWrite::main_first}),
    [](const auto& test) {
      return "blocks_of_" + std::to_string(test.param.block_bytes) +
             "_logical_" + std::to_string(test.param.logical);
    });

}  // namespace
}  // namespace nbd_remap
