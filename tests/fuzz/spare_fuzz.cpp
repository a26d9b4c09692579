// SPDX-License-Identifier: BSD-3-Clause
// A whole SPARE with patches: fields of its structures under a right checksum,
// raw bytes, records that moved, sectors that cannot be read. The input is a
// byte that says which SPARE and what is done with it, then patches. Whatever
// they are: the reader answers, what it believes is possible, a start that is
// refused writes nothing, and repair and start keep the map that was believed
// (contract C14, M2).
#include <array>
#include <boost/endian/conversion.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <stdexcept>
#include <vector>

#include "plugins/base/crc32c.hpp"
#include "plugins/remap/remap_grow.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/remap/spare_format.hpp"
#include "plugins/remap/spare_repair.hpp"
#include "tests/fakes/memory_backend.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"
#include "tests/fuzz/patched_disk.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMainBytes = 64 << 20;
constexpr std::uint64_t kSpareBytes = 1 << 20;
constexpr std::size_t kMostPatches = 16;

void no_log(LogLevel, std::string_view) {}

BackendInfo disk_info(const char* name, std::uint64_t bytes) {
  BackendInfo info = fake_disk_info(name, bytes, 512, 4096);
  info.name = name;
  info.identity = name;
  return info;
}

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}
void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().text());
}

Binding binding() {
  Binding b;
  b.main_bytes = kMainBytes;
  b.main_identity = b.main_name = "main";
  return b;
}

// A map with a checkpoint in the middle and every kind of entry. The same in
// every run: what is random, or of this build, is replaced.
void fill(Backend& spare, bool closed) {
  const MemoryBackend main(disk_info("main", kMainBytes));
  FormatRequest request;
  request.uuid = parse_uuid("6e62642d-7265-4d61-b001-66757a7a6564");
  request.now_unix_seconds = 1'700'000'000;
  must(format_spare(spare, main, request));
  auto store = must(RemapStore::open(spare, binding(), false, no_log));
  for (std::uint64_t i = 0; i < 70; ++i)
    must(store->commit({{BlockNo{i * 5}, store->take_slot()->value, 0xff}}));
  must(store->commit({{BlockNo{3}, RemapEntry::kNoSlot, 0x0f}}));
  const SlotNo bad = *store->take_slot();
  must(store->commit({{BlockNo{7}, store->take_slot()->value, 0x01}}, {bad}));
  must(store->commit({{BlockNo{5}, RemapEntry::kNoSlot, 0xff}}));
  if (closed) must(store->close());
}

void replace_what_differs(Backend& spare) {
  for (const CopyIndex c : kCopies) {
    std::vector<std::byte> bytes(kSuperblockBytes);
    const DeviceOffset at = superblock_place(spare.info().size_bytes, c);
    must(spare.read(at, bytes));
    Superblock sb = must(unpack_superblock(bytes));
    sb.owner_token = 1;
    sb.build_id = "fuzz";
    pack_superblock(sb, bytes);
    must(spare.write(at, bytes, Durability::cached));
  }
}

// Left by a kill, closed, and enlarged.
PatchedDisk& disk(std::size_t which) {
  static std::array<std::unique_ptr<PatchedDisk>, 3> disks;
  auto& found = disks.at(which);
  if (found) return *found;
  const bool grown = which == 2;
  BackendInfo info = disk_info("spare", kSpareBytes);
  auto spare = std::make_unique<MemoryBackend>(info);
  fill(*spare, which != 0);
  if (grown) {
    std::vector<std::byte> all(kSpareBytes);
    must(spare->read({0}, all));
    info.size_bytes = 3 * kSpareBytes;
    spare = std::make_unique<MemoryBackend>(info);
    must(spare->write({0}, all, Durability::cached));
    must(grow_spare(*spare, no_log));
  }
  replace_what_differs(*spare);
  std::vector<std::byte> all(info.size_bytes);
  must(spare->read({0}, all));
  found = std::make_unique<PatchedDisk>(info, std::move(all));
  return *found;
}

void seal(Bytes block) {
  auto* crc = reinterpret_cast<unsigned char*>(block.data() + 8);
  boost::endian::store_little_u32(crc, 0);
  boost::endian::store_little_u32(crc, crc32c(block));
}

