#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the tests of the metadata share: a MAIN, a SPARE formatted for it, ways
// to open, copy and compare.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/remap/spare_format.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {

constexpr std::uint64_t kMainBlocks = 1 << 20;
constexpr std::uint64_t kMainBytes = kMainBlocks * kMinBlockBytes;
// Little more than a hundred slots and the shortest log, 64 records.
constexpr std::uint64_t kSmallSpareBytes = 1 << 20;

class LogLines {
 public:
  LogSink sink() {
    return [this](LogLevel level, std::string_view line) {
      MutexLock lock(mu_);
      lines_.push_back((level == LogLevel::info ? "info: " : "bad: ") +
                       std::string(line));
    };
  }
  bool have(const std::string& words) const {
    MutexLock lock(mu_);
    return std::any_of(lines_.begin(), lines_.end(), [&](const auto& line) {
      return line.find(words) != std::string::npos;
    });
  }
  std::string all() const {
    MutexLock lock(mu_);
    std::string text;
    for (const std::string& line : lines_) text += line + "\n";
    return text;
  }

 private:
  mutable Mutex mu_;
  std::vector<std::string> lines_ GUARDED_BY(mu_);
};

inline LogSink no_log() {
  return [](LogLevel, std::string_view) {};
}

inline Binding binding_of(const Backend& main) {
  Binding binding;
  binding.main_bytes = main.info().size_bytes;
  binding.main_identity = main.info().identity;
  binding.main_name = main.info().name;
  return binding;
}

// A disk with the same content and the same identity.
inline std::unique_ptr<MemoryBackend> twin_of(const Backend& disk) {
  auto twin = std::make_unique<MemoryBackend>(disk.info());
  AlignedBuffer all(disk.info().size_bytes);
  EXPECT_TRUE(const_cast<Backend&>(disk).read({0}, all.bytes()));
  EXPECT_TRUE(twin->write({0}, all.bytes(), Durability::cached));
  return twin;
}

inline std::vector<std::byte> content_of(Backend& disk) {
  std::vector<std::byte> all(disk.info().size_bytes);
  EXPECT_TRUE(disk.read({0}, all));
  return all;
}

inline bool same(const MapState& a, const MapState& b) {
  return a.entries == b.entries && a.retired == b.retired;
}

// The map as the metadata has it; empty if it cannot be believed.
inline MapState map_on(Backend& spare) {
  const auto survey = survey_metadata(spare);
  EXPECT_TRUE(survey) << survey.error().text();
  if (!survey) return {};
  EXPECT_TRUE(survey->best) << survey->refusal;
  return survey->best ? survey->chosen().state : MapState{};
}

inline std::string words_of(const Status& status) {
  return status ? "" : status.error().text();
}
template <class T>
std::string words_of(const Result<T>& result) {
  return result ? "" : result.error().text();
}
inline bool has(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}
inline void ruin(Backend& disk, DeviceOffset at, std::uint64_t length) {
  const std::vector<std::byte> bytes(length, std::byte{0x5a});
  ASSERT_TRUE(disk.write(at, bytes, Durability::cached));
}

inline RemapEntry remapped(std::uint64_t block, SlotNo slot,
                           std::uint64_t valid = 0xff) {
  return {BlockNo{block}, slot.value, valid};
}
inline RemapEntry pending(std::uint64_t block, std::uint64_t valid) {
  return {BlockNo{block}, RemapEntry::kNoSlot, valid};
}
inline RemapEntry clean(std::uint64_t block) { return pending(block, 0xff); }

struct Pair {
  explicit Pair(std::uint64_t spare_bytes = kSmallSpareBytes,
                std::uint64_t main_bytes = kMainBytes)
      : main(main_bytes), spare(spare_bytes) {
    const auto made = format_spare(spare, main, {});
    EXPECT_TRUE(made) << made.error().text();
  }
  Result<std::unique_ptr<RemapStore>> try_open(Backend& disk,
                                               bool read_only = false) {
    return RemapStore::open(disk, binding_of(main), read_only, log.sink());
  }
  std::unique_ptr<RemapStore> open(Backend& disk) {
    auto store = try_open(disk);
    EXPECT_TRUE(store) << store.error().text();
    return store ? std::move(*store) : nullptr;
  }
  std::unique_ptr<RemapStore> open() { return open(spare); }

  MemoryBackend main;
  MemoryBackend spare;
  LogLines log;
};

// Maps blocks first, first + step, ... each to a new slot, one commit each.
inline void map_blocks(RemapStore& store, std::uint64_t first,
                       std::uint64_t count, std::uint64_t step = 7) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto slot = store.take_slot();
    ASSERT_TRUE(slot);
    const Status status = store.commit({remapped(first + i * step, *slot)});
    ASSERT_TRUE(status) << status.error().text();
  }
}

inline RemapEntry entry_of(const RemapStore& store, std::uint64_t block) {
  const auto entry =
      store.table().find_first(BlockNo{block}, BlockNo{block + 1});
  return entry.value_or(clean(block));
}

}  // namespace nbd_remap
