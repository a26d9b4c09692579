// SPDX-License-Identifier: BSD-3-Clause
#include "server/smart_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <unordered_set>
#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/base/units.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr int kMaxReportDepth = 32;
// The whole ATA log, and some thousand values besides.
constexpr std::size_t kMaxValues = 400'000;
constexpr std::size_t kMaxNameBytes = 80;
// Of smartctl's exit status.
constexpr std::uint64_t kBadCommandLine = 1;
constexpr std::uint64_t kCannotOpen = 2;
constexpr std::uint64_t kFailing = 8;
constexpr std::uint64_t kBelowThreshold = 16;
// Of SCSI (SPC and SBC).
constexpr std::uint64_t kRecoveredError = 1;
constexpr std::uint64_t kMediumError = 3;

// Null: not there, or no member of anything.
const json* member(const json* object, const char* key) {
  if (object == nullptr || !object->is_object()) return nullptr;
  const auto it = object->find(key);
  return it == object->end() ? nullptr : &*it;
}
template <class... Keys>
const json* member(const json* object, const char* key, Keys... more) {
  return member(member(object, key), more...);
}

std::optional<std::uint64_t> number(const json* value) {
  if (value == nullptr || !value->is_number_unsigned()) return std::nullopt;
  return value->get<std::uint64_t>();
}
std::optional<bool> flag(const json* value) {
  if (value == nullptr || !value->is_boolean()) return std::nullopt;
  return value->get<bool>();
}
std::string text(const json* value) {
  if (value == nullptr || !value->is_string()) return {};
  return value->get_ref<const std::string&>().substr(0, kMaxNameBytes);
}

// So that no text costs more than its size in memory and stack.
bool moderate(std::string_view text) {
  std::size_t values = 0;
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++values;
      if (++depth > kMaxReportDepth) return false;
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ',') {
      ++values;
    }
    if (values > kMaxValues) return false;
  }
  return true;
}

class Reader {
 public:
  explicit Reader(const json& root) : root_(&root) {}

  SmartReport read() {
    const json* at = root_;
    report_.protocol = text(member(at, "device", "protocol"));
    for (const char* key : {"model_name", "scsi_model_name", "model_family"})
      if (report_.model.empty()) report_.model = text(member(at, key));
    const auto block = number(member(at, "logical_block_size"));
    if (block && is_power_of_two(*block) && *block >= kSectorBytes &&
        *block <= kMaxBlockBytes)
      report_.block_bytes = static_cast<std::uint32_t>(*block);
    report_.blocks = number(member(at, "user_capacity", "blocks")).value_or(0);
    report_.passed = flag(member(at, "smart_status", "passed"));
    const auto exit = number(member(at, "smartctl", "exit_status"));
    if (exit && (*exit & kFailing) != 0) report_.passed = false;
    report_.below_threshold = exit && (*exit & kBelowThreshold) != 0;
    read_ata();
    read_scsi();
    read_nvme();
    return std::move(report_);
  }

 private:
  std::optional<std::uint64_t> count(std::optional<std::uint64_t> n) const {
    if (n && report_.blocks != 0 && *n > report_.blocks) return std::nullopt;
    return n;
  }

  void add(std::optional<std::uint64_t> lba) {
    if (!lba || (report_.blocks != 0 && *lba >= report_.blocks)) return;
    if (seen_.contains(*lba)) return;
    if (report_.lbas.size() >= kMaxSmartLbas) {
      ++report_.more_lbas;
      return;
    }
    seen_.insert(*lba);
    report_.lbas.push_back(*lba);
  }

  // The raw value is what the text begins with: "8 (2000 8)" is 8 of a number
  // that some drives pack with others.
  static std::optional<std::uint64_t> raw(const json& attribute) {
    const std::string words = text(member(&attribute, "raw", "string"));
    std::uint64_t n = 0;
    const auto [end, error] =
        std::from_chars(words.data(), words.data() + words.size(), n);
    if (error == std::errc() &&
        (end == words.data() + words.size() || *end == ' '))
      return n;
    return number(member(&attribute, "raw", "value"));
  }

  void read_ata() {
    const json* table = member(root_, "ata_smart_attributes", "table");
    if (table != nullptr && table->is_array())
      for (const json& attribute : *table) {
        const auto id = number(member(&attribute, "id"));
        if (id == 5U) report_.reallocated = count(raw(attribute));
        if (id == 197U) report_.pending = count(raw(attribute));
        if (id == 198U) report_.uncorrected = count(raw(attribute));
      }
    const json* log = member(root_, "ata_pending_defects_log");
    const auto logged = count(number(member(log, "count")));
    if (logged)
      report_.pending = std::max(report_.pending.value_or(0), *logged);
    const json* entries = member(log, "table");
    if (entries != nullptr && entries->is_array())
      for (const json& entry : *entries) add(number(member(&entry, "lba")));
  }

  void read_scsi() {
    const auto grown = count(number(member(root_, "scsi_grown_defect_list")));
    if (grown) report_.reallocated = grown;
    const json* pending = member(root_, "scsi_pending_defects");
    if (const auto n = count(number(member(pending, "count"))))
      report_.pending = n;
    // Under an index in 7.3, in a table later.
    add_nested(pending, 0);
    const json* errors = member(root_, "scsi_error_counter_log");
    for (const char* kind : {"read", "write", "verify"})
      if (const auto n =
              number(member(errors, kind, "total_uncorrected_errors"))) {
        std::uint64_t sum = 0;
        if (!__builtin_add_overflow(report_.uncorrected.value_or(0), *n, &sum))
          report_.uncorrected = sum;
      }
    const json* scan = member(root_, "scsi_background_scan");
    if (scan == nullptr || !scan->is_object()) return;
    for (const std::uint64_t sense : {kMediumError, kRecoveredError})
      for (const auto& [name, result] : scan->items())
        // Drives put things of their own there, with other keys.
        if (name.starts_with("result_") &&
            number(member(&result, "sense_key", "value")) == sense)
          add(number(member(&result, "lba")));
  }
  void add_nested(const json* value, int depth) {
    if (value == nullptr || !value->is_structured() || depth > 2) return;
    add(number(member(value, "lba")));
    add(number(member(value, "LBA")));
    for (const json& inner : *value) add_nested(&inner, depth + 1);
  }

