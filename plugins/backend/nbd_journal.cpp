// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_journal.hpp"

#include <algorithm>
#include <utility>

namespace nbd_remap {
namespace {

// Of writes that met a bad medium since the last flush. What is past this is
// not remembered, which makes a failed replay louder than it need be.
constexpr std::size_t kMaxBad = 4096;

}  // namespace

void NbdJournal::wrote(std::uint64_t offset, std::uint64_t length, Copy copy,
                       std::uint32_t flags) {
  if (length == 0) return;
  forget(offset, length);
  std::erase_if(bad_, [&](const Bad& bad) {
    return bad.offset >= offset && bad.offset + bad.length <= offset + length;
  });
  acks_.push_back({++order_, copy ? length : 0});
  bytes_ += acks_.back().bytes;
  pieces_.insert_or_assign(
      offset, Piece{offset, length, std::move(copy), 0, flags, order_});
}

void NbdJournal::made_durable(std::uint64_t offset, std::uint64_t length) {
  if (length > 0) forget(offset, length);
}

void NbdJournal::failed(std::uint64_t offset, std::uint64_t length) {
  if (bad_.size() < kMaxBad) bad_.push_back({offset, length, ++order_});
}

bool NbdJournal::known_bad(std::uint64_t offset, std::uint64_t length) const {
  return std::any_of(bad_.begin(), bad_.end(), [&](const Bad& bad) {
    return bad.offset < offset + length && offset < bad.offset + bad.length;
  });
}

// Takes the range out of what is held: what sticks out of it stays.
void NbdJournal::forget(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t end = offset + length;
  auto at = pieces_.upper_bound(offset);
  if (at != pieces_.begin()) --at;
  while (at != pieces_.end() && at->first < end) {
    Piece& old = at->second;
    const std::uint64_t old_end = old.offset + old.length;
    if (old_end <= offset) {
      ++at;
      continue;
    }
    if (old_end > end) {
      Piece tail = old;
      tail.offset = end;
      tail.length = old_end - end;
      tail.from += end - old.offset;
      pieces_.emplace(end, std::move(tail));
    }
    if (old.offset < offset) {
      old.length = offset - old.offset;
      ++at;
    } else {
      at = pieces_.erase(at);
    }
  }
}

void NbdJournal::flushed(std::uint64_t mark) {
  std::erase_if(pieces_,
                [&](const auto& piece) { return piece.second.order <= mark; });
  std::erase_if(bad_, [&](const Bad& bad) { return bad.order <= mark; });
  while (!acks_.empty() && acks_.front().order <= mark) {
    bytes_ -= acks_.front().bytes;
    acks_.pop_front();
  }
}

std::vector<NbdJournal::Piece> NbdJournal::pieces() const {
  std::vector<Piece> out;
  out.reserve(pieces_.size());
  for (const auto& [offset, piece] : pieces_) out.push_back(piece);
  return out;
}

}  // namespace nbd_remap
