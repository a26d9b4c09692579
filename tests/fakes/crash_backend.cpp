// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/crash_backend.hpp"

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "plugins/backend/range_check.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {

CrashBackend::CrashBackend(std::uint64_t size_bytes)
    : info_(fake_disk_info("crash", size_bytes, kSectorBytes, 4096)) {}

void CrashBackend::power_cut_after(std::uint64_t n) {
  MutexLock lock(mu_);
  cut_after_ = n;
}

bool CrashBackend::power_is_off() const {
  MutexLock lock(mu_);
  return power_is_off_;
}

CrashBackend::Choice CrashBackend::seeded(std::uint64_t seed) {
  return [random = std::mt19937_64(seed)](std::uint64_t,
                                          std::size_t unflushed) mutable {
    return static_cast<std::size_t>(random() % (unflushed + 1));
  };
}

void CrashBackend::store(SparseImage& image, std::uint64_t sector,
                         const Version& version) const {
  if (version)
    image.write(sector * kSectorBytes, *version);
  else
    image.zero(sector * kSectorBytes, kSectorBytes, false);
}

void CrashBackend::crash(const Choice& choose) {
  MutexLock lock(mu_);
  for (const auto& [sector, versions] : unflushed_) {
    const std::size_t survivor = choose(sector, versions.size());
    if (survivor > 0) store(durable_, sector, versions.at(survivor - 1));
  }
  unflushed_.clear();
  current_ = durable_;
  cut_after_.reset();
  power_is_off_ = false;
}

void CrashBackend::crash(std::uint64_t seed) { crash(seeded(seed)); }

std::unique_ptr<CrashBackend> CrashBackend::crashed_copy(
    const Choice& choose) const {
  auto copy = std::make_unique<CrashBackend>(info_.size_bytes);
  MutexLock lock(mu_);
  // The same disk, later.
  copy->info_ = info_;
  MutexLock copy_lock(copy->mu_);
  copy->durable_ = durable_;
  for (const auto& [sector, versions] : unflushed_) {
    const std::size_t survivor = choose(sector, versions.size());
    if (survivor > 0) store(copy->durable_, sector, versions.at(survivor - 1));
  }
  copy->current_ = copy->durable_;
  return copy;
}

std::unique_ptr<CrashBackend> CrashBackend::crashed_copy(
    std::uint64_t seed) const {
  return crashed_copy(seeded(seed));
}

std::size_t CrashBackend::unflushed_sectors() const {
  MutexLock lock(mu_);
  return unflushed_.size();
}

std::uint64_t CrashBackend::operations() const {
  MutexLock lock(mu_);
  return operations_;
}

Status CrashBackend::enter(const char* operation, DeviceOffset offset,
                           std::uint64_t length, bool* cut_now) {
  ++operations_;
  if (!power_is_off_ && cut_after_ && (*cut_after_)-- == 0) {
    power_is_off_ = true;
    cut_after_.reset();
    *cut_now = true;
  }
  if (power_is_off_)
    return make_error(ESHUTDOWN, io_place(info_, operation, offset, length));
  return {};
}

Status CrashBackend::change(const char* operation, DeviceOffset offset,
                            std::uint64_t length, const std::byte* data,
                            Durability durability) {
  MutexLock lock(mu_);
  if (Status s = check_change(info_, operation, offset, length); !s) return s;
  bool cut_now = false;
  Status powered = enter(operation, offset, length, &cut_now);
  if (!powered && !cut_now) return powered;
  const std::uint64_t first = offset.value / kSectorBytes;
  for (std::uint64_t i = 0; i < length / kSectorBytes; ++i) {
    Version version;
    if (data) {
      auto content = std::make_shared<std::array<std::byte, kSectorBytes>>();
      std::copy_n(data + i * kSectorBytes, kSectorBytes, content->begin());
      version = std::move(content);
    }
    if (!powered || durability == Durability::cached) {
      unflushed_[first + i].push_back(std::move(version));
    } else {
      store(durable_, first + i, version);
      unflushed_.erase(first + i);
    }
  }
  if (!powered) return powered;
  if (data)
    current_.write(offset.value, {data, length});
  else
    current_.zero(offset.value, length, false);
  return {};
}

Status CrashBackend::read(DeviceOffset offset, Bytes buffer) {
  MutexLock lock(mu_);
  if (Status s = check_range(info_, "read", offset, buffer.size()); !s)
    return s;
  bool cut_now = false;
  if (Status s = enter("read", offset, buffer.size(), &cut_now); !s) return s;
  current_.read(offset.value, buffer);
  return {};
}

Status CrashBackend::write(DeviceOffset offset, ConstBytes data,
                           Durability durability) {
  return change("write", offset, data.size(), data.data(), durability);
}

Status CrashBackend::zero(DeviceOffset offset, std::uint64_t length, ZeroMode,
                          Durability durability) {
  return change("zero", offset, length, nullptr, durability);
}

Status CrashBackend::trim(DeviceOffset offset, std::uint64_t length) {
  return change("trim", offset, length, nullptr, Durability::cached);
}

Result<Extent> CrashBackend::extent(DeviceOffset offset, std::uint64_t length) {
  MutexLock lock(mu_);
  if (Status s = check_range(info_, "extents", offset, length); !s)
    return s.error();
  bool cut_now = false;
  if (Status s = enter("extents", offset, length, &cut_now); !s)
    return s.error();
  return current_.extent(offset.value, length);
}

Status CrashBackend::cache(DeviceOffset offset, std::uint64_t length) {
  return check_range(info_, "cache", offset, length);
}

Status CrashBackend::flush() {
  MutexLock lock(mu_);
  bool cut_now = false;
  if (Status s = enter("flush", {0}, info_.size_bytes, &cut_now); !s) return s;
  for (const auto& [sector, versions] : unflushed_)
    store(durable_, sector, versions.back());
  unflushed_.clear();
  return {};
}

}  // namespace nbd_remap
