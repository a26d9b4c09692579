// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/remap_table.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <span>

#include "plugins/base/mutex.hpp"
#include "plugins/remap/remap_leaves.hpp"
#include "plugins/remap/remap_readers.hpp"

namespace nbd_remap {
namespace {

// load() leaves room, so that the first puts after it do not all split.
constexpr std::size_t kLoadedLeafEntries = RemapTable::kLeafEntries * 7 / 8;
constexpr int kRegionBits = 20;

// One bit per region of the volume, all regions of one size: set before the
// first entry of the region becomes visible, cleared only by load(). Blocks
// beyond the volume count to the last region.
class Regions {
 public:
  explicit Regions(std::uint64_t blocks)
      : shift_(std::max(
            0, static_cast<int>(std::bit_width(last(blocks))) - kRegionBits)),
        last_region_(last(blocks) >> shift_),
        words_(last_region_ / 64 + 1) {}

  void set(BlockNo block) {
    const std::uint64_t region = region_of(block);
    words_[region / 64].fetch_or(std::uint64_t{1} << region % 64);
  }
  // REQUIRES: first < end.
  bool any(BlockNo first, BlockNo end) const {
    const std::uint64_t from = region_of(first);
    const std::uint64_t to = region_of(BlockNo{end.value - 1});
    std::uint64_t mask = ~std::uint64_t{0} << from % 64;
    for (std::uint64_t w = from / 64; w < to / 64; ++w) {
      if (words_[w].load(std::memory_order_acquire) & mask) return true;
      mask = ~std::uint64_t{0};
    }
    mask &= ~std::uint64_t{0} >> (63 - to % 64);
    return words_[to / 64].load(std::memory_order_acquire) & mask;
  }
  // Keeps the bits of these blocks and clears the others.
  void keep_only(Entries entries) {
    auto entry = entries.begin();
    for (std::uint64_t w = 0; w < words_.size(); ++w) {
      std::uint64_t bits = 0;
      for (; entry != entries.end() && region_of(entry->block) / 64 == w;
           ++entry) {
        bits |= std::uint64_t{1} << region_of(entry->block) % 64;
      }
      words_[w].store(bits);
    }
  }
  std::size_t bytes() const { return heap_bytes(words_.data()); }

 private:
  std::uint64_t region_of(BlockNo block) const {
    return std::min(block.value >> shift_, last_region_);
  }
  static std::uint64_t last(std::uint64_t blocks) {
    return blocks == 0 ? 0 : blocks - 1;
  }

