// SPDX-License-Identifier: BSD-3-Clause
// What a Volume offers to a disk that is to take MAIN's place.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/volume/healer.hpp"
#include "plugins/volume/request_split.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {
Status Volume::read_main(VolumeOffset offset, Bytes buffer, bool patient,
                         MainContent& found) {
  if (gate_.closed()) return stopping_error();
  std::fill(buffer.begin(), buffer.end(), std::byte{});
  const std::uint64_t bytes = block_bytes();
  for (const Piece& piece : split_request(offset, buffer.size(),
                                          store_->table(), store_->layout())) {
    if (piece.place != Piece::Place::clean &&
        piece.place != Piece::Place::main) {
      std::vector<BlockNo> blocks;
      for (std::uint64_t b = piece.offset.value / bytes;
           b * bytes < piece.offset.value + piece.length; ++b)
        blocks.push_back(BlockNo{b});
      if (piece.place == Piece::Place::unreadable && !on_spare(blocks))
        found.holes = true;
      else
        found.on_spare.insert(found.on_spare.end(), blocks.begin(),
                              blocks.end());
      continue;
    }
    if (Status answers = main_answers(); !answers) return answers;
    const std::uint64_t start = piece.offset.value;
    const std::uint64_t end = start + piece.length;
    const auto part = [&](std::uint64_t a, std::uint64_t b) {
      return buffer.subspan(a - offset.value, b - a);
    };
    Status status = main_->read(piece.device, part(start, end));
    if (status) continue;
    if (!is_medium(status) || !patient) return status;
    for (std::uint64_t at = start; at < end;) {
      const BlockNo block{at / bytes};
      const std::uint64_t next = std::min(end, (block.value + 1) * bytes);
      status = main_->read(DeviceOffset{at}, part(at, next));
      if (!status && !is_medium(status)) return status;
      if (!status) {
        AlignedBuffer content(bytes);
        const auto known = healer_->read_sectors(block, content.bytes());
        if (!known) return known.error();
        const std::uint64_t base = block.value * bytes;
        for (std::uint64_t s = at; s < next; s += kSectorBytes) {
          if (*known >> (s - base) / kSectorBytes & 1)
            std::copy_n(content.data() + (s - base), kSectorBytes,
                        part(s, s + kSectorBytes).begin());
          else
            found.unreadable.push_back(s / kSectorBytes);
        }
      }
      at = next;
    }
  }
  return {};
}

bool Volume::on_spare(const std::vector<BlockNo>& blocks) const {
  return std::all_of(blocks.begin(), blocks.end(), [&](BlockNo block) {
    const auto entry =
        store_->table().find_first(block, BlockNo{block.value + 1});
    return entry && entry->remapped();
  });
}

Status Volume::mark_unreadable(const std::vector<std::uint64_t>& sectors) {
  if (sectors.empty()) return {};
  const std::uint64_t from = sectors.front() * kSectorBytes;
  const std::uint64_t to = (sectors.back() + 1) * kSectorBytes;
  return alone_in(VolumeOffset{from}, to - from,
                  [&] { return healer_->mark_pending(sectors); });
}

Status Volume::detach_pending(BlockNo block) {
  const auto entry =
      store_->table().find_first(block, BlockNo{block.value + 1});
  if (!entry || entry->remapped()) return {};
  const auto probed = healer_->probe_sectors(block);
  if (!probed) return probed.error();
  const std::uint64_t readable = *probed;
  const std::uint64_t bytes = block_bytes();
  return alone_in(VolumeOffset{block.value * bytes}, bytes, [&]() -> Status {
    const auto now =
        store_->table().find_first(block, BlockNo{block.value + 1});
    if (!now || now->remapped()) return {};
    MapCounts counts;
    return healer_->remap(block, 1, readable, counts,
                          "what another MAIN did not get", true);
  });
}

Status Volume::alone_in(VolumeOffset offset, std::uint64_t length,
                        const std::function<Status()>& body) {
  const auto pass = gate_.enter();
  if (!pass) return stopping_error();
  return locked(Mode::exclusive, offset, length, body);
}

// Never while a quiesce lasts: what is being saved then is one pair of disks.
Status Volume::hold_gate(std::chrono::milliseconds drain) {
  if (!gate_.hold(drain))
    return make_error(
        ETIMEDOUT,
        fmt::format("volume: {} requests have not ended within {} ms",
                    gate_.inside(), drain.count()));
  const bool closed = gate_.closed();
  if (!closed && !gate_.paused()) return {};
  gate_.release();  // before words that need memory
  return closed ? stopping_error() : make_error(ETIMEDOUT, "volume: quiesced");
}

Status Volume::alone(std::chrono::milliseconds drain,
                     const std::function<Status(Disk& main)>& change) {
  if (Status held = hold_gate(drain); !held) return held;
  const HeldGate release{gate_};
  try {
    return change(*main_);
  } catch (const std::bad_alloc&) {
    return make_error(ErrorClass::caller, ENOMEM, "volume");
  }
}

Status Volume::set_main(const std::string& identity, std::uint64_t disk_bytes) {
  Status status = store_->set_main(identity, disk_bytes);
  if (status) breaker_.begin_anew();
  return status;
}

}  // namespace nbd_remap
