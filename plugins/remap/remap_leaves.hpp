#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Leaf and Top: the sorted entries of a RemapTable in pieces, and the index of
// the pieces.

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "plugins/base/units.hpp"
#include "plugins/remap/remap_table.hpp"

namespace nbd_remap {

using Entries = std::span<const RemapEntry>;

// The chunk that malloc took for p: its usable part and its size field.
inline std::size_t heap_bytes(const void* p) {
  return malloc_usable_size(const_cast<void*>(p)) + sizeof(std::size_t);
}

// Some entries, sorted by block, in one allocation of exactly their size. Does
// not change once readers can see it.
class Leaf {
 public:
  struct Free {
    void operator()(const Leaf* leaf) const {
      ::operator delete(const_cast<Leaf*>(leaf));
    }
  };
  static std::unique_ptr<const Leaf, Free> make(Entries entries) {
    void* place = ::operator new(sizeof(Leaf) + entries.size_bytes());
    auto* leaf = new (place) Leaf(entries.size());
    std::uninitialized_copy(entries.begin(), entries.end(), leaf->data());
    return std::unique_ptr<const Leaf, Free>(leaf);
  }

  Entries entries() const { return {data(), size_}; }

 private:
  explicit Leaf(std::size_t size) : size_(size) {}
  RemapEntry* data() { return reinterpret_cast<RemapEntry*>(this + 1); }
  const RemapEntry* data() const {
    return reinterpret_cast<const RemapEntry*>(this + 1);
  }

  std::size_t size_;
};
static_assert(sizeof(Leaf) % alignof(RemapEntry) == 0);
using LeafPtr = std::unique_ptr<const Leaf, Leaf::Free>;

// The first entry at or after the block, or the end. Without branches, which a
// search for random blocks would mispredict every other time.
inline const RemapEntry* lower_bound(Entries entries, BlockNo block) {
  const RemapEntry* at = entries.data();
  for (std::size_t n = entries.size(); n > 0;) {
    const std::size_t half = (n + 1) / 2;
    at += half & -static_cast<std::size_t>(at[half - 1].block < block);
    n -= half;
  }
  return at;
}

// The leaves in order. Leaf i holds the blocks in [lows[i], lows[i + 1]), the
// first from 0, the last without end. There is at least one leaf, and none is
// empty unless it is the only one. Leaves pass from one Top to the next, so a
// Top does not own them. Once readers can see a Top, its size and lows do not
// change; leaves may be exchanged.
class Top {
 public:
  explicit Top(std::size_t size) : lows_(size), leaves_(size), sizes_(size) {}

  std::size_t size() const { return leaves_.size(); }
  std::uint64_t low(std::size_t i) const { return lows_[i]; }
  const Leaf* leaf(std::size_t i) const {
    return leaves_[i].load(std::memory_order_acquire);
  }
  Entries entries(std::size_t i) const { return leaf(i)->entries(); }

  // Before readers can see this Top.
  void set(std::size_t i, std::uint64_t low, const Leaf* leaf) {
    lows_[i] = i == 0 ? 0 : low;
    set_size(i, leaf);
    leaves_[i].store(leaf, std::memory_order_relaxed);
  }
  const Leaf* exchange(std::size_t i, const Leaf* leaf) {
    set_size(i, leaf);
    return leaves_[i].exchange(leaf);
  }

  // After the last set(), before readers can see this Top.
  void index() {
    const std::uint64_t last = lows_.back();
    while ((last >> shift_) >= kHintsPerLeaf * lows_.size()) ++shift_;
    hints_.resize((last >> shift_) + 2);
    std::uint32_t leaf = 0;
    for (std::size_t h = 0; h + 1 < hints_.size(); ++h) {
      while (leaf + 1 < lows_.size() && lows_[leaf + 1] <= h << shift_) ++leaf;
      hints_[h] = leaf;
    }
    hints_.back() = static_cast<std::uint32_t>(lows_.size() - 1);
  }

