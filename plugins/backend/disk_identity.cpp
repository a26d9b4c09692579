// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/disk_identity.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "plugins/base/crc32c.hpp"
#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;

// Blanks, of which serial numbers are full, are squeezed to one; what cannot
// be printed becomes '?'; the end of what is too long becomes a checksum.
std::string tidy(const std::string& text) {
  std::string result;
  for (char c : text) {
    const bool blank = c == ' ' || c == '\t' || c == '\n' || c == '\0';
    if (blank) {
      if (!result.empty() && result.back() != ' ') result += ' ';
    } else {
      result += c > 0x20 && c < 0x7f ? c : '?';
    }
  }
  while (!result.empty() && result.back() == ' ') result.pop_back();
  if (result.size() <= kMaxIdentity) return result;
  const std::uint32_t sum =
      crc32c(std::as_bytes(std::span(result.data(), result.size())));
  const std::string tail = fmt::format("...{:08x}", sum);
  return result.substr(0, kMaxIdentity - tail.size()) + tail;
}

// One attribute of sysfs, tidied; empty when there is none.
std::string attribute(const fs::path& path) {
  std::ifstream in(path);
  std::string text;
  // An attribute is one page at most.
  for (char c{}; text.size() < 4096 && in.get(c);) text += c;
  return tidy(text);
}

// Of the file behind a loop device; empty when it cannot be found any more.
std::string loop_identity(int fd, const fs::path& disk) {
  loop_info64 loop{};
  if (::ioctl(fd, LOOP_GET_STATUS64, &loop) != 0) return {};
  std::ifstream in(disk / "loop" / "backing_file");
  std::string path;
  std::getline(in, path);
  const UniqueFd file(::open(path.c_str(), O_PATH | O_CLOEXEC));
  struct stat st {};
  if (!file || ::fstat(file.get(), &st) != 0 || st.st_ino != loop.lo_inode)
    return {};
  std::string identity =
      S_ISREG(st.st_mode) ? file_identity(file.get()) : std::string();
  if (identity.empty() || loop.lo_offset == 0) return identity;
  return fmt::format("{} offset={}", identity, loop.lo_offset);
}

std::string whole_disk_identity(int fd, const fs::path& disk) {
  if (std::string loop = loop_identity(fd, disk); !loop.empty()) return loop;
  struct Source {
    const char* kind;
    const char* path;
  };
  for (const Source& source :
       {Source{"dm", "dm/uuid"}, Source{"md", "md/uuid"},
        Source{"nvme", "wwid"}, Source{"scsi", "device/wwid"},
        Source{"serial", "device/serial"}, Source{"serial", "serial"}})
    if (std::string value = attribute(disk / source.path); !value.empty())
      return fmt::format("{} {}", source.kind, value);
  return {};
}

}  // namespace

std::string file_identity(int fd) {
  struct statx sx {};
  struct statfs sfs {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &sx) != 0)
    return "file";
  std::uint64_t fsid = 0;
  if (::fstatfs(fd, &sfs) == 0) std::memcpy(&fsid, &sfs.f_fsid, sizeof fsid);
  // A file system without an id (FUSE) is told from others by its device.
  std::string identity =
      fsid != 0 ? fmt::format("file fsid={:x} ino={}", fsid, sx.stx_ino)
                : fmt::format("file dev={}:{} ino={}", sx.stx_dev_major,
                              sx.stx_dev_minor, sx.stx_ino);
  if ((sx.stx_mask & STATX_BTIME) != 0)
    identity += fmt::format(" btime={}.{:09}", sx.stx_btime.tv_sec,
                            sx.stx_btime.tv_nsec);
  return tidy(identity);
}

std::string device_identity(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return "dev";
  const std::string number =
      fmt::format("{}:{}", major(st.st_rdev), minor(st.st_rdev));
  std::error_code error;
  const fs::path node = fs::canonical("/sys/dev/block/" + number, error);
  if (error) return "dev " + number;
  const bool is_partition = fs::exists(node / "partition", error);
  const std::string disk =
      whole_disk_identity(fd, is_partition ? node.parent_path() : node);
  if (disk.empty()) return "dev " + number;
  if (!is_partition) return tidy(disk);
  return tidy(fmt::format("{} start={}", disk, attribute(node / "start")));
}

}  // namespace nbd_remap
