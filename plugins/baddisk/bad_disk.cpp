// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/bad_disk.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {

namespace {

std::unique_ptr<Backend> with_cache(std::unique_ptr<Backend> file,
                                    std::uint64_t bytes, WriteCache*& cache) {
  if (bytes == 0) return file;
  auto with = std::make_unique<WriteCache>(std::move(file), bytes);
  cache = with.get();
  return with;
}

BadDiskOptions with_sleep(BadDiskOptions options) {
  if (!options.sleep)
    options.sleep = [](std::chrono::milliseconds time) {
      std::this_thread::sleep_for(time);
      return true;
    };
  return options;
}

}  // namespace

bool is_fault(const Error& error) { return error.place.starts_with("fault: "); }

BadDisk::BadDisk(std::unique_ptr<Backend> file, const BadDiskOptions& options)
    : options_(with_sleep(options)),
      backend_(with_cache(std::move(file), options.write_cache_bytes, cache_)),
      bad_(backend_->info().size_bytes / kSectorBytes),
      slow_(bad_.size_sectors()),
      rot_(bad_.size_sectors()) {}

Status BadDisk::wait(const char* op, std::chrono::milliseconds delay) {
  if (hang_.pass(options_.sleep) &&
      (delay.count() == 0 || options_.sleep(delay)))
    return {};
  return make_error(ESHUTDOWN,
                    fmt::format("fault: {} was given up while it waited", op));
}

Status BadDisk::admit(const char* op) {
  if (const int errnum = dead_.fails(); errnum != 0)
    return make_error(errnum, fmt::format("fault: dead device: {}", op));
  return {};
}

Status BadDisk::admit(DiskOp op, const char* name, std::uint64_t offset,
                      std::uint64_t length) {
  if (auto ok = wait(name, slow_.delay(op, offset, length)); !ok) return ok;
  if (auto ok = admit(name); !ok) return ok;
  if (!bad_.fails(op, offset, length)) return {};
  return make_error(options_.errnum,
                    fmt::format("fault: bad sector: {} {} bytes at {}", name,
                                length, offset));
}

bool BadDisk::is_aligned(std::uint64_t offset, std::uint64_t length) const {
  return (offset | length) % info().logical_block_bytes == 0;
}

Status BadDisk::read(std::uint64_t offset, Bytes buffer) {
  ++requests_.reads;
  if (auto ok = admit(DiskOp::read, "read", offset, buffer.size()); !ok)
    return ok;
  auto done = backend_->read(DeviceOffset{offset}, buffer);
  if (done) rot_.spoil(offset, buffer);
  return done;
}

Status BadDisk::write(std::uint64_t offset, ConstBytes data,
                      Durability durability) {
  ++requests_.writes;
  if (auto ok = admit(DiskOp::write, "write", offset, data.size()); !ok)
    return ok;
  Status done;
  if (is_aligned(offset, data.size())) {
    const std::shared_lock lock(rmw_mu_);
    done = backend_->write(DeviceOffset{offset}, data, durability);
  } else {
    const std::unique_lock lock(rmw_mu_);
    done = write_unaligned(offset, data, durability);
  }
  if (done && options_.heal_on_write) bad_.heal_written(offset, data.size());
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
  if (auto ok = admit(DiskOp::write, "zero", offset, length); !ok) return ok;
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
  if (done && options_.heal_on_write) bad_.heal_written(offset, length);
  return done;
}

Status BadDisk::trim(std::uint64_t offset, std::uint64_t length) {
  ++requests_.trims;
  if (auto ok = wait("trim", {}); !ok) return ok;
  if (auto ok = admit("trim"); !ok) return ok;
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
  if (auto ok = wait("flush", {}); !ok) return ok;
  if (auto ok = admit("flush"); !ok) return ok;
  return backend_->flush();
}

// FUA, so that the cache holds nothing over it that a cut could take back.
Status BadDisk::rot_file(std::span<const BadRange> ranges, std::uint64_t seed,
                         std::uint64_t bits) {
  std::array<std::byte, kSectorBytes> data{};
  const std::unique_lock lock(rmw_mu_);
  for (const BadRange& range : ranges)
    for (std::uint64_t i = 0; i < range.count; ++i) {
      const std::uint64_t sector = range.start + i;
      const std::uint64_t offset = sector * kSectorBytes;
      if (auto ok = backend_->read(DeviceOffset{offset}, data); !ok) return ok;
      for (const std::uint32_t bit : rotten_bits(seed, sector, bits))
        data[bit / 8] ^= std::byte{1} << (bit % 8);
      if (auto ok = write_unaligned(offset, data, Durability::fua); !ok)
        return ok;
      ++requests_.rotted_sectors;
    }
  return {};
}

}  // namespace nbd_remap
