// SPDX-License-Identifier: BSD-3-Clause
#include "server/disk_place.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;

Error refuse(int errnum, const std::string& words) {
  return make_error(ErrorClass::caller, errnum, words);
}

std::string attribute(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::optional<std::uint64_t> number(const std::string& text) {
  std::uint64_t n = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return n;
}

}  // namespace

Result<DiskPlace> place_of_number(const std::string& device_number,
                                  const std::string& path,
                                  const std::string& sysfs) {
  std::error_code error;
  fs::path node = fs::canonical(sysfs + "/dev/block/" + device_number, error);
  if (error)
    return refuse(ENOENT, fmt::format("{}: sysfs does not know it ({})", path,
                                      device_number));
  DiskPlace place;
  if (fs::exists(node / "partition", error)) {
    // In sectors of 512 bytes, whatever the disk's are.
    const auto start = number(attribute(node / "start"));
    if (!start ||
        __builtin_mul_overflow(*start, kSectorBytes, &place.start_bytes))
      return refuse(EINVAL,
                    fmt::format("{}: sysfs does not say where the partition "
                                "begins",
                                path));
    node = node.parent_path();
  }
  for (const char* kind : {"dm", "md", "loop"})
    if (fs::exists(node / kind, error))
      return refuse(ENOTBLK,
                    fmt::format("{}: is made of something else ({}), so that "
                                "the disk's places are not known on it",
                                path, kind));
  place.disk = attribute(node / "dev");
  return place;
}

Result<DiskPlace> place_on_disk(const std::string& path,
                                const std::string& sysfs) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    return refuse(errno, fmt::format("{}: {}", path,
                                     std::generic_category().message(errno)));
  if (!S_ISBLK(st.st_mode))
    return refuse(ENOTBLK, fmt::format("{}: is no block device", path));
  return place_of_number(
      fmt::format("{}:{}", major(st.st_rdev), minor(st.st_rdev)), path, sysfs);
}

}  // namespace nbd_remap
