// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/metadata_survey.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "plugins/base/aligned_buffer.hpp"
#include "plugins/base/crc32c.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;

// Reads one copy. Every problem that is this copy's own becomes a damage; an
// Error is returned only when SPARE as a whole does not answer.
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
      if (!header || header->uuid != sb_.uuid) continue;
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
      if (out_.damages.empty())
        damage(fmt::format("the checkpoint of sequence {} has a wrong body",
                           headers[area]->sequence));
    }
    if (out_.damages.empty()) damage("no checkpoint");
    no_checkpoint_ = true;
    return {};
  }

  Result<bool> read_body(unsigned area, const CheckpointHeader& header) {
    if (header.entries > layout_.entry_capacity()) return false;
    std::vector<std::byte> body(header.entries * kEntryBytes);
    const std::uint64_t base =
        layout_.checkpoint(copy_, area).value + layout_.block_bytes;
    AlignedBuffer chunk(kChunkBytes);
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
    AlignedBuffer chunk(kChunkBytes);
    const std::uint64_t per_chunk = kChunkBytes / layout_.block_bytes;
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
              damage(fmt::format("log record {} cannot be read", base + i));
            unreadable_tail = true;
            ended = true;
            continue;
          }
        }
        auto record = unpack_record(block);
        if (!record || record->uuid != sb_.uuid) {
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
        ended = true;
        if (record->sequence >= expected && !hole_noted_ && !no_checkpoint_) {
          hole_noted_ = true;
          damage(fmt::format(
              "the log has a hole: sequence {} is missing, {} is there",
              expected, record->sequence));
        }
      }
    }
    if (out_.max_sequence_seen > out_.last_sequence && !hole_noted_ &&
        out_.damages.empty())
      damage(fmt::format("sequence {} was written but its records are gone",
                         out_.max_sequence_seen));
    return {};
  }

  void build_state() {
    if (no_checkpoint_) return;
    std::map<BlockNo, Entry> changed;
    std::vector<SlotNo> retired;
    bool in_range = true;
    const std::uint64_t blocks =
        (sb_.main_bytes + layout_.block_bytes - 1) / layout_.block_bytes;
    auto check = [&](const Entry& e) {
      if (e.block.value >= blocks || e.slot.value >= layout_.slots) {
        if (in_range)
          damage(fmt::format("an entry outside the volume: block {}, slot {}",
                             e.block.value, e.slot.value));
        in_range = false;
      }
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
    std::vector<bool> taken(layout_.slots);
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

Status read_superblocks(Backend& spare, MetadataSurvey& survey) {
  bool blank = true;
  std::string words;
  const CopySurvey* newest = nullptr;
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    AlignedBuffer block(kSuperblockPlaceBytes);
    const DeviceOffset at = superblock_place(spare.info().size_bytes, c);
    Status status = spare.read(at, block.bytes());
    if (!status && status.error().error_class != ErrorClass::medium)
      return status;
    Result<Superblock> sb =
        status ? unpack_superblock(block.bytes())
               : Result<Superblock>(make_error(EIO, "cannot be read"));
    if (sb && sb->copy != c)
      sb = make_error(EUCLEAN, "belongs to the other copy");
    if (!sb) {
      if (sb.error().errnum == EPROTONOSUPPORT)
        return make_error(
            ErrorClass::caller, EPROTONOSUPPORT,
            fmt::format("{}: superblock of the {}: {}", spare.info().name,
                        copy_name(c), sb.error().place));
      if (sb.error().place.find("wrong magic") == std::string::npos &&
          sb.error().place.find("all zero") == std::string::npos)
        blank = false;
      copy.damages.push_back(fmt::format("{}: superblock at byte {}: {}",
                                         copy_name(c), at.value,
                                         sb.error().place));
      words += (words.empty() ? "" : "; ") + copy.damages.back();
      continue;
    }
    blank = false;
    copy.superblock = *sb;
    if (!newest || sb->sequence > newest->superblock->sequence) newest = &copy;
  }
  if (newest) {
    survey.superblock = *newest->superblock;
    return {};
  }
  if (blank)
    return make_error(ErrorClass::caller, ENODATA,
                      fmt::format("{}: not a SPARE: no superblock; format it "
                                  "with: nbd-remapctl spare format "
                                  "--main=MAIN --spare={}",
                                  spare.info().name, spare.info().name));
  return make_error(ErrorClass::medium, EUCLEAN,
                    fmt::format("{}: both superblocks are damaged: {}",
                                spare.info().name, words));
}

void choose(MetadataSurvey& survey) {
  std::uint64_t seen_in_damaged = 0;
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    if (!copy.sound()) {
      if (!copy.in_step) continue;
      seen_in_damaged = std::max(seen_in_damaged, copy.max_sequence_seen);
      continue;
    }
    if (!copy.in_step) continue;
    if (!survey.best || copy.last_sequence > survey.chosen().last_sequence)
      survey.best = c;
  }
  if (survey.best && survey.chosen().last_sequence + 1 < seen_in_damaged) {
    survey.refusal = fmt::format(
        "the {} is sound but ends at sequence {}; the other copy, which is "
        "damaged, reached {}",
        copy_name(*survey.best), survey.chosen().last_sequence,
        seen_in_damaged);
    survey.best.reset();
    return;
  }
  if (survey.best) return;
  for (CopyIndex c : kCopies) {
    const CopySurvey& copy = survey.copy(c);
    for (const std::string& d : copy.damages)
      survey.refusal += (survey.refusal.empty() ? "" : "; ") + d;
    if (copy.sound())
      survey.refusal +=
          fmt::format("{}{}: out of step, older than the volume",
                      survey.refusal.empty() ? "" : "; ", copy_name(c));
  }
}

}  // namespace

