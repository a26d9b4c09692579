// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/file_open.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "plugins/backend/disk_identity.hpp"
#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {
namespace {

constexpr const char* kExpected =
    "expected a regular file, a block device or an NBD URI";

Error refuse(const std::string& path, int errnum, const std::string& why) {
  return make_error(ErrorClass::caller, errnum, path + ": " + why);
}

Error refuse_errno(const std::string& path, const char* what, int errnum) {
  return refuse(
      path, errnum,
      fmt::format("{}: {}", what, std::generic_category().message(errnum)));
}

const char* kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a directory";
    case S_IFCHR:
      return "a character device";
    case S_IFIFO:
      return "a pipe";
    case S_IFSOCK:
      return "a socket";
    default:
      return "something else";
  }
}

Status check_kind(const std::string& path, const struct stat& st) {
  if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) return {};
  return refuse(path, S_ISDIR(st.st_mode) ? EISDIR : EINVAL,
                fmt::format("{}; {}", kind_of(st.st_mode), kExpected));
}

Result<UniqueFd> open_path(const std::string& path, const struct stat& before,
                           const OpenOptions& options) {
  const bool exclusive_device = options.exclusive && S_ISBLK(before.st_mode);
  // O_NONBLOCK: should a pipe have taken the path's place, do not wait on it.
  UniqueFd fd(::open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) |
                                       O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                                       (exclusive_device ? O_EXCL : 0)));
  if (!fd) {
    const int errnum = errno;
    if (errnum == EBUSY)
      return refuse(path, EBUSY, "in use by another program, or mounted");
    return refuse_errno(
        path, options.read_only ? "cannot open" : "cannot open for writing",
        errnum);
  }
  struct stat now {};
  if (::fstat(fd.get(), &now) != 0)
    return refuse_errno(path, "cannot stat", errno);
  if (now.st_dev != before.st_dev || now.st_ino != before.st_ino ||
      now.st_mode != before.st_mode)
    return refuse(path, EBUSY, "was replaced while it was opened");
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
    return refuse_errno(path, "cannot set its flags", errno);
  return fd;
}

// Any failure to lock is a refusal: a lock that cannot be taken protects
// nobody.
Status lock_file(const std::string& path, int fd, bool read_only) {
  struct flock lock {};
  lock.l_type = read_only ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES)
    return refuse(path, EBUSY, "in use by another program (it is locked)");
  return refuse_errno(path, "cannot be locked", errno);
}

// The smallest direct read that the kernel takes; empty when it takes none.
// Only EINVAL says no: a bad sector 0 is no reason to give up direct I/O.
std::optional<std::uint32_t> direct_unit(int fd, std::uint32_t at_least) {
  const AlignedBuffer buffer(kMinBlockBytes);
  for (std::uint32_t unit : {512U, 4096U}) {
    if (unit < at_least) continue;
    ssize_t n{};
    do n = ::pread(fd, buffer.data(), unit, 0);
    while (n < 0 && errno == EINTR);
    if (n >= 0 || (errno != EINVAL && errno != EOPNOTSUPP)) return unit;
  }
  return std::nullopt;
}

// Sets O_DIRECT on the descriptor itself: a second open would meet our own
// claim. On failure the file is as before, and the error says why.
Status go_direct(const std::string& path, OpenedFile& file) {
  const int fd = file.fd.get();
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_DIRECT) != 0)
    return refuse(path, EINVAL, "the kernel does not offer direct I/O on it");
  const auto unit = direct_unit(fd, file.info.logical_block_bytes);
  if (unit && file.info.size_bytes % *unit == 0) {
    file.info.logical_block_bytes = *unit;
    file.info.direct = true;
    return {};
  }
  if (::fcntl(fd, F_SETFL, flags) != 0)
    return refuse_errno(path, "cannot leave direct I/O", errno);
  if (!unit)
    return refuse(path, EINVAL, "the kernel does not offer direct I/O on it");
  return refuse(path, EINVAL,
                fmt::format("its size, {}, is not a multiple of {}, which "
                            "direct I/O on it needs",
                            file.info.size_bytes, *unit));
}

