// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/parameters.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <memory>
#include <utility>

#include "plugins/backend/nbd_uri.hpp"

namespace nbd_remap {
namespace {

Error wrong(const std::string& key, const std::string& value,
            const std::string& expected, const std::string& example) {
  return make_error(ErrorClass::caller, EINVAL,
                    fmt::format("{}={}: expected {}, for example {}={}", key,
                                value, expected, key, example));
}

std::optional<std::uint64_t> parse_number(const std::string& text,
                                          std::uint64_t min,
                                          std::uint64_t max) {
  std::uint64_t n = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, n);
  if (error != std::errc() || rest != end || n < min || n > max)
    return std::nullopt;
  return n;
}

// nbdkit changes its directory when it goes into the background.
Status parse_path(const std::string& key, const std::string& value,
                  std::string& out) {
  if (value.empty())
    return wrong(key, value, "a path", "/run/nbd-remap/disk.sock");
  out = value;
  if (value.front() == '/') return {};
  const std::unique_ptr<char, decltype(&std::free)> here(
      ::realpath(".", nullptr), &std::free);
  if (!here)
    return make_error(errno,
                      fmt::format("{}={}: the current directory", key, value));
  out = fmt::format("{}/{}", here.get(), value);
  return {};
}

Status parse_disk(const std::string& key, const std::string& value,
                  std::string& out) {
  if (value.empty())
    return wrong(key, value, "a file, a block device or an NBD URI",
                 "/dev/sdb");
  if (!is_nbd_uri(value)) return parse_path(key, value, out);
  if (Status fine = check_nbd_uri(value); !fine)
    return make_error(ErrorClass::caller, EINVAL,
                      key + "=" + std::move(fine).error().place);
  out = value;
  return {};
}

Status parse_seconds(const std::string& key, const std::string& value,
                     std::chrono::seconds& out) {
  const auto n = parse_number(value, 1, 3600);
  if (!n) return wrong(key, value, "seconds from 1 to 3600", "20");
  out = std::chrono::seconds(*n);
  return {};
}

template <class E>
Status parse_choice(const std::string& key, const std::string& value,
                    const std::map<std::string, E>& choices, E& out) {
  const auto it = choices.find(value);
  if (it != choices.end()) {
    out = it->second;
    return {};
  }
  std::string all;
  for (const auto& [name, unused] : choices)
    all += (all.empty() ? "" : ", ") + name;
  return wrong(key, value, "one of " + all, choices.begin()->first);
}

}  // namespace

Status ParameterParser::add(const std::string& key, const std::string& value) {
  Parameters& p = parameters_;
  if (!words_.emplace(key, value).second)
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}={}: given twice, first as {}={}; expected "
                    "once",
                    key, value, key, words_[key]));
  if (key == "main") return parse_disk(key, value, p.main);
  if (key == "spare") return parse_disk(key, value, p.spare);
  if (key == "control") return parse_path(key, value, p.control);
  if (key == "direct")
    return parse_choice<DirectIo>(key, value,
                                  {{"auto", DirectIo::automatic},
                                   {"on", DirectIo::on},
                                   {"off", DirectIo::off}},
                                  p.direct);
  if (key == "on-pending-write")
    return parse_choice<PendingWrite>(
        key, value,
        {{"main-first", PendingWrite::main_first},
         {"spare-first", PendingWrite::spare_first}},
        p.volume.on_pending_write);
  if (key == "missing-spare")
    return parse_choice<MissingSpare>(key, value,
                                      {{"refuse", MissingSpare::refuse},
                                       {"readonly", MissingSpare::readonly}},
                                      p.missing_spare);
  if (key == "block-size") {
    const auto n = parse_number(value, kMinBlockBytes, kMaxBlockBytes);
    if (!n || !is_power_of_two(*n))
      return wrong(key, value, "4096, 8192, 16384 or 32768", "4096");
    p.block_bytes = static_cast<std::uint32_t>(*n);
    return {};
  }
  if (key == "main-connections") {
    const auto n = parse_number(value, 1, 16);
    if (!n) return wrong(key, value, "a number from 1 to 16", "4");
    p.main_connections = static_cast<unsigned>(*n);
    return {};
  }
  if (key == "main-timeout") return parse_seconds(key, value, p.main_timeout);
  if (key == "spare-timeout") return parse_seconds(key, value, p.spare_timeout);
  if (key == "retries") {
    const auto n = parse_number(value, 0, 100);
    if (!n) return wrong(key, value, "a number from 0 to 100", "2");
    p.volume.retries = static_cast<unsigned>(*n);
    return {};
  }
  if (key == "breaker") {
    const auto n = parse_number(value, 1, 1'000'000);
    if (!n) return wrong(key, value, "a number from 1 to 1000000", "16");
    p.volume.breaker = *n;
    return {};
  }
  if (key == "scan") {
    if (value == "manual") return {};
    const auto every = parse_duration(value);
    if (!every)
      return wrong(key, value, "manual, or how often, up to 10 years", "7d");
    p.scan.every = *every;
    return {};
  }
  if (key == "scan-rate") {
    const auto rate = parse_scan_rate(value);
    if (!rate)
      return wrong(key, value,
                   "bytes a second of at least 32K, a share of the idle time "
                   "from 1% to 100%, or max",
                   "50M");
    p.scan.rate = *rate;
    return {};
  }
  if (key == "rescue")
    return parse_choice<Rescue>(key, value,
                                {{"off", Rescue::off},
                                 {"pending", Rescue::pending},
                                 {"suspect", Rescue::suspect}},
                                p.scan.rescue);
  if (key == "spare-uuid") {
    const auto uuid = parse_uuid(value);
    if (!uuid)
      return wrong(key, value, "the UUID that 'spare format' printed",
                   "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
    p.spare_uuid = *uuid;
    return {};
  }
  return make_error(
      ErrorClass::caller, EINVAL,
      fmt::format(
          "{}={}: unknown parameter; expected one of main, spare, "
          "control, direct, main-connections, main-timeout, "
          "spare-timeout, block-size, on-pending-write, retries, "
          "breaker, scan, scan-rate, rescue, spare-uuid, missing-spare, for "
          "example "
          "spare=/dev/sdc",
          key, value));
}

