// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/file_backend.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "plugins/backend/file_open.hpp"
#include "plugins/backend/range_check.hpp"
#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kBounceBytes = 1U << 20;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

bool is_unsupported(int errnum) {
  return errnum == EOPNOTSUPP || errnum == ENOSYS || errnum == ENOTTY;
}

class FileBackend final : public Backend {
 public:
  explicit FileBackend(OpenedFile file)
      : fd_(std::move(file.fd)),
        info_(std::move(file.info)),
        size_(info_.size_bytes),
        is_device_(file.is_device),
        allocation_unit_(file.allocation_unit),
        has_dsync_(file.dsync) {}

  const BackendInfo& info() const override { return info_; }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;
  Result<std::uint64_t> grow() override;

 private:
  // All of these return an errno, 0 for success. In direct mode they REQUIRE
  // aligned memory and whole logical blocks.
  int read_fully(std::uint64_t offset, Bytes buffer) const;
  int write_fully(std::uint64_t offset, ConstBytes data, bool fua);
  int write_zeroes(std::uint64_t offset, std::uint64_t length, bool fua);
  int allocate(int mode, std::uint64_t offset, std::uint64_t length) const;
  int zero_range(std::uint64_t offset, std::uint64_t length, ZeroMode mode);
  int sync() const;

  bool is_aligned(const void* memory, std::uint64_t offset,
                  std::uint64_t length) const {
    return !info_.direct ||
           ((reinterpret_cast<std::uintptr_t>(memory) % kBufferAlignment) |
            ((offset | length) % info_.logical_block_bytes)) == 0;
  }
  // How far a transfer of n bytes has come: in direct mode whole blocks only,
  // as the next one could not begin inside a block.
  std::size_t progress(ssize_t n) const {
    const auto bytes = static_cast<std::size_t>(n);
    return info_.direct ? round_down(bytes, info_.logical_block_bytes) : bytes;
  }
  Status result(int errnum, const char* operation, DeviceOffset offset,
                std::uint64_t length) const {
    if (errnum == 0) return {};
    return make_error(errnum, io_place(info_, operation, offset, length));
  }

  const UniqueFd fd_;
  const BackendInfo info_;
  std::atomic<std::uint64_t> size_;
  const bool is_device_;
  const std::uint64_t allocation_unit_;
  std::atomic<bool> has_dsync_;
  std::atomic<bool> has_punch_ = true;
  std::atomic<bool> has_zero_range_ = true;
  std::atomic<bool> has_discard_ = true;
  AlignedBufferPool bounce_{kBounceBytes};
  const AlignedBuffer zeroes_{kBounceBytes};
};

