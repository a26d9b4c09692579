#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// PatchedDisk: a small disk in memory that is soon as it was at the beginning,
// with bad sectors on demand. For thousands of starts a second.
//
// Threads  one at a time.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <set>
#include <vector>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

class PatchedDisk final : public Backend {
 public:
  PatchedDisk(BackendInfo info, std::vector<std::byte> content)
      : info_(std::move(info)),
        first_(std::move(content)),
        now_(first_),
        touched_(now_.size() / kPage + 1) {}

  // For a patch: counts as no write.
  Bytes at(std::uint64_t offset, std::uint64_t length) {
    touch(offset, length);
    return Bytes(now_).subspan(offset, length);
  }
  void spoil(std::uint64_t offset, std::uint64_t sectors, bool for_ever) {
    for (std::uint64_t s = 0; s < sectors; ++s)
      (for_ever ? lost_ : bad_).insert(offset / kSectorBytes + s);
  }
  bool spoilt() const { return !bad_.empty() || !lost_.empty(); }
  std::uint64_t writes() const { return writes_; }
  void reset() {
    for (const std::size_t page : pages_) {
      const std::size_t from = page * kPage;
      const std::size_t n = std::min<std::size_t>(kPage, now_.size() - from);
      std::copy_n(first_.begin() + static_cast<long>(from), n,
                  now_.begin() + static_cast<long>(from));
      touched_[page] = false;
    }
    pages_.clear();
    bad_.clear();
    lost_.clear();
    writes_ = 0;
  }

  const BackendInfo& info() const override { return info_; }
  Status read(DeviceOffset offset, Bytes buffer) override {
    if (Status fine = in_range(offset, buffer.size()); !fine) return fine;
    if (any(bad_, offset, buffer.size()) || any(lost_, offset, buffer.size()))
      return make_error(EIO, "read");
    std::copy_n(now_.begin() + static_cast<long>(offset.value), buffer.size(),
                buffer.begin());
    return {};
  }
  Status write(DeviceOffset offset, ConstBytes data, Durability) override {
    if (Status fine = in_range(offset, data.size()); !fine) return fine;
    ++writes_;
    if (any(lost_, offset, data.size())) return make_error(EIO, "write");
    const std::uint64_t first = offset.value / kSectorBytes;
    bad_.erase(bad_.lower_bound(first),
               bad_.lower_bound(first + data.size() / kSectorBytes));
    std::copy(data.begin(), data.end(), at(offset.value, data.size()).begin());
    return {};
  }
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode,
              Durability durability) override {
    return write(offset, std::vector<std::byte>(length), durability);
  }
  Status trim(DeviceOffset, std::uint64_t) override { return {}; }
  Result<Extent> extent(DeviceOffset, std::uint64_t length) override {
    return Extent{length, false, false};
  }
  Status cache(DeviceOffset, std::uint64_t) override { return {}; }
  Status flush() override { return {}; }

 private:
  static constexpr std::size_t kPage = 4096;

  Status in_range(DeviceOffset offset, std::uint64_t length) const {
    if (offset.value <= now_.size() && length <= now_.size() - offset.value)
      return {};
    return make_error(ErrorClass::bug, EINVAL, "beyond the end");
  }
  static bool any(const std::set<std::uint64_t>& sectors, DeviceOffset offset,
                  std::uint64_t length) {
    const auto it = sectors.lower_bound(offset.value / kSectorBytes);
    return it != sectors.end() && *it * kSectorBytes < offset.value + length;
  }
  void touch(std::uint64_t offset, std::uint64_t length) {
    for (std::size_t page = offset / kPage;
         length != 0 && page <= (offset + length - 1) / kPage; ++page) {
      if (touched_[page]) continue;
      touched_[page] = true;
      pages_.push_back(page);
    }
  }

  const BackendInfo info_;
  const std::vector<std::byte> first_;
  std::vector<std::byte> now_;
  std::vector<bool> touched_;
  std::vector<std::size_t> pages_;  // that were touched
  std::set<std::uint64_t> bad_;     // sectors, until they are written
  std::set<std::uint64_t> lost_;    // for ever
  std::uint64_t writes_ = 0;
};

}  // namespace nbd_remap
