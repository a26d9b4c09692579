// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_render.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "plugins/base/tool_text.hpp"
#include "server/answer_fields.hpp"
#include "server/ctl_render_health.hpp"

namespace nbd_remap {
namespace {

using namespace answer_fields;  // NOLINT: this file is about them
using nlohmann::json;

// The deepest answer has 4 levels. Printing recurses.
constexpr int kMaxDepth = 16;
constexpr std::size_t kSectorsShown = 16;

// "medium 2, full 1" of an object of counts; only those that are not 0.
std::string counts(const json& object, const char* key, const char* none) {
  const json& all = field(object, key);
  if (!all.is_object()) throw Misfit(fmt::format("\"{}\" is no object", key));
  std::string out;
  for (const auto& [name, value] : all.items()) {
    const std::uint64_t n = number_of(value, key);
    if (n != 0)
      out +=
          fmt::format("{}{} {}", out.empty() ? "" : ", ", printable(name), n);
  }
  return out.empty() ? none : out;
}

std::string reasons(const json& object, const char* indent) {
  std::string out;
  for (const json& reason : list(object, "reasons"))
    out += fmt::format("{}{}\n", indent, text_of(reason, "reasons"));
  return out;
}

std::string duration(std::uint64_t seconds) {
  if (seconds < 60) return count_of(seconds, "second");
  if (seconds < 3600)
    return fmt::format("{} min {} s", seconds / 60, seconds % 60);
  if (seconds < 86400)
    return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{} d {} h", seconds / 86400, seconds / 3600 % 24);
}

const char* io_words(const json& disk) {
  if (flag(disk, "remote")) return "remote";
  return flag(disk, "direct") ? "direct I/O"
                              : "through the page cache: its write errors fail "
                                "a FLUSH instead of being healed";
}

std::string sectors(const json& entry) {
  const json& all = list(entry, "unreadable_sectors");
  std::string out;
  std::size_t shown = 0;
  for (const json& sector : all) {
    const std::uint64_t n = number_of(sector, "unreadable_sectors");
    if (++shown <= kSectorsShown)
      out += fmt::format("{}{}", out.empty() ? "" : " ", n);
  }
  if (shown > kSectorsShown)
    out += fmt::format(" and {} more", shown - kSectorsShown);
  return out.empty() ? "-" : out;
}

// One line of `volume show`; the first one of a group has the label.
std::string line(const char* label, const std::string& words) {
  return fmt::format("{:<10}{}\n", label, words);
}

// Of a remote that was lost at least once.
std::string link_line(const json& disk) {
  const json& link = field(disk, "link");
  if (link.is_null()) return "";
  const std::uint64_t times = number(link, "reconnects");
  const std::string bytes = human_bytes(number(link, "replayed_bytes"));
  if (flag(link, "connected") && times == 0) return "";
  return line("", fmt::format("{}connected again {}, {} written again",
                              flag(link, "connected") ? "" : "NOT REACHED; ",
                              count_of(times, "time"), bytes));
}

std::string spare_lines(const json& spare) {
  // The server runs without it, read-only, if it was told to.
  if (spare.is_null()) return line("SPARE", "missing");
  const std::uint64_t slots = number(spare, "slots");
  const std::uint64_t used = number(spare, "used");
  const std::uint64_t retired = number(spare, "retired");
  std::string out = line(
      "SPARE", fmt::format("{}, {}", text(spare, "name"), io_words(spare)));
  out += line("", "UUID " + text(spare, "uuid"));
  out += link_line(spare);
  out += line("", fmt::format("{} of {} used ({}), {} retired", used,
                              count_of(slots, "slot"), percent_of(used, slots),
                              retired));
  const std::uint64_t in_step = number(spare, "copies_in_step");
  out += line(
      "", fmt::format("map: {} in step, sequence {}, log {} of {}",
                      in_step == 2 ? "both copies" : count_of(in_step, "copy"),
                      number(spare, "sequence"), number(spare, "log_length"),
                      count_of(number(spare, "log_records"), "record")));
  return out;
}

std::string volume_text(const json& v) {
  const json& main = field(v, "main");
  const json& blocks = field(v, "blocks");
  const json& bytes = field(v, "bytes");
  const json& errors = field(v, "errors");
  const json& healed = field(v, "healed");
  std::string out = fmt::format("{}: {}\n{}", text(v, "name"), text(v, "state"),
                                reasons(v, "  "));
  if (v.contains("health")) out += health_text(v["health"]);
  out += line("Size", fmt::format("{}, in blocks of {} bytes{}",
                                  human_bytes(number(v, "size")),
                                  number(v, "block_size"),
                                  flag(v, "read_only") ? ", read-only" : ""));
  if (const auto it = v.find("activity"); it != v.end() && it->is_string())
    out += line("Replace", text(v, "activity"));
  if (flag(v, "quiesced"))
    out += line("Quiesced", "requests wait until it ends");
  out +=
      line("MAIN", fmt::format("{}, {}{}", text(main, "name"), io_words(main),
                               flag(main, "failed") ? ", FAILED" : ""));
  out += line("", text(main, "identity"));
  out += link_line(main);
  out += spare_lines(field(v, "spare"));
  out += line("Blocks",
              fmt::format("{} remapped, {} pending (room for {})",
                          number(blocks, "remapped"), number(blocks, "pending"),
                          number(blocks, "pending_capacity")));
  out += line("Healed",
              fmt::format("{} ({}), {} on a second try",
                          count_of(number(healed, "writes"), "write"),
                          count_of(number(healed, "blocks"), "block"),
                          count_of(number(healed, "retried_reads"), "read")));
  out += line("Requests", counts(v, "requests", "none"));
  out += line("", fmt::format("{} in flight", number(v, "in_flight")));
  out += line("Bytes", "read " + human_bytes(number(bytes, "read")));
  out += line("", "written " + human_bytes(number(bytes, "written")));
  out += line("Errors", "MAIN: " + counts(errors, "main", "none"));
  out += line("", "SPARE: " + counts(errors, "spare", "none"));
  out += line("", "seen by clients: " + counts(errors, "client", "none"));
  if (text(v, "breaker") != "closed")
    out += line("Breaker", text(v, "breaker") +
                               ": MAIN as a whole does not answer; nothing is "
                               "remapped until it does");
  if (flag(v, "flush_in_doubt"))
    out += line("Flush",
                "IN DOUBT: a flush failed; writes since the last good "
                "one may not be durable");
  out += line(
      "Server",
      fmt::format("process {}, up {}, build {}", number(v, "pid"),
                  duration(number(v, "uptime_seconds")), text(v, "build")));
  return out;
}

}  // namespace

Result<json> parse_answer(const std::string& body) {
  const auto refuse = [](const std::string& why) {
    return make_error(
        ErrorClass::caller, EPROTO,
        fmt::format("the server's answer is not understood: {}", why));
  };
  try {
    json answer = json::parse(body, [](int depth, json::parse_event_t, json&) {
      if (depth > kMaxDepth) throw Misfit("nested too deeply");
      return true;
    });
    if (!answer.is_object()) return refuse("no JSON object");
    const auto schema = answer.find("schema");
    if (schema == answer.end() || *schema != 1)
      return refuse("its schema is not 1");
    return answer;
  } catch (const json::exception&) {
    return refuse("no JSON");
  } catch (const Misfit& e) {
    return refuse(e.what());
  }
}

Result<std::string> render_health(const json& health) {
  return render([&] {
    std::string out = text(health, "state") + "\n";
    for (const json& v : list(health, "volumes"))
      out += fmt::format("  {}: {}\n{}{}", text(v, "name"), text(v, "state"),
                         health_lines(v, "    "), reasons(v, "    "));
    return out;
  });
}

Result<std::string> render_volumes(const json& volumes) {
  return render([&] {
    std::vector<std::vector<std::string>> rows{{"NAME", "STATE", "SIZE"}};
    for (const json& v : list(volumes, "volumes"))
      rows.push_back(
          {text(v, "name"), text(v, "state"), human_bytes(number(v, "size"))});
    return table(rows);
  });
}

Result<std::string> render_volume(const json& volume) {
  return render([&] { return volume_text(volume); });
}

Result<std::string> render_map(const json& remaps) {
  return render([&] {
    const std::uint64_t block_size = number(remaps, "block_size");
    std::vector<std::vector<std::string>> rows{
        {"OFFSET", "BLOCK", "STATE", "SLOT", "UNREADABLE SECTORS"}};
    for (const json& e : list(remaps, "entries")) {
      const json& slot = field(e, "slot");
      rows.push_back(
          {fmt::to_string(number(e, "offset")),
           fmt::to_string(number(e, "block")), text(e, "state"),
           slot.is_null() ? "-" : fmt::to_string(number_of(slot, "slot")),
           sectors(e)});
    }
    const json& next = field(remaps, "next");
    std::string more;
    if (!next.is_null()) {
      std::uint64_t offset = 0;
      if (__builtin_mul_overflow(number_of(next, "next"), block_size, &offset))
        throw Misfit("\"next\" is out of range");
      more = fmt::format("There is more; go on with --from={}\n", offset);
    }
    if (rows.size() == 1)
      return "Nothing is remapped or pending here.\n" + more;
    return table(rows) + more;
  });
}

Result<std::string> render_stop(const std::string& name, const json& answer) {
  return render([&] {
    return fmt::format("{}: {}\n", printable(name), text(answer, "state"));
  });
}

Result<std::string> render_grow(const std::string& name,
                                const std::string& disk, const json& answer) {
  return render([&] {
    const std::string size = human_bytes(number(answer, "size"));
    if (disk == "spare")
      return fmt::format("{}: SPARE has {} now, all in use\n", printable(name),
                         size);
    return fmt::format(
        "{}: {} now. A client keeps the size that it was told: detach and "
        "attach it anew, then enlarge the file system.\n",
        printable(name), size);
  });
}

std::string render_quiesce(const std::string& name, std::uint64_t seconds) {
  return fmt::format(
      "{}: all is durable; requests wait until resume, at most {} s\n",
      printable(name), seconds);
}

std::string render_resume(const std::string& name) {
  return fmt::format("{}: requests go on\n", printable(name));
}

bool is_quiet(const json& health) {
  const auto state = health.find("state");
  const auto alert = health.find("alert");
  if (state == health.end()) return false;
  return *state == "healthy" ||
         (*state == "degraded" && alert != health.end() && *alert == false);
}

Error problem_error(const std::string& what, int status,
                    const std::string& body) {
  std::string detail;
  const json problem = json::parse(
      body,
      [](int depth, json::parse_event_t, json&) { return depth <= kMaxDepth; },
      false);
  if (problem.is_object())
    for (const char* key : {"detail", "title"})
      if (const auto it = problem.find(key);
          detail.empty() && it != problem.end() && it->is_string())
        detail = it->get<std::string>();
  if (detail.empty())
    detail = fmt::format("refused with HTTP status {}", status);
  const int errnum = status == 404   ? ENOENT
                     : status == 409 ? EBUSY
                     : status == 400 ? EINVAL
                                     : EIO;
  return make_error(ErrorClass::caller, errnum,
                    fmt::format("{}: {}", what, detail));
}

std::string render_json(const json& answer) {
  return answer.dump(2, ' ', true, json::error_handler_t::replace) + "\n";
}

}  // namespace nbd_remap
