// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/sim_disk.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "plugins/backend/range_check.hpp"
#include "plugins/base/crc32c.hpp"
#include "tests/fakes/memory_backend.hpp"
#include "tests/sim/fibers.hpp"

namespace nbd_remap {
namespace {

// Lets others run before and after each call.
struct Turn {
  Turn() { Fibers::yield(); }
  ~Turn() { Fibers::yield(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
};

}  // namespace

SimDisk::SimDisk(const std::string& name, std::uint64_t size_bytes,
                 Power& power, std::uint64_t seed, bool second)
    : bytes_(size_bytes),
      power_(power),
      second_(second),
      random_(seed),
      durable_(size_bytes),
      current_(size_bytes),
      bad_(size_bytes / kSectorBytes) {
  info_.name = name;
  info_.size_bytes = size_bytes;
  info_.direct = true;
  info_.fast_zero = true;
  info_.identity = name;
}

SimDisk::SimDisk(const SimDisk& other, Power& power)
    : info_(other.info_),
      bytes_(other.bytes_),
      power_(power),
      second_(other.second_),
      random_(other.random_),
      durable_(other.durable_),
      current_(other.current_),
      unflushed_(other.unflushed_),
      limbo_(other.limbo_),
      bad_(other.bad_),
      bad_sectors_(other.bad_sectors_),
      trouble_(other.trouble_),
      fail_flush_(other.fail_flush_) {}

void SimDisk::enlarge(std::uint64_t size_bytes) {
  bytes_ = size_bytes;
  durable_.enlarge(size_bytes);
  current_.enlarge(size_bytes);
  bad_.resize(size_bytes / kSectorBytes);
}

void SimDisk::mend_all() {
  std::fill(bad_.begin(), bad_.end(), std::uint8_t{0});
  trouble_.clear();
  fail_flush_ = false;
}

void SharedImage::read(std::uint64_t offset, Bytes out) const {
  while (!out.empty()) {
    const std::uint64_t in_page = offset % kPage;
    const std::size_t n = std::min<std::size_t>(kPage - in_page, out.size());
    if (const auto& page = pages_[offset / kPage])
      std::memcpy(out.data(), page->data() + in_page, n);
    else
      std::memset(out.data(), 0, n);
    offset += n;
    out = out.subspan(n);
  }
}

void SharedImage::put(std::uint64_t sector, const std::byte* content) {
  const std::uint64_t offset = sector * kSectorBytes;
  std::shared_ptr<Page>& page = pages_[offset / kPage];
  if (!page && !content) return;
  if (!page)
    page = std::make_shared<Page>();
  else if (page.use_count() > 1)
    page = std::make_shared<Page>(*page);
  std::byte* at = page->data() + offset % kPage;
  if (content)
    std::memcpy(at, content, kSectorBytes);
  else
    std::memset(at, 0, kSectorBytes);
}

const std::byte* SharedImage::at(std::uint64_t sector) const {
  static constexpr SimDisk::Content kZeroes{};
  const std::uint64_t offset = sector * kSectorBytes;
  const auto& page = pages_[offset / kPage];
  return page ? page->data() + offset % kPage : kZeroes.data();
}

std::uint64_t SharedImage::checksum() const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    if (!pages_[i]) continue;
    const ConstBytes page(*pages_[i]);
    const std::uint64_t crc = std::uint64_t{crc32c(page.first(kPage / 2))}
                                  << 32 |
                              crc32c(page.subspan(kPage / 2));
    static constexpr Page kZeroes{};
    if (std::memcmp(page.data(), kZeroes.data(), kPage) == 0) continue;
    sum = (sum ^ crc ^ i) * 0x9e3779b97f4a7c15ULL;
    sum ^= sum >> 31;
  }
  return sum;
}

void SimDisk::store(std::uint64_t sector, const Version& version,
                    bool durable) {
  // What changes nothing leaves nothing to choose at a cut.
  static constexpr Content kZeroes{};
  const std::byte* content = (version ? *version : kZeroes).data();
  if (std::memcmp(content, durable_.at(sector), kSectorBytes) == 0 &&
      unflushed_.find(sector) == unflushed_.end())
    return;
  put(current_, sector, version);
  if (durable) {
    put(durable_, sector, version);
    unflushed_.erase(sector);
  } else {
    unflushed_[sector].push_back(version);
  }
}

void SimDisk::crash(const Choice& choose) {
  for (auto& [sector, version] : limbo_)
    unflushed_[sector].push_back(std::move(version));
  limbo_.clear();
  for (const auto& [sector, versions] : unflushed_) {
    const std::size_t survivor = choose(sector, versions.size());
    if (survivor > 0) put(durable_, sector, versions.at(survivor - 1));
    current_.put(sector, durable_.at(sector));
  }
  unflushed_.clear();
}

void SimDisk::survive() {
  for (const auto& [sector, version] : std::exchange(limbo_, {}))
    if (random_() % 2 == 0) store(sector, version, false);
}

std::vector<SimDisk::Fork> SimDisk::forks() const {
  std::map<std::uint64_t, std::vector<Version>> all = unflushed_;
  for (const auto& [sector, version] : limbo_) all[sector].push_back(version);
  static constexpr Content kZeroes{};
  std::vector<Fork> out;
  for (const auto& [sector, versions] : all) {
    std::vector<const std::byte*> seen{durable_.at(sector)};
    Fork fork{sector, {0}};
    for (std::size_t i = 0; i < versions.size(); ++i) {
      const std::byte* content = (versions[i] ? *versions[i] : kZeroes).data();
      const auto same = [&](const std::byte* other) {
        return std::memcmp(content, other, kSectorBytes) == 0;
      };
      if (std::any_of(seen.begin(), seen.end(), same)) continue;
      seen.push_back(content);
      fork.choices.push_back(i + 1);
    }
    if (fork.choices.size() > 1) out.push_back(std::move(fork));
  }
  return out;
}

Status SimDisk::enter(const char* operation, DeviceOffset offset,
                      std::uint64_t length, bool* cut) {
  if (power_.before_call) power_.before_call();
  const bool change = operation[0] != 'r' && operation[0] != 'e';
  if (!power_.only_second || (second_ && change)) ++power_.calls;
  power_.note(std::uint64_t{Fibers::current()} << 56 ^
              std::uint64_t(operation[0]) << 48 ^ offset.value << 20 ^ length ^
              std::uint64_t(info_.name[0]) << 40);
  if (!power_.off && power_.cut_at && power_.calls >= *power_.cut_at) {
    power_.off = true;
    *cut = true;
  }
  if (!power_.off) return {};
  return make_error(ESHUTDOWN, io_place(info_, operation, offset, length));
}

bool SimDisk::touches(std::uint64_t first, std::uint64_t end,
                      std::uint8_t bad) const {
  if (bad_sectors_ == 0) return false;
  for (std::uint64_t s = first; s < end; ++s)
    if ((bad_[s] & bad) != 0) return true;
  return false;
}

Status SimDisk::bad_medium(const char* operation, DeviceOffset offset,
                           std::uint64_t length) const {
  return make_error(EIO,
                    io_place(info_, operation, offset, length) + " (injected)");
}

Status SimDisk::change(const char* operation, DeviceOffset offset,
                       std::uint64_t length, const std::byte* data,
                       Durability durability) {
  if (Status s = check_change(info_, operation, offset, length, bytes_); !s)
    return s;
  const Turn turn;
  bool cut = false;
  Status status = enter(operation, offset, length, &cut);
  if (!status && !cut) return status;
  const std::uint64_t first = offset.value / kSectorBytes;
  const std::uint64_t sectors = length / kSectorBytes;
  const bool fails = operation[0] != 't' && status.ok() &&
                     touches(first, first + sectors, kWrites);
  if (fails) {
    ++fired_.writes;
    status = bad_medium(operation, offset, length);
  }
  for (std::uint64_t i = 0; i < sectors; ++i) {
    Version version;
    if (data) {
      auto content = std::make_shared<Content>();
      std::memcpy(content->data(), data + i * kSectorBytes, kSectorBytes);
      version = std::move(content);
    }
    if (fails && ((bad_[first + i] & kWrites) != 0 || random_() % 2 == 0))
      continue;
    if (cut) {
      limbo_.emplace_back(first + i, std::move(version));
      continue;
    }
    store(first + i, version, status.ok() && durability == Durability::fua);
    if (operation[0] == 't') continue;
    const auto trouble = trouble_.find(first + i);
    if (trouble != trouble_.end() && trouble->second.until_written)
      trouble_.erase(trouble);
    bad_[first + i] &= static_cast<std::uint8_t>(~unsigned{kReads});
  }
  if (data) power_.note(crc32c({data, length}));
  return status;
}

Status SimDisk::read(DeviceOffset offset, Bytes buffer) {
  if (Status s = check_range(info_, "read", offset, buffer.size(), bytes_); !s)
    return s;
  const Turn turn;
  bool cut = false;
  if (Status s = enter("read", offset, buffer.size(), &cut); !s) return s;
  const std::uint64_t first = offset.value / kSectorBytes;
  const std::uint64_t end =
      (offset.value + buffer.size() + kSectorBytes - 1) / kSectorBytes;
  auto trouble = trouble_.lower_bound(first);
  if (trouble != trouble_.end() && trouble->first < end) {
    ++fired_.transient;
    if (--trouble->second.times == 0) trouble_.erase(trouble);
    return bad_medium("read", offset, buffer.size());
  }
  if (touches(first, end, kReads | kReadsLater)) {
    ++fired_.reads;
    return bad_medium("read", offset, buffer.size());
  }
  current_.read(offset.value, buffer);
  return {};
}

Status SimDisk::write(DeviceOffset offset, ConstBytes data,
                      Durability durability) {
  return change("write", offset, data.size(), data.data(), durability);
}

Status SimDisk::zero(DeviceOffset offset, std::uint64_t length, ZeroMode,
                     Durability durability) {
  return change("zero", offset, length, nullptr, durability);
}

Status SimDisk::trim(DeviceOffset offset, std::uint64_t length) {
  return change("trim", offset, length, nullptr, Durability::cached);
}

Result<Extent> SimDisk::extent(DeviceOffset offset, std::uint64_t length) {
  if (Status s = check_range(info_, "extents", offset, length, bytes_); !s)
    return s.error();
  const Turn turn;
  bool cut = false;
  if (Status s = enter("extents", offset, length, &cut); !s) return s.error();
  // Sectors of zeroes are holes.
  Extent extent;
  const std::uint64_t end = offset.value + length;
  for (std::uint64_t at = offset.value; at < end;) {
    const std::uint64_t next =
        std::min(end, round_down(at, kSectorBytes) + kSectorBytes);
    const std::byte* begin = current_.at(at / kSectorBytes);
    const bool hole = std::all_of(begin, begin + kSectorBytes,
                                  [](std::byte b) { return b == std::byte{}; });
    if (extent.length > 0 && extent.hole != hole) break;
    extent = {extent.length + next - at, hole, hole};
    at = next;
  }
  return extent;
}

Status SimDisk::cache(DeviceOffset offset, std::uint64_t length) {
  return check_range(info_, "cache", offset, length, bytes_);
}

Status SimDisk::flush() {
  const Turn turn;
  bool cut = false;
  if (Status s = enter("flush", {0}, info_.size_bytes, &cut); !s) return s;
  if (std::exchange(fail_flush_, false)) {
    ++fired_.flushes;
    return bad_medium("flush", {0}, info_.size_bytes);
  }
  for (const auto& [sector, versions] : unflushed_)
    put(durable_, sector, versions.back());
  unflushed_.clear();
  return {};
}

}  // namespace nbd_remap
