// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/state_area.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {
namespace {

const StatePlace& place_of(StateKind kind, unsigned which) {
  return kStatePlaces[2 * (static_cast<std::uint32_t>(kind) - 1) + which];
}

}  // namespace

StateArea::StateArea(Backend& spare, DeviceOffset at, const Uuid& uuid,
                     std::function<Status()> may_write)
    : spare_(spare), at_(at), uuid_(uuid), may_write_(std::move(may_write)) {}

Status StateArea::look(StateKind kind, Newest& newest) {
  Newest found;
  for (unsigned which : {0U, 1U}) {
    const StatePlace& place = place_of(kind, which);
    AlignedBuffer buffer(place.bytes);
    Status status = spare_.read({at_.value + place.at}, buffer.bytes());
    if (!status && status.error().error_class != ErrorClass::medium)
      return status;
    if (!status) continue;
    ConstBytes rest = buffer.bytes();
    const auto header = unpack_state(rest);
    if (!header || header->uuid != uuid_ ||
        rest.size() > max_state_bytes(kind) ||
        header->kind != static_cast<std::uint32_t>(kind) ||
        header->sequence <= found.sequence)
      continue;
    found.sequence = header->sequence;
    found.place = which;
    found.content.assign(rest.begin(), rest.end());
  }
  found.known = true;
  newest = std::move(found);
  return {};
}

Result<std::vector<std::byte>> StateArea::read(StateKind kind) {
  const auto pass = gate_.enter();
  Newest found;
  if (Status status = look(kind, found); !status)
    return std::move(status).error();
  std::vector<std::byte> content = std::move(found.content);
  found.bad = newest_of(kind).bad;
  newest_of(kind) = std::move(found);
  return content;
}

Status StateArea::write(StateKind kind, ConstBytes content) {
  if (content.size() > max_state_bytes(kind))
    return make_error(ErrorClass::bug, EIO,
                      fmt::format("spare: a state of {} bytes, at most {} fit",
                                  content.size(), max_state_bytes(kind)));
  const auto pass = gate_.enter();
  if (Status may = may_write_(); !may) return may;
  Newest& newest = newest_of(kind);
  if (!newest.known) {
    if (Status status = look(kind, newest); !status) return status;
    newest.content = {};
  }
  // What an older note says of a replacement must not be found again: there
  // the other place has to be written, or nothing is noted.
  const bool either = kind != StateKind::replace;
  unsigned which = either && newest.bad ? newest.place : 1 - newest.place;
  Status status = put(spare_, kind, which, newest.sequence + 1, content);
  if (status) status = spare_.flush();
  if (!status && either && status.error().error_class == ErrorClass::medium) {
    newest.bad = which != newest.place;
    which = 1 - which;
    status = put(spare_, kind, which, newest.sequence + 1, content);
    if (status) status = spare_.flush();
  }
  if (!status) return status;
  ++newest.sequence;
  newest.place = which;
  return {};
}

Status StateArea::put(Backend& disk, StateKind kind, unsigned which,
                      std::uint64_t sequence, ConstBytes content) const {
  if (sequence > kMaxCount)
    return make_error(ErrorClass::medium, EUCLEAN,
                      "a state of a sequence that nobody could read");
  AlignedBuffer buffer(
      round_up(kStateHeaderBytes + content.size(), kMaxBlockBytes));
  StateHeader header;
  header.kind = static_cast<std::uint32_t>(kind);
  header.uuid = uuid_;
  header.sequence = sequence;
  pack_state(header, content, buffer.bytes());
  return disk.write({at_.value + place_of(kind, which).at}, buffer.bytes(),
                    Durability::cached);
}

Status StateArea::copy_to(Backend& next, StateKind kind, ConstBytes instead) {
  for (const StateKind k :
       {StateKind::scan, StateKind::replace, StateKind::health}) {
    Newest found;
    if (Status status = look(k, found); !status) return status;
    if (found.sequence < newest_of(k).sequence)
      found.sequence = newest_of(k).sequence;
    if (k == kind) ++found.sequence;
    const ConstBytes content = k == kind ? instead : ConstBytes(found.content);
    if (found.sequence == 0) continue;
    if (Status status = put(next, k, found.place, found.sequence, content);
        !status)
      return status;
    found.content = {};
    newest_of(k) = std::move(found);
  }
  return {};
}

}  // namespace nbd_remap
