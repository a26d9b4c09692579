// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/write_cache.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "plugins/backend/range_check.hpp"
#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kSendBytes = 1 << 20;

}  // namespace

std::optional<CutKind> parse_cut_kind(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, CutKind>, 4> kKinds{
      {{"all", CutKind::all},
       {"lost", CutKind::lost},
       {"reordered", CutKind::reordered},
       {"torn", CutKind::torn}}};
  for (const auto& [name, kind] : kKinds)
    if (name == text) return kind;
  return {};
}

WriteCache::WriteCache(std::unique_ptr<Backend> platter,
                       std::uint64_t limit_bytes)
    : platter_(std::move(platter)),
      unit_(platter_->info().logical_block_bytes) {
  MutexLock lock(mu_);
  status_.limit_bytes = limit_bytes;
}

Status WriteCache::powered(const char* operation) {
  if (status_.power) return {};
  ++status_.refused;
  return make_error(ESHUTDOWN,
                    fmt::format("fault: {}: the power is cut", operation));
}

Status WriteCache::read(DeviceOffset offset, Bytes buffer) {
  MutexLock lock(mu_);
  if (auto ok = powered("read"); !ok) return ok;
  if (auto ok = platter_->read(offset, buffer); !ok) return ok;
  const std::uint64_t begin = offset.value;
  const std::uint64_t end = begin + buffer.size();
  for (auto it = held_.lower_bound(begin / unit_);
       it != held_.end() && it->first * unit_ < end; ++it) {
    const std::uint64_t at = it->first * unit_;
    const std::uint64_t from = std::max(begin, at);
    const std::uint64_t to = std::min(end, at + unit_);
    const auto part = buffer.subspan(from - begin, to - from);
    const std::byte* const data = it->second.back().data.get();
    if (data != nullptr)
      std::copy_n(data + (from - at), part.size(), part.begin());
    else
      std::fill(part.begin(), part.end(), std::byte{});
  }
  return {};
}

// False: it is not to be held. Whatever it answers, `done` may be an error.
bool WriteCache::make_room(std::uint64_t length, Status& done) {
  if (status_.held_bytes + length <= status_.limit_bytes) return true;
  ++status_.destaged;
  done = send_newest();
  return length <= status_.limit_bytes;
}

void WriteCache::hold(std::uint64_t offset, std::uint64_t length,
                      const std::byte* data) {
  ++last_write_;
  ++status_.held_writes;
  for (std::uint64_t at = 0; at < length; at += unit_) {
    Version version{last_write_, nullptr};
    if (data != nullptr) {
      version.data = std::make_unique<std::byte[]>(unit_);
      std::copy_n(data + at, unit_, version.data.get());
    }
    held_[(offset + at) / unit_].push_back(std::move(version));
    status_.held_bytes += unit_;
  }
}

void WriteCache::forget(std::uint64_t offset, std::uint64_t length) {
  const auto first = held_.lower_bound(offset / unit_);
  const auto last = held_.lower_bound((offset + length) / unit_);
  for (auto it = first; it != last; ++it)
    status_.held_bytes -= it->second.size() * unit_;
  held_.erase(first, last);
}

void WriteCache::forget_all() {
  held_.clear();
  status_.held_bytes = 0;
  status_.held_writes = 0;
}

Status WriteCache::write(DeviceOffset offset, ConstBytes data,
                         Durability durability) {
  if (auto ok = check_change(info(), "write", offset, data.size()); !ok)
    return ok;
  MutexLock lock(mu_);
  if (auto ok = powered("write"); !ok) return ok;
  Status done;
  if (durability == Durability::cached && make_room(data.size(), done)) {
    if (done) hold(offset.value, data.size(), data.data());
    return done;
  }
  if (done) done = platter_->write(offset, data, durability);
  if (done) forget(offset.value, data.size());
  return done;
}

Status WriteCache::zero(DeviceOffset offset, std::uint64_t length,
                        ZeroMode mode, Durability durability) {
  if (auto ok = check_change(info(), "zero", offset, length); !ok) return ok;
  MutexLock lock(mu_);
  if (auto ok = powered("zero"); !ok) return ok;
  Status done;
  if (durability == Durability::cached && make_room(length, done)) {
    if (done) hold(offset.value, length, nullptr);
    return done;
  }
  if (done) done = platter_->zero(offset, length, mode, durability);
  if (done) forget(offset.value, length);
  return done;
}

Status WriteCache::trim(DeviceOffset offset, std::uint64_t length) {
  if (auto ok = check_change(info(), "trim", offset, length); !ok) return ok;
  MutexLock lock(mu_);
  if (auto ok = powered("trim"); !ok) return ok;
  auto done = platter_->trim(offset, length);
  if (done) forget(offset.value, length);
  return done;
}

