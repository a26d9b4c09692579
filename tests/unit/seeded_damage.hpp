#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Seeded damages of one copy of a map. Which bytes mean something is said here,
// apart from the reader: superblock, newest checkpoint with its entries,
// records up to the end of the log. The rest (the other area, older records,
// padding, what follows the superblock) is under no checksum that anyone reads.

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "plugins/base/crc32c.hpp"
#include "tests/unit/worn_spare.hpp"

namespace nbd_remap {

// How the bytes of a range are damaged.
inline const std::vector<std::string> kRaw{"zeroes",     "noise", "one bit",
                                           "read error", "moved", "torn"};
// What is changed in one structure, under a right checksum.
inline const std::vector<std::string> kForged{
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

inline bool overlap(const Range& a, const Range& b) {
  return a.begin < b.begin + b.length && b.begin < a.begin + a.length;
}
inline Range in_sectors(const Range& r) {
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

}  // namespace nbd_remap