class Patcher {
 public:
  Patcher(PatchedDisk& disk, FuzzInput& in) : disk_(disk), in_(in) {
    std::vector<std::byte> bytes(kSuperblockBytes);
    must(disk_.read({0}, bytes));
    layout_ = must(unpack_superblock(bytes)).layout;
  }

  void patch() {
    const auto how = in_.number(1);
    const CopyIndex copy = kCopies.at(how & 1);
    const bool both = (how & 2) != 0;
    // A copy that has the same patch.
    const FuzzInput again = in_;
    one(how >> 2, copy);
    if (!both) return;
    in_ = again;
    one(how >> 2, other_copy(copy));
  }

 private:
  void change(Bytes block, std::size_t limit) {
    const std::size_t at = in_.below(limit, 2);
    const ConstBytes bytes = in_.take(1 + in_.below(16, 1));
    const std::size_t n = std::min(bytes.size(), block.size() - at);
    std::copy_n(bytes.begin(), n, block.begin() + static_cast<long>(at));
  }
  Bytes record(CopyIndex copy) {
    const auto n = in_.below(layout_.log_records, 1);
    return disk_.at(layout_.record(copy, n).value, layout_.block_bytes);
  }

  void one(std::uint64_t kind, CopyIndex copy) {
    switch (kind % 8) {
      case 0: {
        const Bytes sb =
            disk_.at(layout_.superblock(copy).value, kSuperblockBytes);
        change(sb, kSuperblockBytes);
        return seal(sb);
      }
      case 1: {
        const Bytes block = record(copy);
        change(block, layout_.block_bytes);
        return seal(block);
      }
      case 2: {
        const auto area = static_cast<unsigned>(in_.below(2, 1));
        const Bytes block =
            disk_.at(layout_.checkpoint(copy, area).value, layout_.block_bytes);
        change(block, 64);
        return seal(block);
      }
      case 3:
        return change_body(copy);
      case 4: {
        const std::uint64_t at =
            in_.below(disk_.info().size_bytes - kMinBlockBytes, 3);
        return change(disk_.at(at, kMinBlockBytes), 1);
      }
      case 5: {
        const Bytes from = record(kCopies.at(in_.below(2, 1)));
        const Bytes to = record(copy);
        std::copy(from.begin(), from.end(), to.begin());
        return;
      }
      case 6: {
        const Bytes block = record(copy);
        std::fill(block.begin(), block.end(), std::byte{});
        return;
      }
      default: {
        const std::uint64_t at = in_.below(disk_.info().size_bytes, 3);
        const auto n = in_.number(1);
        disk_.spoil(at, 1 + n % 128, n >= 128);
      }
    }
  }

  // With the right checksum in its header, or it would not be read.
  void change_body(CopyIndex copy) {
    const auto area = static_cast<unsigned>(in_.below(2, 1));
    const std::uint64_t at = layout_.checkpoint(copy, area).value;
    const Bytes head = disk_.at(at, layout_.block_bytes);
    auto header = unpack_checkpoint_header(head);
    if (!header || header->entries == 0 ||
        header->entries > layout_.entry_capacity())
      return;
    const Bytes body =
        disk_.at(at + layout_.block_bytes, header->entries * kEntryBytes);
    change(body, body.size());
    header->body_crc = crc32c(body);
    pack_checkpoint_header(*header, head);
  }

  PatchedDisk& disk_;
  FuzzInput& in_;
  Layout layout_;
};

// A map that the reader believes can be used without another look.
void check_map(const MetadataSurvey& survey) {
  const Superblock& sb = survey.superblock;
  const Layout& l = sb.layout;
  const MapState& map = survey.chosen().state;
  const std::uint64_t blocks =
      sb.main_bytes / l.block_bytes + (sb.main_bytes % l.block_bytes != 0);
  std::set<std::uint64_t> slots;
  const RemapEntry* last = nullptr;
  for (const RemapEntry& e : map.entries) {
    require(!last || last->block < e.block, "blocks are in order, each once");
    last = &e;
    require(e.block.value < blocks, "a block is in the volume");
    if (!e.remapped()) continue;
    require(l.has_slot(e.slot()), "a slot is on SPARE");
    require(slots.insert(e.slot().value).second, "a slot has one block");
  }
  for (const SlotNo slot : map.retired) {
    require(l.has_slot(slot), "a retired slot is on SPARE");
    require(slots.insert(slot.value).second, "a retired slot has no block");
  }
  require(map.entries.size() + map.retired.size() <= l.entry_capacity(),
          "a map fits");
}

