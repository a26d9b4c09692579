#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NbdJournal: what a server has acked since the last good flush and may lose
// when it dies (contract C12): a copy of each write, the range of each zero.
// After a lost connection it is written again before anything else.
//
// Invariants  (1) Of every byte it holds the newest acked version only, so its
//                 pieces do not overlap and may be written in any order.
//             (2) What became durable since (a FUA write, a zero with FUA) is
//                 not in it, nor is anything older on the same range.
// Trims are not kept: after one the content is unspecified until written.
// Threads     one at a time: the owner's lock.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "plugins/base/units.hpp"

namespace nbd_remap {

class NbdJournal {
 public:
  // A write's data, copied before it is sent, as after its ack there may be no
  // memory left. Shared by the pieces that are left of it.
  using Copy = std::shared_ptr<const std::vector<std::byte>>;

  // What is left of one write or zero.
  struct Piece {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    Copy copy;               // null: zeroes
    std::uint64_t from = 0;  // where the data begins in copy
    std::uint32_t flags = 0;
    std::uint64_t order = 0;  // of the ack
  };

  // Acked: a write of copy (or, without one, a zero) with these flags. Throws
  // std::bad_alloc; then nothing is known of the range.
  void wrote(std::uint64_t offset, std::uint64_t length, Copy copy,
             std::uint32_t flags);
  // Acked and durable.
  void made_durable(std::uint64_t offset, std::uint64_t length);
  // A write failed there because the medium is bad: whoever asked has heard
  // it, so that the older content cannot be written either is no news.
  void failed(std::uint64_t offset, std::uint64_t length);
  bool known_bad(std::uint64_t offset, std::uint64_t length) const;

  // Taken before a flush is sent, given back when it has succeeded.
  std::uint64_t mark() const { return order_; }
  void flushed(std::uint64_t mark);

  bool empty() const { return acks_.empty(); }
  // Of all that was acked since the last flush, also of what was overwritten:
  // never less than what is held.
  std::size_t count() const { return acks_.size(); }
  std::uint64_t bytes() const { return bytes_; }
  std::vector<Piece> pieces() const;

 private:
  struct Ack {
    std::uint64_t order;
    std::uint64_t bytes;
  };
  struct Bad {
    std::uint64_t offset;
    std::uint64_t length;
    std::uint64_t order;
  };
  void forget(std::uint64_t offset, std::uint64_t length);

  std::map<std::uint64_t, Piece> pieces_;  // by offset
  std::deque<Ack> acks_;                   // by order
  std::vector<Bad> bad_;
  std::uint64_t bytes_ = 0;
  std::uint64_t order_ = 0;
};

}  // namespace nbd_remap
