// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/grow_command.hpp"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/remap/remap_grow.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

std::string render(const GrowOptions& options, const Superblock& sb,
                   const std::vector<std::string>& messages) {
  const std::uint64_t capacity = sb.layout.slots * sb.layout.block_bytes;
  if (options.json)
    return json_text({{"schema", 1},
                      {"spare", options.spare},
                      {"uuid", uuid_text(sb.uuid)},
                      {"main_size", sb.main_bytes},
                      {"spare_size", sb.layout.spare_bytes},
                      {"slots", sb.layout.slots},
                      {"capacity", capacity},
                      {"messages", messages}},
                     2) +
           "\n";
  std::string out;
  for (const std::string& line : messages)
    out += fmt::format("{}\n", printable(line));
  out += fmt::format("SPARE  {}, {}\n", printable(options.spare),
                     uuid_text(sb.uuid));
  if (options.main.empty())
    return out + fmt::format(
                     "  holds {} now: {} of {} bytes\n", human_bytes(capacity),
                     count_of(sb.layout.slots, "slot"), sb.layout.block_bytes);
  return out + fmt::format("  is bound to {} of MAIN now, {}\n",
                           human_bytes(sb.main_bytes), printable(options.main));
}

}  // namespace

Result<std::string> run_grow(const GrowOptions& options) {
  auto spare = open_backend(options.spare, {});
  if (!spare) return std::move(spare).error();
  std::vector<std::string> messages;
  const LogSink log = [&](LogLevel level, std::string_view line) {
    if (level != LogLevel::info) messages.emplace_back(line);
  };
  if (options.main.empty()) {
    const auto grown = grow_spare(**spare, log);
    if (!grown) return grown.error();
    return render(options, *grown, messages);
  }
  // Held, so that no server starts meanwhile; nothing of it is written.
  auto main = open_backend(options.main, {});
  if (!main) return std::move(main).error();
  const auto grown = grow_main(**main, **spare, log);
  if (!grown) return grown.error();
  return render(options, *grown, messages);
}

}  // namespace nbd_remap