  void read_nvme() {
    const json* log = member(root_, "nvme_smart_health_information_log");
    if (log == nullptr) return;
    report_.uncorrected = number(member(log, "media_errors"));
    report_.spare_percent = number(member(log, "available_spare"));
    report_.spare_threshold_percent =
        number(member(log, "available_spare_threshold"));
    report_.used_percent = number(member(log, "percentage_used"));
    if (number(member(log, "critical_warning")).value_or(0) != 0)
      report_.below_threshold = true;
  }

  const json* const root_;
  SmartReport report_;
  std::unordered_set<std::uint64_t> seen_;
};

Error refuse(const std::string& source, const std::string& why,
             int errnum = EINVAL) {
  return make_error(ErrorClass::caller, errnum,
                    fmt::format("{}: {}", source, why));
}

bool says_anything(const SmartReport& r) {
  return r.passed || r.pending || r.reallocated || r.uncorrected ||
         r.spare_percent || r.used_percent || r.below_threshold ||
         !r.lbas.empty();
}

}  // namespace

Result<SmartReport> parse_smart(std::string_view text_of,
                                const std::string& source) {
  constexpr const char* kExpected = "expected what smartctl --json -x prints";
  if (text_of.size() > kMaxSmartBytes || !moderate(text_of))
    return refuse(source, fmt::format("too large or too deep; {}", kExpected));
  json root;
  try {
    root = json::parse(text_of);
  } catch (const json::parse_error& e) {
    return refuse(source, e.byte > text_of.size()
                              ? fmt::format("ends too early; {}", kExpected)
                              : fmt::format("no JSON from byte {} on; {}",
                                            e.byte, kExpected));
  } catch (const json::exception&) {
    return refuse(source, fmt::format("no JSON; {}", kExpected));
  }
  const auto exit = number(member(&root, "smartctl", "exit_status"));
  if (!exit) return refuse(source, fmt::format("{}", kExpected));
  if ((*exit & (kBadCommandLine | kCannotOpen)) != 0) {
    std::string why = "could not ask the disk";
    const json* messages = member(&root, "smartctl", "messages");
    if (messages != nullptr && messages->is_array() && !messages->empty())
      if (const std::string said = text(member(&messages->front(), "string"));
          !said.empty())
        why = said;
    return refuse(source, fmt::format("smartctl: {}", why), EIO);
  }
  SmartReport report = Reader(root).read();
  if (!says_anything(report))
    return refuse(source,
                  "the disk has no SMART data, as virtual ones and "
                  "some USB bridges have none",
                  ENODATA);
  return report;
}

json smart_counts_json(const SmartReport& report) {
  json out = json::object();
  const auto put = [&](const char* key, const auto& value) {
    if (value) out[key] = *value;
  };
  put("passed", report.passed);
  put("pending", report.pending);
  put("reallocated", report.reallocated);
  put("uncorrected", report.uncorrected);
  put("spare_percent", report.spare_percent);
  put("spare_threshold_percent", report.spare_threshold_percent);
  put("used_percent", report.used_percent);
  out["below_threshold"] = report.below_threshold;
  return out;
}

std::string smart_words(const SmartReport& report) {
  std::string out;
  const auto say = [&](const std::string& words) {
    out += (out.empty() ? "" : ", ") + words;
  };
  if (report.passed) say(*report.passed ? "passed" : "FAILING");
  if (report.below_threshold) say("below a threshold");
  if (report.pending) say(fmt::format("{} pending", *report.pending));
  if (report.reallocated)
    say(fmt::format("{} reallocated", *report.reallocated));
  if (report.uncorrected)
    say(fmt::format("{} uncorrected", *report.uncorrected));
  if (report.spare_percent)
    say(fmt::format("{} % of its own spare left", *report.spare_percent));
  if (report.used_percent)
    say(fmt::format("{} % of its life used", *report.used_percent));
  return out;
}

SmartSeeds place_seeds(const SmartReport& report, std::uint64_t first,
                       std::uint64_t volume_bytes, std::uint64_t block_bytes) {
  SmartSeeds seeds;
  std::unordered_set<std::uint64_t> seen;
  for (const std::uint64_t lba : report.lbas) {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    if (__builtin_mul_overflow(lba, report.block_bytes, &begin) ||
        __builtin_add_overflow(begin, report.block_bytes, &end) ||
        end <= first ||
        begin >= first + std::min(volume_bytes, ~std::uint64_t{0} - first)) {
      ++seeds.outside;
      continue;
    }
    begin = begin > first ? begin - first : 0;
    end = std::min(end - first, volume_bytes);
    for (std::uint64_t at = begin / block_bytes * block_bytes; at < end;
         at += block_bytes) {
      if (!seen.insert(at).second) continue;
      const ByteRange block{at, std::min(block_bytes, volume_bytes - at)};
      // Neighbours that follow one another are one place.
      if (!seeds.ranges.empty() &&
          seeds.ranges.back().offset + seeds.ranges.back().length == at)
        seeds.ranges.back().length += block.length;
      else
        seeds.ranges.push_back(block);
    }
  }
  return seeds;
}

}  // namespace nbd_remap
