// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/copy_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/crc32c.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;

class CopyReader {
 public:
  CopyReader(Backend& spare, const Superblock& superblock, CopyIndex copy,
             CopySurvey& out)
      : spare_(spare),
        sb_(superblock),
        layout_(superblock.layout),
        copy_(copy),
        out_(out) {}

  Status read_all() {
    if (auto status = read_checkpoint(); !status) return status;
    if (auto status = read_log(); !status) return status;
    build_state();
    return {};
  }

 private:
  void damage(std::string words) {
    out_.damages.push_back(fmt::format("{}: {}", copy_name(copy_), words));
    out_.map_sound = false;
  }

  // True: read. False: a damage was noted.
  Result<bool> read_or_note(DeviceOffset at, Bytes into, const char* what) {
    Status status = spare_.read(at, into);
    if (status) return true;
    if (status.error().error_class != ErrorClass::medium)
      return std::move(status).error();
    damage(fmt::format("{} at byte {} cannot be read", what, at.value));
    return false;
  }

  void suspect(const std::string& words) {
    out_.suspects.push_back(fmt::format("{}: {}", copy_name(copy_), words));
  }

  void saw(std::uint64_t sequence) {
    out_.max_sequence_seen = std::max(out_.max_sequence_seen, sequence);
  }

  Status read_checkpoint() {
    std::array<std::optional<CheckpointHeader>, 2> headers;
    for (unsigned area : {0U, 1U}) {
      AlignedBuffer block(layout_.block_bytes);
      auto got = read_or_note(layout_.checkpoint(copy_, area), block.bytes(),
                              "a checkpoint header");
      if (!got) return std::move(got).error();
      if (!*got) continue;
      auto header = unpack_checkpoint_header(block.bytes());
      if (header && header->uuid != sb_.uuid)
        header = make_error(EUCLEAN, "of another SPARE");
      if (!header) {
        suspect(fmt::format("checkpoint header at byte {}: {}",
                            layout_.checkpoint(copy_, area).value,
                            header.error().place));
        continue;
      }
      saw(header->sequence);
      headers[area] = *header;
    }
    // Newest first; only the newest must have its body.
    std::array<unsigned, 2> order{0, 1};
    if (headers[1] &&
        (!headers[0] || headers[1]->sequence > headers[0]->sequence))
      order = {1, 0};
    for (unsigned area : order) {
      if (!headers[area]) continue;
      auto whole = read_body(area, *headers[area]);
      if (!whole) return std::move(whole).error();
      if (*whole) {
        out_.area = area;
        out_.checkpoint_sequence = headers[area]->sequence;
        return {};
      }
      if (out_.map_sound)
        damage(fmt::format(
            "the checkpoint of sequence {} at byte {}: its "
            "entries do not fit their checksum",
            headers[area]->sequence, layout_.checkpoint(copy_, area).value));
    }
    if (out_.map_sound) damage("no checkpoint");
    no_checkpoint_ = true;
    return {};
  }

  Result<bool> read_body(unsigned area, const CheckpointHeader& header) {
    if (header.entries > layout_.entry_capacity()) return false;
    std::vector<std::byte> body(header.entries * kEntryBytes);
    const std::uint64_t base =
        layout_.checkpoint(copy_, area).value + layout_.block_bytes;
    AlignedBuffer chunk(std::min(kChunkBytes, body.size()));
    for (std::size_t done = 0; done < body.size();) {
      const std::size_t n = std::min(kChunkBytes, body.size() - done);
      auto got = read_or_note(DeviceOffset{base + done}, chunk.first(n),
                              "a checkpoint");
      if (!got || !*got) return got;
      std::copy_n(chunk.data(), n, body.begin() + static_cast<long>(done));
      done += n;
    }
    if (crc32c(body) != header.body_crc) return false;
    body_ = std::move(body);
    return true;
  }

