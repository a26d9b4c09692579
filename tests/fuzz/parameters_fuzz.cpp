// SPDX-License-Identifier: BSD-3-Clause
// The words of the command lines, one a line, and NBD URIs. An error is of
// class caller and says why; what was accepted gives the same when it is said
// again in words.
#include <fmt/format.h>

#include <sys/un.h>

#include <string>
#include <utility>
#include <vector>

#include "plugins/backend/nbd_uri.hpp"
#include "plugins/baddisk/parameters.hpp"
#include "plugins/baddisk/slow_sectors.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/nbdkit/parameters.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

using Words = std::vector<std::pair<std::string, std::string>>;

void refused(const Error& error) {
  require(error.errnum != 0 && !error.place.empty(), "a refusal says why");
  require(error.error_class == ErrorClass::caller, "the words are to blame");
  const std::string line = printable(error_words(error));
  require(!line.empty() && line.find('\n') == std::string::npos,
          "a refusal is one line");
}

Words words_in(FuzzInput in) {
  Words words;
  while (!in.empty()) {
    const std::string_view line = in.text_until('\n');
    const std::size_t equals = line.find('=');
    // nbdkit splits them so; what has no '=' is the value of main.
    if (equals == std::string_view::npos)
      words.emplace_back("main", line);
    else
      words.emplace_back(line.substr(0, equals), line.substr(equals + 1));
  }
  return words;
}

Result<Parameters> read(const Words& words) {
  ParameterParser parser;
  for (const auto& [key, value] : words)
    if (Status added = parser.add(key, value); !added)
      return std::move(added).error();
  return parser.finish();
}

Words words_of(const Parameters& p) {
  Words words{
      {"main", p.main},
      {"spare", p.spare},
      {"direct", p.direct == DirectIo::automatic ? "auto"
                 : p.direct == DirectIo::on      ? "on"
                                                 : "off"},
      {"main-connections", fmt::to_string(p.main_connections)},
      {"main-timeout", fmt::to_string(p.main_timeout.count())},
      {"spare-timeout", fmt::to_string(p.spare_timeout.count())},
      {"missing-spare",
       p.missing_spare == MissingSpare::refuse ? "refuse" : "readonly"},
      {"on-pending-write", p.volume.on_pending_write == PendingWrite::main_first
                               ? "main-first"
                               : "spare-first"},
      {"retries", fmt::to_string(p.volume.retries)},
      {"breaker", fmt::to_string(p.volume.breaker)}};
  if (!p.control.empty()) words.emplace_back("control", p.control);
  if (p.block_bytes)
    words.emplace_back("block-size", fmt::to_string(*p.block_bytes));
  if (p.spare_uuid) words.emplace_back("spare-uuid", uuid_text(*p.spare_uuid));
  return words;
}

void try_remap(const Words& words) {
  const auto first = read(words);
  if (!first) return refused(first.error());
  for (const std::string* disk : {&first->main, &first->spare})
    require(disk->front() == '/' || is_nbd_uri(*disk), "a disk has a place");
  require(first->control.empty() || first->control.front() == '/',
          "the control socket has a place");
  require(first->main_connections >= 1 && first->main_connections <= 16,
          "connections are few");
  const auto second = read(words_of(*first));
  require(second.ok(), "what was accepted can be said again");
  require(words_of(*second) == words_of(*first) &&
              second->volume.lock_bound == first->volume.lock_bound,
          "and says the same");
}

Result<BadDiskParameters> read_bad(const Words& words) {
  BadDiskParameterReader reader;
  for (const auto& [key, value] : words)
    if (Status set = reader.set(key, value); !set)
      return std::move(set).error();
  return reader.complete();
}

std::string list_of(const std::vector<BadRange>& ranges) {
  std::string out;
  for (const BadRange& r : ranges) {
    out += fmt::format("{}{}+{}", out.empty() ? "" : ",", r.start, r.count);
    if (r.mode) out += fmt::format(":{}", bad_mode_name(*r.mode));
  }
  return out;
}

void check_list(const std::vector<BadRange>& ranges) {
  for (const BadRange& r : ranges)
    require(r.count != 0 && checked_add(r.start, r.count),
            "a range is some sectors of a disk that can be");
  const auto again = parse_bad_list(list_of(ranges));
  require(ranges.empty() || (again && *again == ranges),
          "a list says the same again");
}

void try_baddisk(const Words& words) {
  const auto p = read_bad(words);
  if (!p) return refused(p.error());
  require(!p->file.empty(), "a disk has a file");
  check_list(p->bad);
  check_list(p->slow);
  check_list(p->rot);
  require(!p->bad_percent || (*p->bad_percent > 0 && *p->bad_percent <= 100),
          "a percentage is one");
  require(!p->slow_ms ||
              (*p->slow_ms >= 1 && *p->slow_ms <= SlowSectors::kMaxDelayMs),
          "a delay is bounded");
  require(p->write_cache_bytes <= kMaxWriteCacheBytes, "a cache is bounded");
  require(p->control.size() < sizeof(sockaddr_un::sun_path),
          "a socket's path fits");
}

bool plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c > ' ' && c < 0x7f; });
}

void try_uris(FuzzInput in) {
  const std::string_view a = in.text_until('\n');
  const std::string_view b = in.text_until('\n');
  const std::string name = nbd_display_name(a);
  require(plain(name), "a name for people is printable");
  const std::string identity = nbd_identity(a);
  require(identity.size() <= kMaxNbdIdentityBytes, "an identity fits");
  std::string words = identity;  // "nbd ", and one that is cut has one more
  std::erase(words, ' ');
  require(plain(words) && identity.starts_with("nbd "),
          "an identity is printable");
  if (const Status fine = check_nbd_uri(a); !fine) refused(fine.error());
  static_cast<void>(nbd_tls_files(a));
  require(same_nbd_export(a, a), "an export is itself");
  require(same_nbd_export(a, b) == same_nbd_export(b, a),
          "same is the same either way");
}

}  // namespace

void fuzz_parameters(ConstBytes input) {
  FuzzInput in(input);
  switch (in.below(4, 1)) {
    case 0:
      return try_remap(words_in(in));
    case 1:
      return try_baddisk(words_in(in));
    case 2:
      return try_uris(in);
    default:
      if (const auto ranges = parse_bad_list(in.rest_text()); ranges)
        check_list(*ranges);
      else
        refused(ranges.error());
  }
}

}  // namespace nbd_remap
