// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/baddisk/parameters.hpp"

#include <fmt/format.h>
#include <sys/un.h>

#include <array>
#include <charconv>
#include <utility>

#include "plugins/baddisk/bit_rot.hpp"
#include "plugins/baddisk/slow_sectors.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

// What nbdkit passes on to the client as it is.
constexpr std::array<std::pair<std::string_view, int>, 5> kErrnos{
    {{"EIO", EIO},
     {"ENOMEM", ENOMEM},
     {"ENOSPC", ENOSPC},
     {"EPERM", EPERM},
     {"ESHUTDOWN", ESHUTDOWN}}};

Error refuse(std::string place) {
  return make_error(ErrorClass::caller, EINVAL, std::move(place));
}

Error wrong(const std::string& key, const std::string& value,
            std::string_view expected, std::string_view example) {
  return refuse(fmt::format("{}={}: expected {}, for example {}={}", key, value,
                            expected, key, example));
}

}  // namespace

std::optional<int> parse_errno_name(std::string_view name) {
  for (const auto& [known, errnum] : kErrnos)
    if (name == known) return errnum;
  return {};
}

std::string_view errno_name(int errnum) {
  for (const auto& [name, known] : kErrnos)
    if (errnum == known) return name;
  return "EIO";
}

std::optional<double> parse_percent(std::string_view text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] =
      std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (text.empty() || problem != std::errc() || stop != end) return {};
  if (!(value > 0 && value <= 100)) return {};
  return value;
}

Status BadDiskParameterReader::set(const std::string& key,
                                   const std::string& value) {
  if (given_.count(key) != 0)
    return refuse(fmt::format(
        "{}={}: {} was given before; expected it once, for example bad=7,9-12",
        key, value, key));
  if (auto ok = set_value(key, value); !ok) return ok;
  given_.insert(key);
  return {};
}

Status BadDiskParameterReader::set_value(const std::string& key,
                                         const std::string& value) {
  if (key == "file") {
    if (value.empty())
      return wrong(key, value, "the path of a file or block device",
                   "disk.img");
    parameters_.file = value;
  } else if (key == "bad") {
    auto ranges = parse_bad_list(value);
    if (!ranges)
      return refuse(fmt::format("bad={}: {}", value, ranges.error().place));
    parameters_.bad = std::move(*ranges);
  } else if (key == "bad-count") {
    parameters_.bad_count = parse_whole(value);
    if (!parameters_.bad_count)
      return wrong(key, value, "a number of sectors of 512 bytes", "100");
  } else if (key == "bad-percent") {
    parameters_.bad_percent = parse_percent(value);
    if (!parameters_.bad_percent)
      return wrong(key, value, "a number above 0 and up to 100", "0.5");
  } else if (key == "mode") {
    const auto mode = parse_bad_mode(value);
    if (!mode) return wrong(key, value, "read, write or both", "read");
    parameters_.mode = *mode;
  } else if (key == "transient") {
    const auto count = parse_whole(value);
    if (!count || *count > UINT32_MAX)
      return wrong(key, value,
                   "how often each bad sector fails (0: always, at most "
                   "4294967295)",
                   "2");
    parameters_.transient = static_cast<std::uint32_t>(*count);
  } else if (key == "heal-on-write") {
    if (value != "yes" && value != "no")
      return wrong(key, value, "yes or no", "yes");
    parameters_.heal_on_write = value == "yes";
  } else if (key == "seed") {
    const auto seed = parse_whole(value);
    if (!seed)
      return wrong(key, value, "a number from 0 to 18446744073709551615", "42");
    parameters_.seed = *seed;
  } else if (key == "errno" || key == "die-errno") {
    const auto errnum = parse_errno_name(value);
    if (!errnum) return wrong(key, value, kErrnoNames, "EIO");
    (key == "errno" ? parameters_.errnum : parameters_.die_errnum) = *errnum;
  } else if (key == "slow" || key == "rot") {
    auto ranges = parse_bad_list(value);
    if (!ranges)
      return refuse(fmt::format("{}={}: {}", key, value, ranges.error().place));
    (key == "slow" ? parameters_.slow : parameters_.rot) = std::move(*ranges);
  } else if (key == "slow-ms") {
    parameters_.slow_ms = parse_whole(value);
    if (!parameters_.slow_ms ||
        *parameters_.slow_ms - 1 >= SlowSectors::kMaxDelayMs)
      return wrong(
          key, value,
          fmt::format("milliseconds from 1 to {}", SlowSectors::kMaxDelayMs),
          "500");
  } else if (key == "rot-bits") {
    const auto bits = parse_whole(value);
    if (!bits || *bits - 1 >= kMaxRotBits)
      return wrong(
          key, value,
          fmt::format("bits of each sector, from 1 to {}", kMaxRotBits), "1");
    parameters_.rot_bits = *bits;
  } else if (key == "die-after") {
    parameters_.die_after = parse_whole(value);
    if (!parameters_.die_after)
      return wrong(key, value, "how many requests still work", "1000");
  } else if (key == "write-cache") {
    const auto bytes = parse_bytes(value);
    if (!bytes || *bytes < kMinBlockBytes || *bytes > kMaxWriteCacheBytes)
      return wrong(key, value, "bytes from 4096 to 1G, as N, NK, NM or 1G",
                   "16M");
    parameters_.write_cache_bytes = *bytes;
  } else if (key == "control") {
    if (value.empty() || value.size() >= sizeof(sockaddr_un::sun_path))
      return wrong(key, value,
                   fmt::format("the path of a Unix socket, at most {} bytes",
                               sizeof(sockaddr_un::sun_path) - 1),
                   "/tmp/disk.sock");
    parameters_.control = value;
  } else {
    return refuse(fmt::format(
        "{}={}: unknown parameter; expected file, bad, bad-count, bad-percent, "
        "mode, transient, heal-on-write, seed, errno, slow, slow-ms, rot, "
        "rot-bits, die-after, die-errno, write-cache or control, for example "
        "bad=100-199",
        key, value));
  }
  return {};
}

Result<BadDiskParameters> BadDiskParameterReader::complete() const {
  if (parameters_.file.empty())
    return refuse(
        "file= is missing: expected the path of a file or block device, for "
        "example file=disk.img");
  if (parameters_.bad_count && parameters_.bad_percent)
    return refuse(
        "bad-count= and bad-percent=: expected one of the two, for example "
        "bad-count=100");
  if (parameters_.slow.empty() == parameters_.slow_ms.has_value())
    return refuse(
        "slow= and slow-ms=: expected both or neither, for example "
        "slow=100-199 slow-ms=500");
  return parameters_;
}

}  // namespace nbd_remap