  Status read_log() {
    std::uint64_t expected = out_.checkpoint_sequence + 1;
    out_.last_sequence = out_.checkpoint_sequence;
    bool ended = no_checkpoint_;
    bool unreadable_tail = false;
    const std::uint64_t per_chunk =
        std::min(kChunkBytes / layout_.block_bytes, layout_.log_records);
    AlignedBuffer chunk(per_chunk * layout_.block_bytes);
    for (std::uint64_t base = 0; base < layout_.log_records;
         base += per_chunk) {
      const std::uint64_t count =
          std::min(per_chunk, layout_.log_records - base);
      const Bytes all = chunk.first(count * layout_.block_bytes);
      Status whole = spare_.read(layout_.record(copy_, base), all);
      if (!whole && whole.error().error_class != ErrorClass::medium)
        return whole;
      for (std::uint64_t i = 0; i < count; ++i) {
        const Bytes block =
            all.subspan(i * layout_.block_bytes, layout_.block_bytes);
        if (!whole) {
          Status one = spare_.read(layout_.record(copy_, base + i), block);
          if (!one && one.error().error_class != ErrorClass::medium) return one;
          if (!one) {
            // Past the end of the log it may be harmless; say so all the same.
            if (!unreadable_tail)
              damage(fmt::format("log record {} at byte {} cannot be read",
                                 base + i,
                                 layout_.record(copy_, base + i).value));
            unreadable_tail = true;
            ended = true;
            continue;
          }
        }
        auto record = unpack_record(block);
        if (record && record->uuid != sb_.uuid)
          record = make_error(EUCLEAN, "of another SPARE");
        if (!record) {
          if (!ended) log_ends(base + i, record.error().place);
          ended = true;
          continue;
        }
        saw(record->sequence);
        if (!ended && record->sequence == expected) {
          ++expected;
          ++out_.log_length;
          out_.last_sequence = record->sequence;
          out_.closed = record->type == RecordType::closed;
          for (const Entry& e : record->entries) log_entries_.push_back(e);
          continue;
        }
        if (!ended)
          log_ends(base + i, fmt::format("sequence {}", record->sequence));
        ended = true;
        if (record->sequence >= expected && !hole_noted_ && !no_checkpoint_) {
          hole_noted_ = true;
          damage(fmt::format(
              "the log has a hole: sequence {} is missing, but record {} at "
              "byte {} has {}",
              expected, base + i, layout_.record(copy_, base + i).value,
              record->sequence));
        }
      }
    }
    if (out_.max_sequence_seen > out_.last_sequence && !hole_noted_ &&
        out_.map_sound)
      damage(fmt::format("sequence {} was written but its records are gone",
                         out_.max_sequence_seen));
    return {};
  }

  // Where a log ends is no damage by itself: mostly something older is there.
  void log_ends(std::uint64_t position, const std::string& why) {
    suspect(fmt::format("the log ends before record {} at byte {}: {}",
                        position, layout_.record(copy_, position).value, why));
  }

  void build_state() {
    if (no_checkpoint_) return;
    std::map<BlockNo, Entry> changed;
    std::vector<SlotNo> retired;
    bool in_range = true;
    const std::uint64_t blocks =
        (sb_.main_bytes + layout_.block_bytes - 1) / layout_.block_bytes;
    const std::uint64_t all_valid =
        ~std::uint64_t{0} >> (64 - layout_.block_bytes / kSectorBytes);
    auto check = [&](const Entry& e) {
      const bool good = e.block.value < blocks && layout_.has_slot(e.slot) &&
                        (e.valid & ~all_valid) == 0;
      if (!good && in_range)
        damage(fmt::format("an entry outside the volume: block {}, slot {}",
                           e.block.value, e.slot.value));
      in_range = in_range && good;
    };
    for (const Entry& e : log_entries_) {
      check(e);
      if (e.kind == EntryKind::retired)
        retired.push_back(e.slot);
      else
        changed[e.block] = e;
    }
    auto& entries = out_.state.entries;
    entries.reserve(body_.size() / kEntryBytes + changed.size());
    auto next = changed.begin();
    auto add = [&](const Entry& e) {
      if (e.kind == EntryKind::clean) return;
      RemapEntry r;
      r.block = e.block;
      if (e.kind == EntryKind::remapped) r.slot_or_none = e.slot.value;
      r.valid = e.valid;
      entries.push_back(r);
    };
    std::optional<BlockNo> previous;
    for (std::size_t o = 0; o < body_.size(); o += kEntryBytes) {
      auto e = unpack_entry(ConstBytes(body_).subspan(o, kEntryBytes));
      if (!e || e->kind == EntryKind::clean) {
        damage("an impossible entry in the checkpoint");
        return;
      }
      check(*e);
      if (e->kind == EntryKind::retired) {
        retired.push_back(e->slot);
        continue;
      }
      if (previous && *previous >= e->block) {
        damage(fmt::format("block {} is out of order", e->block.value));
        return;
      }
      previous = e->block;
      while (next != changed.end() && next->first < e->block)
        add((next++)->second);
      if (next != changed.end() && next->first == e->block)
        add((next++)->second);
      else
        add(*e);
    }
    while (next != changed.end()) add((next++)->second);
    if (!in_range) return;
    check_slots(retired);
    std::sort(retired.begin(), retired.end());
    out_.state.retired = std::move(retired);
  }

  void check_slots(const std::vector<SlotNo>& retired) {
    std::vector<bool> taken(layout_.slot_end());
    auto take = [&](SlotNo slot) {
      if (taken[slot.value])
        damage(fmt::format("slot {} is used twice", slot.value));
      taken[slot.value] = true;
    };
    for (SlotNo slot : retired) take(slot);
    for (const RemapEntry& e : out_.state.entries)
      if (e.remapped()) take(e.slot());
  }

  Backend& spare_;
  const Superblock& sb_;
  const Layout& layout_;
  const CopyIndex copy_;
  CopySurvey& out_;
  std::vector<std::byte> body_;
  std::vector<Entry> log_entries_;
  bool no_checkpoint_ = false;
  bool hole_noted_ = false;
};

}  // namespace

Status read_copy(Backend& spare, const Superblock& superblock, CopyIndex copy,
                 CopySurvey& out) {
  return CopyReader(spare, superblock, copy, out).read_all();
}

}  // namespace nbd_remap