// All of it is data: what is held need not be in the platter's extents.
Result<Extent> WriteCache::extent(DeviceOffset offset, std::uint64_t length) {
  if (auto ok = check_range(info(), "extents", offset, length); !ok)
    return std::move(ok).error();
  return Extent{length, false, false};
}

Status WriteCache::cache(DeviceOffset offset, std::uint64_t length) {
  return check_range(info(), "cache", offset, length);
}

Status WriteCache::flush() {
  {
    MutexLock lock(mu_);
    if (auto ok = powered("flush"); !ok) return ok;
    if (auto ok = send_newest(); !ok) return ok;
  }
  return platter_->flush();
}

// Neighbours go together. What is held stays until all of it is there, so that
// it can be sent again.
Status WriteCache::send_on(const Choice& choose) {
  const AlignedBuffer buffer(
      std::min(std::max(kSendBytes, unit_), held_.size() * unit_));
  std::uint64_t start = 0;
  std::uint64_t length = 0;
  const auto send = [&]() -> Status {
    if (length == 0) return {};
    const auto run = buffer.first(std::exchange(length, 0));
    return platter_->write(DeviceOffset{start}, run, Durability::cached);
  };
  for (const auto& [unit, versions] : held_) {
    const std::size_t chosen = choose(versions);
    if (chosen >= versions.size()) continue;
    if (unit * unit_ != start + length || length + unit_ > buffer.size()) {
      if (auto ok = send(); !ok) return ok;
      start = unit * unit_;
    }
    const std::byte* const data = versions[chosen].data.get();
    if (data != nullptr)
      std::memcpy(buffer.data() + length, data, unit_);
    else
      std::memset(buffer.data() + length, 0, unit_);
    length += unit_;
  }
  return send();
}

Status WriteCache::send_newest() {
  if (held_.empty()) return {};
  auto done =
      send_on([](const Versions& versions) { return versions.size() - 1; });
  if (done) forget_all();
  return done;
}

// Versions of a unit reach the platter in their order, or not at all: what is
// there at last is the newest of those that got there. The modulo is by hand,
// as the standard leaves the algorithm of its distributions open.
WriteCache::Choice WriteCache::chooser(CutKind kind, std::uint64_t seed) {
  const auto random = std::make_shared<std::mt19937_64>(seed);
  const auto newest_of = [](const Versions& versions, const auto& survives) {
    for (std::size_t i = versions.size(); i-- > 0;)
      if (survives(versions[i].write)) return i;
    return versions.size();
  };
  switch (kind) {
    case CutKind::all:
      break;
    case CutKind::lost: {
      const std::uint64_t first = last_write_ - status_.held_writes;
      const std::uint64_t end = first + (*random)() % (status_.held_writes + 1);
      return [=](const Versions& versions) {
        return newest_of(versions, [=](std::uint64_t w) { return w <= end; });
      };
    }
    case CutKind::reordered: {
      const auto fate = std::make_shared<std::map<std::uint64_t, bool>>();
      return [=](const Versions& versions) {
        return newest_of(versions, [&](std::uint64_t w) {
          const auto [it, is_new] = fate->try_emplace(w);
          if (is_new) it->second = (*random)() % 2 != 0;
          return it->second;
        });
      };
    }
    case CutKind::torn:
      // One draw more than there are versions: none of them.
      return [=](const Versions& versions) {
        return static_cast<std::size_t>((*random)() % (versions.size() + 1));
      };
  }
  return [](const Versions& versions) { return versions.size(); };
}

Status WriteCache::cut(CutKind kind, std::uint64_t seed) {
  MutexLock lock(mu_);
  if (!status_.power)
    return make_error(ErrorClass::caller, EALREADY, "the power is cut already");
  status_.power = false;
  ++status_.cuts;
  const auto choose = chooser(kind, seed);
  std::uint64_t kept = 0;
  auto done = send_on([&](const Versions& versions) {
    const std::size_t chosen = choose(versions);
    if (chosen + 1 == versions.size()) ++kept;
    return chosen;
  });
  const std::uint64_t sectors = unit_ / kSectorBytes;
  status_.sectors_kept += kept * sectors;
  status_.sectors_lost += (held_.size() - kept) * sectors;
  forget_all();
  return done;
}

void WriteCache::power_on() {
  MutexLock lock(mu_);
  status_.power = true;
}

Status WriteCache::shut_down() {
  MutexLock lock(mu_);
  return status_.power ? send_newest() : Status();
}

WriteCache::CacheStatus WriteCache::status() const {
  MutexLock lock(mu_);
  return status_;
}

}  // namespace nbd_remap
