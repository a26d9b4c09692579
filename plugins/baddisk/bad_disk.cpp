// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/bad_disk.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {

BadDisk::BadDisk(std::unique_ptr<Backend> backend, bool heal_on_write,
                 int errnum)
    : backend_(std::move(backend)),
      heal_on_write_(heal_on_write),
      errnum_(errnum),
      bad_(backend_->info().size_bytes / kSectorBytes) {}

Error BadDisk::fault(const char* op, std::uint64_t offset,
                     std::uint64_t length) const {
  return make_error(errnum_, fmt::format("bad sector: {} {} bytes at {}", op,
                                         length, offset));
}

bool BadDisk::is_aligned(std::uint64_t offset, std::uint64_t length) const {
  return (offset | length) % info().logical_block_bytes == 0;
}

Status BadDisk::read(std::uint64_t offset, Bytes buffer) {
  ++requests_.reads;
  if (bad_.fails(DiskOp::read, offset, buffer.size()))
    return fault("read", offset, buffer.size());
  return backend_->read(DeviceOffset{offset}, buffer);
}

Status BadDisk::write(std::uint64_t offset, ConstBytes data,
                      Durability durability) {
  ++requests_.writes;
  if (bad_.fails(DiskOp::write, offset, data.size()))
    return fault("write", offset, data.size());
  Status done;
  if (is_aligned(offset, data.size())) {
    const std::shared_lock lock(rmw_mu_);
    done = backend_->write(DeviceOffset{offset}, data, durability);
  } else {
    const std::unique_lock lock(rmw_mu_);
    done = write_unaligned(offset, data, durability);
  }
  if (done && heal_on_write_) bad_.heal_written(offset, data.size());
  return done;
}

// All of it goes through one buffer: these requests are rare and small.
Status BadDisk::write_unaligned(std::uint64_t offset, ConstBytes data,
                                Durability durability) {
  const std::uint64_t block = info().logical_block_bytes;
  const std::uint64_t start = round_down(offset, block);
  const std::uint64_t end = round_up(offset + data.size(), block);
  const AlignedBuffer whole(end - start);
  for (const std::uint64_t edge : {start, end - block})
    if (auto ok = backend_->read(DeviceOffset{edge},
                                 whole.bytes().subspan(edge - start, block));
        !ok)
      return ok;
  std::copy(data.begin(), data.end(), whole.data() + (offset - start));
  return backend_->write(DeviceOffset{start}, whole.bytes(), durability);
}

Status BadDisk::zero(std::uint64_t offset, std::uint64_t length, ZeroMode mode,
                     Durability durability) {
  ++requests_.zeroes;
  if (mode == ZeroMode::fast_only && !info().fast_zero)
    return make_error(ErrorClass::caller, ENOTSUP, "fast zero");
  if (bad_.fails(DiskOp::write, offset, length))
    return fault("zero", offset, length);
  const std::uint64_t block = info().logical_block_bytes;
  const std::uint64_t end = offset + length;
  const std::uint64_t first = std::min(round_up(offset, block), end);
  const std::uint64_t last = std::max(round_down(end, block), first);
  Status done;
  {
    const std::shared_lock lock(rmw_mu_);
    // First the middle, which may be refused with nothing changed.
    if (last > first)
      done =
          backend_->zero(DeviceOffset{first}, last - first, mode, durability);
  }
  const std::vector<std::byte> zeroes(block);
  for (const auto& [from, to] :
       {std::pair(offset, first), std::pair(last, end)})
    if (done && to > from) {
      const std::unique_lock lock(rmw_mu_);
      done = write_unaligned(from, ConstBytes(zeroes).first(to - from),
                             durability);
    }
  if (done && heal_on_write_) bad_.heal_written(offset, length);
  return done;
}

Status BadDisk::trim(std::uint64_t offset, std::uint64_t length) {
  ++requests_.trims;
  const std::uint64_t block = info().logical_block_bytes;
  const std::uint64_t first = round_up(offset, block);
  const std::uint64_t last = round_down(offset + length, block);
  if (first >= last || bad_.would_fail(DiskOp::write, first, last - first))
    return {};
  const std::shared_lock lock(rmw_mu_);
  return backend_->trim(DeviceOffset{first}, last - first);
}

Status BadDisk::flush() {
  ++requests_.flushes;
  return backend_->flush();
}

}  // namespace nbd_remap