  const int shift_;
  const std::uint64_t last_region_;
  std::vector<std::atomic<std::uint64_t>> words_;
};

}  // namespace

class RemapTable::Impl {
 public:
  explicit Impl(std::uint64_t blocks) : regions_(blocks) {
    auto top = std::make_unique<Top>(1);
    LeafPtr leaf = Leaf::make({});
    top->set(0, 0, leaf.get());
    top->index();
    (void)leaf.release();
    top_ = top.release();
  }
  ~Impl() {
    const std::unique_ptr<const Top> top(top_.load());
    for (std::size_t i = 0; i < top->size(); ++i) LeafPtr(top->leaf(i)).reset();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // Invariant 4, although it may look at two leaves: a change waits, before it
  // returns and the next one can begin, for all who may have read what was
  // there before it. So a lookup meets at most one change.
  std::optional<RemapEntry> find_first(BlockNo first, BlockNo end) const {
    if (first >= end || !regions_.any(first, end)) return std::nullopt;
    const Readers::Pass pass(readers_);
    const Top* top = top_.load(std::memory_order_acquire);
    std::size_t i = top->find(first);
    Entries entries;
    const RemapEntry* at = top->search(i, &entries, first);
    if (at == entries.data() + entries.size()) {
      if (++i == top->size() || top->low(i) >= end.value) return std::nullopt;
      at = top->entries(i).data();
    }
    if (at->block >= end) return std::nullopt;
    return *at;
  }

  void put(const RemapEntry& entry) {
    MutexLock lock(mu_);
    const Top* top = top_.load();
    const std::size_t i = top->find(entry.block);
    const Entries old = top->entries(i);
    const RemapEntry* at = lower_bound(old, entry.block);
    const RemapEntry* old_end = old.data() + old.size();
    const bool replaces = at != old_end && at->block == entry.block;
    if (replaces && *at == entry) return;
    const RemapEntry before = replaces ? *at : RemapEntry{};

    std::array<RemapEntry, kLeafEntries + 1> buffer;
    RemapEntry* out = std::copy(old.data(), at, buffer.data());
    *out++ = entry;
    out = std::copy(replaces ? at + 1 : at, old_end, out);
    const Entries all(buffer.data(), out);
    if (all.size() <= kLeafEntries) {
      LeafPtr leaf = Leaf::make(all);
      regions_.set(entry.block);
      swap_leaf(i, std::move(leaf));
    } else {
      std::array<LeafPtr, 2> halves{Leaf::make(all.first(all.size() / 2)),
                                    Leaf::make(all.subspan(all.size() / 2))};
      auto next = make_top_with(i, i + 1, halves);
      regions_.set(entry.block);
      swap_top(std::move(next), i, i + 1, halves);
    }
    if (replaces) count(before, -1);
    count(entry, 1);
  }

  void erase(BlockNo block) {
    MutexLock lock(mu_);
    const Top* top = top_.load();
    const std::size_t i = top->find(block);
    const Entries old = top->entries(i);
    const RemapEntry* at = lower_bound(old, block);
    if (at == old.data() + old.size() || at->block != block) return;
    const RemapEntry before = *at;

    // A leaf that has become small is joined with the next (the last one with
    // the one before), so that erasing gives memory back and leaves no empty
    // leaf behind.
    const std::size_t size = top->size();
    std::size_t from = i;
    std::size_t to = i + 1;
    const std::size_t neighbour = i + 1 < size ? i + 1 : i - 1;
    if (size > 1 &&
        old.size() - 1 + top->entries(neighbour).size() <= kLeafEntries / 2) {
      from = std::min(i, neighbour);
      to = from + 2;
    }
    std::array<RemapEntry, kLeafEntries> buffer;
    RemapEntry* out = buffer.data();
    for (std::size_t j = from; j < to; ++j) {
      const Entries entries = top->entries(j);
      out = std::copy_if(entries.begin(), entries.end(), out,
                         [&](const RemapEntry& e) { return e.block != block; });
    }
    std::array<LeafPtr, 1> one;
    const bool remove = out == buffer.data() && size > 1;
    if (!remove) one[0] = Leaf::make(Entries(buffer.data(), out));
    if (!remove && to == from + 1) {
      swap_leaf(i, std::move(one[0]));
    } else {
      const std::span<LeafPtr> with(one.data(), remove ? 0 : 1);
      swap_top(make_top_with(from, to, with), from, to, with);
    }
    count(before, -1);
  }

  void load(Entries entries) {
    assert(std::adjacent_find(entries.begin(), entries.end(),
                              [](const RemapEntry& a, const RemapEntry& b) {
                                return a.block >= b.block;
                              }) == entries.end());
    MutexLock lock(mu_);
    std::vector<LeafPtr> leaves;
    leaves.reserve(entries.size() / kLoadedLeafEntries + 1);
    Entries rest = entries;
    do {
      const auto n = std::min(rest.size(), kLoadedLeafEntries);
      leaves.push_back(Leaf::make(rest.first(n)));
      rest = rest.subspan(n);
    } while (!rest.empty());
    const std::size_t old_size = top_.load()->size();
    auto next = make_top_with(0, old_size, leaves);
    for (const RemapEntry& entry : entries) regions_.set(entry.block);
    swap_top(std::move(next), 0, old_size, leaves);
    // Nobody reads the old entries any more: their bits can go.
    regions_.keep_only(entries);
    const auto remapped = static_cast<std::uint64_t>(
        std::count_if(entries.begin(), entries.end(),
                      [](const RemapEntry& e) { return e.remapped(); }));
    remapped_ = remapped;
    pending_ = entries.size() - remapped;
  }

  std::vector<RemapEntry> snapshot() const {
    MutexLock lock(mu_);
    std::vector<RemapEntry> all;
    all.reserve(remapped_ + pending_);
    const Top* top = top_.load();
    for (std::size_t i = 0; i < top->size(); ++i) {
      const Entries entries = top->entries(i);
      all.insert(all.end(), entries.begin(), entries.end());
    }
    return all;
  }

  std::uint64_t remapped_count() const { return remapped_; }
  std::uint64_t pending_count() const { return pending_; }
  std::uint64_t memory_bytes() const {
    MutexLock lock(mu_);
    const Top* top = top_.load();
    return heap_bytes(this) + regions_.bytes() + heap_bytes(top) +
           top->heap_bytes();
  }

 private:
  // The present Top with its leaves [from, to) replaced. The new one shares
  // its leaves until swap_top().
  std::unique_ptr<Top> make_top_with(std::size_t from, std::size_t to,
                                     std::span<const LeafPtr> with) const
      REQUIRES(mu_) {
    const Top* old = top_.load();
    const std::size_t old_size = old->size();
    auto next = std::make_unique<Top>(old_size - (to - from) + with.size());
    std::size_t out = 0;
    for (std::size_t j = 0; j < from; ++j) {
      next->set(out++, old->low(j), old->leaf(j));
    }
    for (std::size_t j = 0; j < with.size(); ++j) {
      next->set(
          out++,
          j == 0 ? old->low(from) : with[j]->entries().front().block.value,
          with[j].get());
    }
    for (std::size_t j = to; j < old_size; ++j) {
      next->set(out++, old->low(j), old->leaf(j));
    }
    next->index();
    return next;
  }

  void swap_leaf(std::size_t i, LeafPtr leaf) noexcept REQUIRES(mu_) {
    const LeafPtr old(top_.load()->exchange(i, leaf.release()));
    readers_.wait_for_earlier();
  }

  // next is what make_top_with(from, to, with) gave.
  void swap_top(std::unique_ptr<Top> next, std::size_t from, std::size_t to,
                std::span<LeafPtr> with) noexcept REQUIRES(mu_) {
    for (LeafPtr& leaf : with) (void)leaf.release();
    const std::unique_ptr<Top> old(top_.exchange(next.release()));
    readers_.wait_for_earlier();
    for (std::size_t j = from; j < to; ++j) LeafPtr(old->leaf(j)).reset();
  }

  void count(const RemapEntry& entry, int change) {
    (entry.remapped() ? remapped_ : pending_) +=
        static_cast<std::uint64_t>(change);
  }

  mutable Readers readers_;
  Regions regions_;
  mutable Mutex mu_;       // held by every change
  std::atomic<Top*> top_;  // written under mu_
  std::atomic<std::uint64_t> remapped_{0};
  std::atomic<std::uint64_t> pending_{0};
};

RemapTable::RemapTable(std::uint64_t blocks)
    : impl_(std::make_unique<Impl>(blocks)) {}
RemapTable::~RemapTable() = default;

std::optional<RemapEntry> RemapTable::find_first(BlockNo first,
                                                 BlockNo end) const {
  return impl_->find_first(first, end);
}
void RemapTable::put(const RemapEntry& entry) { impl_->put(entry); }
void RemapTable::erase(BlockNo block) { impl_->erase(block); }
void RemapTable::load(const std::vector<RemapEntry>& entries) {
  impl_->load(entries);
}
std::vector<RemapEntry> RemapTable::snapshot() const {
  return impl_->snapshot();
}
std::uint64_t RemapTable::remapped_count() const {
  return impl_->remapped_count();
}
std::uint64_t RemapTable::pending_count() const {
  return impl_->pending_count();
}
std::uint64_t RemapTable::memory_bytes() const { return impl_->memory_bytes(); }

}  // namespace nbd_remap
