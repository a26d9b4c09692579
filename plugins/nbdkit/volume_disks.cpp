// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/volume_disks.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/replace/replace_notes.hpp"

namespace nbd_remap {

Error in_step(const char* word, Error error) {
  error.place = fmt::format("{}: {}", word, error.place);
  return error;
}

Result<Disks> open_disks(const Parameters& p, const LogSink& log,
                         const std::shared_ptr<OwnerCheck>& owner) {
  Disks disks;
  OpenOptions options;
  options.direct = p.direct;
  options.log = log;
  options.counters = disks.main_counters;
  options.connections = p.main_connections;
  options.deadline = p.main_timeout;
  options.on_reconnect = [owner](Backend&) { return owner->main_is_back(); };
  auto main = open_backend(p.main, options);
  if (!main) return in_step("main", std::move(main).error());
  disks.main = std::move(*main);
  const BackendInfo& info = disks.main->info();
  if (info.read_only)
    return make_error(ErrorClass::caller, EROFS,
                      fmt::format("main={}: read-only; expected a disk that "
                                  "can be written",
                                  p.main));
  if (!info.can_flush)
    return make_error(ErrorClass::caller, ENOTSUP,
                      fmt::format("main={}: offers no FLUSH, so nothing on it "
                                  "would ever be durable",
                                  p.main));
  options.counters = disks.spare_counters;
  options.connections = OpenOptions{}.connections;
  options.deadline = p.spare_timeout;
  options.on_reconnect = [owner](Backend& fresh) {
    return owner->spare_is_back(fresh);
  };
  auto spare = open_backend(p.spare, options);
  Error why;
  if (spare) {
    disks.spare = std::move(*spare);
    if (!disks.spare->info().can_flush)
      why = make_error(ErrorClass::caller, ENOTSUP,
                       fmt::format("spare={}: offers no FLUSH, so nothing on "
                                   "it would ever be durable",
                                   p.spare));
    else if (disks.spare->info().read_only)
      why = make_error(ErrorClass::caller, EROFS,
                       fmt::format("spare={}: read-only", p.spare));
    else
      return disks;
  } else {
    why = in_step("spare", std::move(spare).error());
  }
  // One that another server holds is not missing.
  if (p.missing_spare == MissingSpare::refuse || why.errnum == EBUSY)
    return why;
  disks.read_only = true;
  if (disks.spare) return disks;
  options.read_only = true;
  spare = open_backend(p.spare, options);
  if (spare)
    disks.spare = std::move(*spare);
  else
    disks.missing_spare = error_words(why);
  return disks;
}

Result<Binding> binding_of(const Parameters& p, const Backend& main,
                           Backend& spare) {
  Binding binding;
  binding.main_bytes = main.info().size_bytes;
  binding.main_identity = main.info().identity;
  binding.main_name = main.info().name;
  binding.spare_uuid = p.spare_uuid;
  binding.block_bytes = p.block_bytes;
  const auto took = took_place(spare, [&](const std::string& spec) {
    OpenOptions options;
    options.direct = p.direct;
    options.read_only = true;
    options.deadline = p.spare_timeout;
    return open_backend(spec, options);
  });
  // What is no SPARE at all is for RemapStore to say.
  if (took)
    binding.took_place = *took;
  else if (took.error().error_class == ErrorClass::caller &&
           took.error().errnum == EINVAL)
    return took.error();
  return binding;
}

Status check_blocks(const Backend& main, const Backend& spare,
                    std::uint32_t block_bytes) {
  for (const Backend* disk : {&main, &spare})
    if (disk->info().logical_block_bytes > block_bytes)
      return make_error(
          ErrorClass::caller, EINVAL,
          fmt::format("{}: sectors of {} bytes do not fit blocks of {}",
                      disk->info().name, disk->info().logical_block_bytes,
                      block_bytes));
  return {};
}

void warn_if_cached(const Backend& disk, const char* role, const LogSink& log) {
  if (disk.info().direct || disk.info().remote) return;
  log(LogLevel::warning,
      fmt::format("{}={}: no direct I/O here: a write error is met by a later "
                  "FLUSH, which will fail, instead of being healed",
                  role, disk.info().name));
}

OpenNewDisk new_main_opener(const Parameters& p, const LogSink& log,
                            const std::shared_ptr<OwnerCheck>& owner) {
  return [p, log, owner](const std::string& spec) -> Result<NewDisk> {
    auto counters = std::make_shared<RemoteCounters>();
    OpenOptions options;
    options.direct = p.direct;
    options.log = log;
    options.counters = counters;
    options.connections = p.main_connections;
    options.deadline = p.main_timeout;
    options.on_reconnect = [owner](Backend&) { return owner->main_is_back(); };
    auto disk = open_backend(spec, options);
    if (!disk) return std::move(disk).error();
    warn_if_cached(**disk, "new MAIN", log);
    return NewDisk{std::move(*disk), std::move(counters), nullptr};
  };
}

// Until it is SPARE nobody else can have it: its link has nobody to ask.
OpenNewDisk new_spare_opener(const Parameters& p, const LogSink& log,
                             const std::shared_ptr<OwnerCheck>& owner) {
  return [p, log, owner](const std::string& spec) -> Result<NewDisk> {
    auto counters = std::make_shared<RemoteCounters>();
    const auto is_spare = std::make_shared<std::atomic<bool>>(false);
    OpenOptions options;
    options.direct = p.direct;
    options.log = log;
    options.counters = counters;
    options.deadline = p.spare_timeout;
    options.on_reconnect = [owner, is_spare](Backend& fresh) {
      return *is_spare ? owner->spare_is_back(fresh) : Status();
    };
    auto disk = open_backend(spec, options);
    if (!disk) return std::move(disk).error();
    warn_if_cached(**disk, "new SPARE", log);
    return NewDisk{std::move(*disk), std::move(counters),
                   [is_spare] { *is_spare = true; }};
  };
}

Error refused(Error error, Backend& spare, const Backend& main) {
  if (error.error_class == ErrorClass::caller) {
    std::string words = spare_replaced_by(spare);
    if (words.empty()) words = replaced_by(spare, main.info().identity);
    if (!words.empty()) error.place += "; " + words;
  }
  return in_step("spare", std::move(error));
}

}  // namespace nbd_remap