int FileBackend::read_fully(std::uint64_t offset, Bytes buffer) const {
  while (!buffer.empty()) {
    const ssize_t n = ::pread(fd_.get(), buffer.data(), buffer.size(),
                              static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    const std::size_t done = progress(n);
    // The end of a file or device that has shrunk: the disk is not what it
    // was, and nothing of this may look like a bad sector.
    if (done == 0) return ENXIO;
    offset += done;
    buffer = buffer.subspan(done);
  }
  return 0;
}

int FileBackend::write_fully(std::uint64_t offset, ConstBytes data, bool fua) {
  bool sync_after = false;
  while (!data.empty()) {
    const bool dsync = fua && has_dsync_.load(std::memory_order_relaxed);
    const iovec part{const_cast<std::byte*>(data.data()), data.size()};
    const ssize_t n = dsync ? ::pwritev2(fd_.get(), &part, 1,
                                         static_cast<off_t>(offset), RWF_DSYNC)
                            : ::pwrite(fd_.get(), data.data(), data.size(),
                                       static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && dsync && is_unsupported(errno)) {
      has_dsync_.store(false, std::memory_order_relaxed);
      continue;
    }
    if (n < 0) return errno;
    if (fua && !dsync) sync_after = true;
    const std::size_t done = progress(n);
    if (done == 0) return ENXIO;
    offset += done;
    data = data.subspan(done);
  }
  return sync_after ? sync() : 0;
}

int FileBackend::write_zeroes(std::uint64_t offset, std::uint64_t length,
                              bool fua) {
  while (length > 0) {
    const std::size_t n = std::min<std::uint64_t>(length, kBounceBytes);
    if (const int e = write_fully(offset, zeroes_.first(n), fua); e != 0)
      return e;
    offset += n;
    length -= n;
  }
  return 0;
}

int FileBackend::allocate(int mode, std::uint64_t offset,
                          std::uint64_t length) const {
  int e{};
  do
    e = ::fallocate(fd_.get(), mode, static_cast<off_t>(offset),
                    static_cast<off_t>(length));
  while (e != 0 && errno == EINTR);
  return e == 0 ? 0 : errno;
}

int FileBackend::sync() const {
  int e{};
  do e = ::fdatasync(fd_.get());
  while (e != 0 && errno == EINTR);
  return e == 0 ? 0 : errno;
}

Status FileBackend::read(DeviceOffset offset, Bytes buffer) {
  if (Status s = check_range(info_, "read", offset, buffer.size(), size_); !s)
    return s;
  if (is_aligned(buffer.data(), offset.value, buffer.size()))
    return result(read_fully(offset.value, buffer), "read", offset,
                  buffer.size());
  const auto loan = bounce_.borrow();
  const std::uint64_t unit = info_.logical_block_bytes;
  std::uint64_t at = offset.value;
  Bytes rest = buffer;
  while (!rest.empty()) {
    const std::uint64_t begin = round_down(at, unit);
    const std::uint64_t end =
        std::min(round_up(at + rest.size(), unit), begin + kBounceBytes);
    if (const int e = read_fully(begin, loan->first(end - begin)); e != 0)
      return result(e, "read", offset, buffer.size());
    const std::size_t n = std::min<std::uint64_t>(end - at, rest.size());
    std::memcpy(rest.data(), loan->data() + (at - begin), n);
    at += n;
    rest = rest.subspan(n);
  }
  return {};
}

Status FileBackend::write(DeviceOffset offset, ConstBytes data,
                          Durability durability) {
  if (Status s = check_change(info_, "write", offset, data.size(), size_); !s)
    return s;
  const bool fua = durability == Durability::fua;
  if (is_aligned(data.data(), offset.value, data.size()))
    return result(write_fully(offset.value, data, fua), "write", offset,
                  data.size());
  const auto loan = bounce_.borrow();
  std::uint64_t at = offset.value;
  for (ConstBytes rest = data; !rest.empty();) {
    const std::size_t n = std::min(rest.size(), kBounceBytes);
    std::memcpy(loan->data(), rest.data(), n);
    if (const int e = write_fully(at, loan->first(n), fua); e != 0)
      return result(e, "write", offset, data.size());
    at += n;
    rest = rest.subspan(n);
  }
  return {};
}

// REQUIRES: whole allocation units in direct mode. EOPNOTSUPP with nothing
// changed if only writing would do.
int FileBackend::zero_range(std::uint64_t offset, std::uint64_t length,
                            ZeroMode mode) {
  // On a device ZERO_RANGE may write each sector inside the kernel: good, but
  // not fast.
  const bool try_zero_range = !(is_device_ && mode == ZeroMode::fast_only);
  const auto attempt = [&](int how, std::atomic<bool>& supported) {
    if (!supported.load(std::memory_order_relaxed)) return EOPNOTSUPP;
    const int e = allocate(how, offset, length);
    if (!is_unsupported(e)) return e;
    supported.store(false, std::memory_order_relaxed);
    return EOPNOTSUPP;
  };
  int e = EOPNOTSUPP;
  if (mode != ZeroMode::keep_allocated) e = attempt(kPunch, has_punch_);
  if (e == EOPNOTSUPP && try_zero_range)
    e = attempt(kZeroRange, has_zero_range_);
  return e;
}

Status FileBackend::zero(DeviceOffset offset, std::uint64_t length,
                         ZeroMode mode, Durability durability) {
  if (Status s = check_change(info_, "zero", offset, length, size_); !s)
    return s;
  if (length == 0) return {};
  const bool fua = durability == Durability::fua;
  // The ends that share an allocation unit with other data are written:
  // fallocate() would change them in the page cache, and an error would be met
  // later, by nobody.
  const std::uint64_t unit = info_.direct ? allocation_unit_ : 1;
  const std::uint64_t end = offset.value + length;
  std::uint64_t inner = std::min(round_up(offset.value, unit), end);
  std::uint64_t inner_end = std::max(round_down(end, unit), inner);
  int e = inner == inner_end ? EOPNOTSUPP
                             : zero_range(inner, inner_end - inner, mode);
  if (e == EOPNOTSUPP && mode == ZeroMode::fast_only)
    return make_error(ENOTSUP, io_place(info_, "zero", offset, length));
  if (e == EOPNOTSUPP) {
    e = write_zeroes(offset.value, length, fua);
  } else if (e == 0) {
    e = write_zeroes(offset.value, inner - offset.value, false);
    if (e == 0) e = write_zeroes(inner_end, end - inner_end, false);
    if (e == 0 && fua) e = sync();
  }
  return result(e, "zero", offset, length);
}

Status FileBackend::trim(DeviceOffset offset, std::uint64_t length) {
  if (Status s = check_change(info_, "trim", offset, length, size_); !s)
    return s;
  const std::uint64_t unit = info_.direct ? allocation_unit_ : 1;
  const std::uint64_t begin = round_up(offset.value, unit);
  const std::uint64_t end = round_down(offset.value + length, unit);
  if (begin >= end || !has_discard_.load(std::memory_order_relaxed)) return {};
  int e = 0;
  if (is_device_) {
    std::uint64_t range[2] = {begin, end - begin};
    do e = ::ioctl(fd_.get(), BLKDISCARD, range) == 0 ? 0 : errno;
    while (e == EINTR);
  } else {
    e = allocate(kPunch, begin, end - begin);
  }
  if (is_unsupported(e)) {
    has_discard_.store(false, std::memory_order_relaxed);
    return {};
  }
  return result(e, "trim", offset, length);
}

Result<Extent> FileBackend::extent(DeviceOffset offset, std::uint64_t length) {
  if (Status s = check_range(info_, "extents", offset, length, size_); !s)
    return std::move(s).error();
  // Always a safe answer: data.
  Extent extent{length, false, false};
  if (is_device_ || length == 0) return extent;
  const auto begin = static_cast<off_t>(offset.value);
  const auto end = static_cast<off_t>(offset.value + length);
  const off_t data = ::lseek(fd_.get(), begin, SEEK_DATA);
  // ENXIO: no data after this.
  if (data > begin || (data < 0 && errno == ENXIO)) {
    const off_t hole_end = data < 0 ? end : std::min(data, end);
    return Extent{static_cast<std::uint64_t>(hole_end - begin), true, true};
  }
  if (data < 0) return extent;
  const off_t hole = ::lseek(fd_.get(), begin, SEEK_HOLE);
  if (hole > begin)
    extent.length = static_cast<std::uint64_t>(std::min(hole, end) - begin);
  return extent;
}

Status FileBackend::cache(DeviceOffset offset, std::uint64_t length) {
  if (Status s = check_range(info_, "cache", offset, length, size_); !s)
    return s;
  // To posix_fadvise() a length of 0 is everything.
  if (!info_.direct && length > 0)
    (void)::posix_fadvise(fd_.get(), static_cast<off_t>(offset.value),
                          static_cast<off_t>(length), POSIX_FADV_WILLNEED);
  return {};
}

Status FileBackend::flush() {
  const int e = sync();
  if (e == 0) return {};
  return make_error(e, info_.name + ": flush");
}

Result<std::uint64_t> FileBackend::grow() {
  const auto now = size_of_file(info_.name, fd_.get());
  if (!now) return now.error();
  const std::uint64_t whole = round_down(*now, info_.logical_block_bytes);
  if (whole < size_)
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("{}: has {} bytes, fewer than the {} that "
                                  "are in use",
                                  info_.name, *now, size_.load()));
  size_ = whole;
  return whole;
}

}  // namespace

Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path,
                                                   const OpenOptions& options) {
  Result<OpenedFile> file = open_file(path, options);
  if (!file) return std::move(file).error();
  return std::unique_ptr<Backend>(
      std::make_unique<FileBackend>(std::move(*file)));
}

}  // namespace nbd_remap