std::uint64_t MetadataSurvey::max_sequence_seen() const {
  return std::max(copies[0].max_sequence_seen, copies[1].max_sequence_seen);
}

bool MetadataSurvey::copies_agree() const {
  const CopySurvey& a = copies[0];
  const CopySurvey& b = copies[1];
  return a.sound() && b.sound() && a.in_step && b.in_step &&
         a.superblock->sequence == b.superblock->sequence &&
         a.checkpoint_sequence == b.checkpoint_sequence &&
         a.last_sequence == b.last_sequence;
}

Result<MetadataSurvey> survey_metadata(Backend& spare) {
  MetadataSurvey survey;
  const std::uint64_t bytes = spare.info().size_bytes;
  if (bytes < 4 * kSuperblockPlaceBytes)
    return make_error(ErrorClass::caller, ENODATA,
                      fmt::format("{}: {} bytes are too small for a SPARE",
                                  spare.info().name, bytes));
  if (Status status = read_superblocks(spare, survey); !status)
    return std::move(status).error();
  const Superblock& sb = survey.superblock;
  if (sb.layout.spare_bytes != bytes)
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: has {} bytes, but was formatted with {}: resized, or "
                    "a copy of another SPARE",
                    spare.info().name, bytes, sb.layout.spare_bytes));
  if (sb.features.incompatible != 0)
    return make_error(
        ErrorClass::caller, EPROTONOSUPPORT,
        fmt::format("{}: incompatible features {:#x}: a newer build is needed",
                    spare.info().name, sb.features.incompatible));
  for (CopyIndex c : kCopies) {
    CopySurvey& copy = survey.copies[static_cast<std::size_t>(c)];
    copy.in_step = (sb.copies_in_step & copy_bit(c)) != 0;
    if (copy.superblock && copy.superblock->uuid != sb.uuid)
      copy.damages.push_back(fmt::format("{}: superblock of another SPARE, {}",
                                         copy_name(c),
                                         uuid_text(copy.superblock->uuid)));
    CopyReader reader(spare, sb, c, copy);
    if (Status status = reader.read_all(); !status)
      return std::move(status).error();
  }
  choose(survey);
  return survey;
}

}  // namespace nbd_remap