bool same(const MapState& a, const MapState& b) {
  return a.entries == b.entries && a.retired == b.retired;
}

// Afterwards the map is this one, or nobody believes it.
void check_kept(PatchedDisk& disk, const MapState& map, bool must_be_there) {
  const auto survey = survey_metadata(disk);
  const bool there = survey && survey->best;
  require(there || !must_be_there, "the map is still there");
  if (there) require(same(survey->chosen().state, map), "the map is kept");
}

void refused(const Error& error) {
  require(error.errnum != 0 && !error.place.empty(), "a refusal says why");
}

void start(PatchedDisk& disk, const MetadataSurvey* survey, bool read_only) {
  auto opened = RemapStore::open(disk, binding(), read_only, no_log);
  const bool sick = disk.spoilt();
  if (!opened) {
    refused(opened.error());
    if (!sick || !survey || !survey->best)
      require(disk.writes() == 0, "a start that is refused writes nothing");
    if (survey && survey->best) check_kept(disk, survey->chosen().state, !sick);
    return;
  }
  require(survey && survey->best, "no start without a map to believe");
  RemapStore& store = **opened;
  MapState map = survey->chosen().state;
  require(store.table().snapshot() == map.entries, "the map is what was read");
  if (read_only) {
    const Status status = store.commit({{BlockNo{1}, RemapEntry::kNoSlot, 0}});
    require(!status && disk.writes() == 0, "read-only writes nothing");
    return;
  }
  // Block 1 is not in any of the maps that are patched.
  if (store.table().find_first(BlockNo{1}, BlockNo{2})) return;
  const auto slot = store.take_slot();
  if (!slot) return;
  for (const RemapEntry& e : map.entries)
    require(e.slot_or_none != slot->value, "a slot that is free is free");
  for (const SlotNo retired : map.retired)
    require(retired != *slot, "a retired slot stays so");
  const RemapEntry entry{BlockNo{1}, slot->value, 0xff};
  if (!store.commit({entry})) return require(sick, "a sound disk takes it");
  map.entries.insert(
      std::find_if(map.entries.begin(), map.entries.end(),
                   [](const RemapEntry& e) { return e.block > BlockNo{1}; }),
      entry);
  if (!store.close()) require(sick, "a sound disk takes it");
  opened = make_error(EIO, "gone");
  check_kept(disk, map, true);
}

void repair(PatchedDisk& disk, const MetadataSurvey& survey) {
  const auto repaired = repair_spare(disk, survey, no_log);
  const bool sick = disk.spoilt();
  if (!repaired) {
    refused(repaired.error());
    if (!survey.best)
      require(disk.writes() == 0, "nothing is repaired by guessing");
    else
      check_kept(disk, survey.chosen().state, !sick);
    return;
  }
  require(survey.best && repaired->best, "what is repaired can be believed");
  require(same(repaired->chosen().state, survey.chosen().state),
          "repair keeps the map");
  if (!sick) require(repaired->copies_agree(), "repair leaves two copies");
  check_kept(disk, survey.chosen().state, true);
}

}  // namespace

void fuzz_spare(ConstBytes input) {
  FuzzInput in(input);
  const auto what = in.number(1);
  PatchedDisk& spare = disk(what % 3);
  Patcher patcher(spare, in);
  for (std::size_t n = 0; n < kMostPatches && !in.empty(); ++n) patcher.patch();
  const auto survey = survey_metadata(spare);
  require(spare.writes() == 0, "looking writes nothing");
  if (!survey)
    refused(survey.error());
  else if (survey->best)
    check_map(*survey);
  else
    require(!survey->refusal.empty(), "a refusal says why");
  const MetadataSurvey* known = survey ? &*survey : nullptr;
  switch (what / 3 % 3) {
    case 0:
      start(spare, known, true);
      break;
    case 1:
      start(spare, known, false);
      break;
    default:
      if (known) repair(spare, *known);
  }
  spare.reset();
}

}  // namespace nbd_remap