Result<Parameters> ParameterParser::finish() const {
  Parameters p = parameters_;
  if (p.main.empty())
    return make_error(ErrorClass::caller, EINVAL,
                      "main= is missing: expected the disk to serve, for "
                      "example main=/dev/sdb");
  if (p.spare.empty())
    return make_error(ErrorClass::caller, EINVAL,
                      "spare= is missing: expected the disk that takes what "
                      "main= cannot hold, for example spare=/dev/sdc");
  if (p.main == p.spare || (is_nbd_uri(p.main) && is_nbd_uri(p.spare) &&
                            same_nbd_export(p.main, p.spare)))
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("spare={}: the same as main=; expected "
                                  "another disk, for example spare=/dev/sdc",
                                  p.spare));
  if (!p.control.empty() && (p.control == p.main || p.control == p.spare))
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("control={}: a disk of this volume; expected "
                                  "a path for a new socket, for example "
                                  "control=/run/nbd-remap/disk.sock",
                                  p.control));
  // A request may wait for a region while another one waits for both disks.
  p.volume.lock_bound += p.main_timeout + p.spare_timeout;
  return p;
}

const char* parameter_help() {
  return "[main=]DISK            (required) what is served: a file, a block\n"
         "                       device or an NBD URI\n"
         "spare=DISK             (required) takes what MAIN cannot hold; made\n"
         "                       with 'nbd-remapctl spare format'\n"
         "control=SOCKET         Unix socket for nbd-remapctl\n"
         "direct=auto|on|off     direct I/O (default auto)\n"
         "main-connections=N     to a remote MAIN with multi-conn (default 4)\n"
         "main-timeout=SECONDS   how long requests wait for a remote MAIN "
         "that\n"
         "                       does not answer or was lost (default 20)\n"
         "spare-timeout=SECONDS  same for a remote SPARE (default 8)\n"
         "block-size=BYTES       refuse a SPARE with blocks of another size\n"
         "on-pending-write=main-first|spare-first\n"
         "                       where a write to an unreadable block goes\n"
         "                       first (default main-first)\n"
         "retries=N              more tries of an unreadable sector (default "
         "2)\n"
         "breaker=N              blocks failing in a row before MAIN is "
         "probed\n"
         "                       as a whole (default 16)\n"
         "scan=manual|DURATION   read all of MAIN by itself so often, such as\n"
         "                       7d (default manual)\n"
         "scan-rate=RATE         of that: bytes a second, a share such as "
         "30%,\n"
         "                       or max (default max)\n"
         "rescue=off|pending|suspect\n"
         "                       which blocks the scanner moves to SPARE by\n"
         "                       itself (default suspect)\n"
         "spare-uuid=UUID        refuse any other SPARE\n"
         "missing-spare=refuse|readonly\n"
         "                       without a SPARE that can be written: do not\n"
         "                       start, or serve read-only what is known\n"
         "                       (default refuse)";
}

}  // namespace nbd_remap
