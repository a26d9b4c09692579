// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/spotty_backend.hpp"

#include <cerrno>

#include "plugins/backend/range_check.hpp"

namespace nbd_remap {

SpottyBackend::SpottyBackend(Backend& inner, std::uint64_t seed)
    : inner_(inner),
      spots_(inner.info().size_bytes / kSectorBytes),
      random_(seed) {}

bool SpottyBackend::any(std::uint64_t offset, std::uint64_t length,
                        std::uint8_t bit) const {
  for (std::uint64_t s = offset / kSectorBytes;
       s * kSectorBytes < offset + length && s < spots_.size(); ++s)
    if (spots_[s] & bit) return true;
  return false;
}

void SpottyBackend::heal(std::uint64_t offset, std::uint64_t length) {
  for (std::uint64_t s = offset / kSectorBytes;
       s * kSectorBytes < offset + length; ++s)
    if (spots_[s] & kHeals)
      spots_[s] &= static_cast<std::uint8_t>(~(kReadBad | kHeals));
}

Status SpottyBackend::fail_change(const char* what, std::uint64_t offset,
                                  std::uint64_t length, const std::byte* data) {
  ++failed_writes_;
  const std::uint64_t unit = info().logical_block_bytes;
  const std::vector<std::byte> zeroes(unit);
  for (std::uint64_t at = offset; at < offset + length; at += unit) {
    if (random_() % 2 == 0 || any(at, unit, kWriteBad)) continue;
    const std::byte* source = data ? data + (at - offset) : zeroes.data();
    if (Status s = inner_.write({at}, {source, unit}, Durability::cached); !s)
      return s;
  }
  return make_error(EIO, io_place(info(), what, {offset}, length));
}

Status SpottyBackend::read(DeviceOffset offset, Bytes buffer) {
  if (!any(offset.value, buffer.size(), kReadBad))
    return inner_.read(offset, buffer);
  ++failed_reads_;
  return make_error(EIO, io_place(info(), "read", offset, buffer.size()));
}

Status SpottyBackend::write(DeviceOffset offset, ConstBytes data,
                            Durability durability) {
  if (any(offset.value, data.size(), kWriteBad))
    return fail_change("write", offset.value, data.size(), data.data());
  Status status = inner_.write(offset, data, durability);
  if (status) heal(offset.value, data.size());
  return status;
}

Status SpottyBackend::zero(DeviceOffset offset, std::uint64_t length,
                           ZeroMode mode, Durability durability) {
  if (any(offset.value, length, kWriteBad))
    return fail_change("zero", offset.value, length, nullptr);
  Status status = inner_.zero(offset, length, mode, durability);
  if (status) heal(offset.value, length);
  return status;
}

}  // namespace nbd_remap