  // The leaf that holds the block, if any does.
  std::size_t find(BlockNo block) const {
    const std::uint64_t h =
        std::min<std::uint64_t>(block.value >> shift_, hints_.size() - 2);
    const std::uint64_t* low = lows_.data() + hints_[h];
    for (std::size_t n = hints_[h + 1] - hints_[h] + 1; n > 1;) {
      const std::size_t half = n / 2;
      low += half & -static_cast<std::size_t>(low[half] <= block.value);
      n -= half;
    }
    return static_cast<std::size_t>(low - lows_.data());
  }

  // lower_bound() in the entries of leaf i = find(block). Among many entries
  // nearly all its time is waiting for memory, and a bisection waits for one
  // cache line after the other. So it fetches, at once, the lines about the
  // place where the block lies if the entries are spread evenly.
  const RemapEntry* search(std::size_t i, Entries* entries,
                           BlockNo block) const {
    const Leaf* at = leaf(i);
    const float share = share_before(i, block);
    const auto guess_at = [share](std::size_t size) {
      return std::min(
          size, static_cast<std::size_t>(share * static_cast<float>(size)));
    };
    __builtin_prefetch(at);
    const std::size_t near =
        sizeof(Leaf) + guess_at(sizes_[i].load(std::memory_order_relaxed)) *
                           sizeof(RemapEntry);
    for (std::size_t line = 0; line <= 2 * kLinesAbout; ++line) {
      __builtin_prefetch(reinterpret_cast<const char*>(at) + near +
                         kCacheLine * line - kCacheLine * kLinesAbout);
    }

    *entries = at->entries();
    const std::size_t size = entries->size();
    const std::size_t guess = guess_at(size);
    const std::size_t from = guess - std::min(guess, kEntriesAbout);
    const std::size_t to = std::min(size, guess + kEntriesAbout);
    const bool inside = (from == 0 || (*entries)[from - 1].block < block) &&
                        (to == size || block <= (*entries)[to].block);
    return lower_bound(inside ? entries->subspan(from, to - from) : *entries,
                       block);
  }

  // Its arrays and the leaves.
  std::uint64_t heap_bytes() const {
    std::uint64_t bytes = nbd_remap::heap_bytes(lows_.data()) +
                          nbd_remap::heap_bytes(leaves_.data()) +
                          nbd_remap::heap_bytes(sizes_.data()) +
                          nbd_remap::heap_bytes(hints_.data());
    for (const auto& l : leaves_) bytes += nbd_remap::heap_bytes(l.load());
    return bytes;
  }

 private:
  static constexpr std::size_t kCacheLine = 64;
  // Entries at random places, of up to 128 in a leaf: the guess is off by
  // fewer than 6 two times in three.
  static constexpr std::size_t kEntriesAbout = 8;
  static constexpr std::size_t kLinesAbout =
      kEntriesAbout * sizeof(RemapEntry) / kCacheLine;

  void set_size(std::size_t i, const Leaf* leaf) {
    sizes_[i].store(static_cast<std::uint8_t>(leaf->entries().size()),
                    std::memory_order_relaxed);
  }

  // How much of the range of leaf i lies before the block, from 0 to 1.
  float share_before(std::size_t i, BlockNo block) const {
    const std::uint64_t next =
        i + 1 < size() ? lows_[i + 1] : ~std::uint64_t{0};
    return static_cast<float>(block.value - lows_[i]) /
           (static_cast<float>(next - lows_[i]) + 1.0F);
  }

  // Where leaves are spread evenly most hints leave one or two to choose from;
  // where they are crowded a bisection does the rest.
  static constexpr std::size_t kHintsPerLeaf = 4;

  std::vector<std::uint64_t> lows_;
  std::vector<std::atomic<const Leaf*>> leaves_;
  // How many entries leaf i has, or had a moment ago: good enough for a guess
  // before the leaf itself has come from memory.
  std::vector<std::atomic<std::uint8_t>> sizes_;
  // The leaf that holds the first of the blocks h << shift_ and following, and
  // at the end the last leaf: saves find() most of its steps.
  std::vector<std::uint32_t> hints_;
  unsigned shift_ = 0;
};
static_assert(RemapTable::kLeafEntries <= 255);

}  // namespace nbd_remap