// Of a partition the queue belongs to its disk.
bool device_has_write_zeroes(dev_t device) {
  const std::string node =
      fmt::format("/sys/dev/block/{}:{}/", major(device), minor(device));
  for (const char* queue : {"queue", "../queue"}) {
    std::ifstream in(node + queue + "/write_zeroes_max_bytes");
    std::uint64_t bytes = 0;
    if (in >> bytes) return bytes > 0;
  }
  return false;
}

Status describe_device(const std::string& path, const struct stat& st,
                       OpenedFile& file) {
  int logical = 0;
  unsigned physical = 0;
  if (::ioctl(file.fd.get(), BLKSSZGET, &logical) != 0 ||
      ::ioctl(file.fd.get(), BLKPBSZGET, &physical) != 0)
    return refuse_errno(path, "cannot tell its sector size", errno);
  if (logical < static_cast<int>(kSectorBytes) ||
      !is_power_of_two(static_cast<std::uint64_t>(logical)))
    return refuse(path, EINVAL,
                  fmt::format("its logical sector size is {}", logical));
  // The kernel lets it be opened for writing, and then refuses the writes.
  int read_only = 0;
  if (!file.info.read_only &&
      ::ioctl(file.fd.get(), BLKROGET, &read_only) == 0 && read_only != 0)
    return refuse(path, EROFS, "the device is read-only");
  file.is_device = true;
  file.info.logical_block_bytes = static_cast<std::uint32_t>(logical);
  file.info.physical_block_bytes = is_power_of_two(physical) ? physical : 4096;
  file.info.fast_zero = device_has_write_zeroes(st.st_rdev);
  file.info.identity = device_identity(file.fd.get());
  return {};
}

void describe_regular(const struct stat& st, OpenedFile& file) {
  file.info.identity = file_identity(file.fd.get());
  file.info.fast_zero = true;
  const auto unit = static_cast<std::uint64_t>(st.st_blksize);
  if (is_power_of_two(unit) && unit >= kSectorBytes)
    file.allocation_unit = unit;
  struct statfs sfs {};
  file.dsync = ::fstatfs(file.fd.get(), &sfs) == 0 &&
               static_cast<unsigned long>(sfs.f_type) != FUSE_SUPER_MAGIC;
}

}  // namespace

Result<std::uint64_t> size_of_file(const std::string& path, int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return refuse_errno(path, "cannot stat", errno);
  auto size = static_cast<std::uint64_t>(st.st_size);
  if (S_ISBLK(st.st_mode) && ::ioctl(fd, BLKGETSIZE64, &size) != 0)
    return refuse_errno(path, "cannot tell its size", errno);
  if (size == 0) return refuse(path, EINVAL, "empty (its size is 0)");
  if (size % kSectorBytes != 0)
    return refuse(path, EINVAL,
                  fmt::format("its size, {}, is not a multiple of {}", size,
                              kSectorBytes));
  return size;
}

Result<OpenedFile> open_file(const std::string& path,
                             const OpenOptions& options) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    return refuse(path, errno,
                  errno == ENOENT
                      ? std::string("there is no such file or device")
                      : std::generic_category().message(errno));
  if (Status s = check_kind(path, st); !s) return std::move(s).error();
  Result<UniqueFd> fd = open_path(path, st, options);
  if (!fd) return std::move(fd).error();

  OpenedFile file;
  file.fd = std::move(*fd);
  if (S_ISREG(st.st_mode) && options.exclusive)
    if (Status s = lock_file(path, file.fd.get(), options.read_only); !s)
      return std::move(s).error();
  // After the lock: until then its size may have been another's to change.
  const Result<std::uint64_t> size = size_of_file(path, file.fd.get());
  if (!size) return size.error();
  file.info.name = path;
  file.info.size_bytes = *size;
  file.info.read_only = options.read_only;
  if (S_ISBLK(st.st_mode)) {
    if (Status s = describe_device(path, st, file); !s)
      return std::move(s).error();
  } else {
    describe_regular(st, file);
  }
  if (options.read_only) file.info.fast_zero = false;

  if (options.direct != DirectIo::off) {
    Status direct = go_direct(path, file);
    if (!direct && options.direct == DirectIo::on)
      return std::move(direct).error();
  }
  if (file.is_device) file.allocation_unit = file.info.logical_block_bytes;
  file.info.physical_block_bytes =
      std::max(file.info.physical_block_bytes, file.info.logical_block_bytes);
  return file;
}

}  // namespace nbd_remap
