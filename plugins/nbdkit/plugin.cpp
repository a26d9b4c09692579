// SPDX-License-Identifier: BSD-3-Clause
// nbdkit-remap-plugin: the callback table. Each callback is a few lines; the
// way of a request goes on in plugins/volume/volume.hpp.
//
// nbdkit's callbacks before .open carry no pointer, so the state of the one
// volume is the one file-scope variable here.

#include <dlfcn.h>
#include <malloc.h>

#include <memory>
#include <string>

#include "plugins/base/build_id.hpp"
#include "plugins/nbdkit/guard.hpp"
#include "plugins/nbdkit/parameters.hpp"
#include "plugins/nbdkit/volume_server.hpp"

namespace nbd_remap {
namespace {

struct PluginState {
  ParameterParser parser;
  Parameters parameters;
  std::unique_ptr<VolumeServer> server;
};
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
std::unique_ptr<PluginState> state;

Volume& volume() { return state->server->volume(); }

void log_to_nbdkit(LogLevel level, std::string_view text) {
  const std::string line(text);
  if (level == LogLevel::info)
    nbdkit_debug("%s", line.c_str());
  else
    nbdkit_error("%s%s", level == LogLevel::warning ? "warning: " : "",
                 line.c_str());
}

Durability durability_of(uint32_t flags) {
  return flags & NBDKIT_FLAG_FUA ? Durability::fua : Durability::cached;
}

// One arena: leaves of the remap table are made by one thread and freed by
// another, and with an arena for each thread a million mappings that came by
// and by took 43 bytes each instead of 27.
void remap_load() {
  // No thread of ours runs yet. NOLINTNEXTLINE(concurrency-mt-unsafe)
  mallopt(M_ARENA_MAX, 1);
  state = std::make_unique<PluginState>();
}
void remap_unload() { state.reset(); }

int remap_config(const char* key, const char* value) {
  return guard([&] { return state->parser.add(key, value); });
}

int remap_config_complete() {
  return guard([&]() -> Status {
    auto parameters = state->parser.finish();
    if (!parameters) return std::move(parameters).error();
    state->parameters = std::move(*parameters);
    return {};
  });
}

void remap_dump_plugin() {
  printf("remap_build=%s\n", std::string(build_id()).c_str());
}

// Before nbdkit 1.34 a client that leaves while two replies of its connection
// are outstanding aborts the server; that release exports nbdkit_disconnect.
// With one request at a time per connection it cannot happen, and parallelism
// comes from connections (multi-conn).
int remap_thread_model() {
  const bool fixed = dlsym(RTLD_DEFAULT, "nbdkit_disconnect") != nullptr;
  log_to_nbdkit(LogLevel::info,
                fixed ? "thread model: parallel"
                      : "thread model: one request at a time per connection, "
                        "as nbdkit before 1.34 aborts when a client leaves "
                        "with several under way");
  return fixed ? NBDKIT_THREAD_MODEL_PARALLEL
               : NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS;
}

int remap_get_ready() {
  return guard(
      [&] { return rehearse_start(state->parameters, log_to_nbdkit); });
}

int remap_after_fork() {
  return guard([&]() -> Status {
    Host host;
    host.log = log_to_nbdkit;
    host.shutdown = [] { nbdkit_shutdown(); };
    host.wait_for_end = [] {
      while (nbdkit_nanosleep(3600, 0) == 0) {
      }
    };
    auto server = VolumeServer::start(state->parameters, std::move(host));
    if (!server) return std::move(server).error();
    state->server = std::move(*server);
    return {};
  });
}

void remap_cleanup() {
  guard([&]() -> Status {
    if (state->server) state->server->stop();
    return {};
  });
}

void* remap_open(int) { return NBDKIT_HANDLE_NOT_NEEDED; }

int64_t remap_get_size(void*) { return static_cast<int64_t>(volume().size()); }

int remap_block_size(void*, uint32_t* minimum, uint32_t* preferred,
                     uint32_t* maximum) {
  *minimum = 1;
  *preferred = volume().block_bytes();
  *maximum = 32U << 20;
  return 0;
}

const char* remap_export_description(void*) {
  const char* text = nullptr;
  guard([&]() -> Status {
    text = nbdkit_strdup_intern(state->server->description().c_str());
    return {};
  });
  return text;
}

int remap_can_write(void*) { return volume().read_only() ? 0 : 1; }
int remap_can_fast_zero(void*) { return volume().can_fast_zero() ? 1 : 0; }
int remap_yes(void*) { return 1; }
int remap_can_fua(void*) { return NBDKIT_FUA_NATIVE; }
int remap_can_cache(void*) { return NBDKIT_CACHE_NATIVE; }

int remap_pread(void*, void* buf, uint32_t count, uint64_t offset, uint32_t) {
  return guard([&] {
    return volume().read(VolumeOffset{offset},
                         {static_cast<std::byte*>(buf), count});
  });
}

int remap_pwrite(void*, const void* buf, uint32_t count, uint64_t offset,
                 uint32_t flags) {
  return guard([&] {
    return volume().write(VolumeOffset{offset},
                          {static_cast<const std::byte*>(buf), count},
                          durability_of(flags));
  });
}

int remap_flush(void*, uint32_t) {
  return guard([&] { return volume().flush(); });
}

int remap_trim(void*, uint32_t count, uint64_t offset, uint32_t flags) {
  return guard([&] {
    return volume().trim(VolumeOffset{offset}, count, durability_of(flags));
  });
}

// ENOTSUP to a fast zero is an answer; it is not worth a line in the log.
int remap_zero(void*, uint32_t count, uint64_t offset, uint32_t flags) {
  ZeroMode mode = ZeroMode::keep_allocated;
  if (flags & NBDKIT_FLAG_MAY_TRIM) mode = ZeroMode::may_punch;
  if (flags & NBDKIT_FLAG_FAST_ZERO) mode = ZeroMode::fast_only;
  bool not_fast = false;
  const int result = guard([&] {
    Status status =
        volume().zero(VolumeOffset{offset}, count, mode, durability_of(flags));
    not_fast = mode == ZeroMode::fast_only && !status &&
               status.error().errnum == ENOTSUP;
    return not_fast ? Status() : status;
  });
  if (!not_fast) return result;
  nbdkit_set_error(ENOTSUP);
  return -1;
}

int remap_cache(void*, uint32_t count, uint64_t offset, uint32_t) {
  return guard([&] { return volume().cache(VolumeOffset{offset}, count); });
}

// One extent at a time: nbdkit 1.32.5 aborts if a client leaves while a reply
// of several is being sent.
int remap_extents(void*, uint32_t count, uint64_t offset, uint32_t,
                  nbdkit_extents* out) {
  return guard([&]() -> Status {
    const auto extent = volume().extent(VolumeOffset{offset}, count);
    if (!extent) return extent.error();
    const uint32_t type = (extent->hole ? NBDKIT_EXTENT_HOLE : 0U) |
                          (extent->zeroes ? NBDKIT_EXTENT_ZERO : 0U);
    if (nbdkit_add_extent(out, offset, extent->length, type) == -1)
      return make_error(ErrorClass::bug, EIO, "extents");
    return {};
  });
}

nbdkit_plugin make_plugin() {
  nbdkit_plugin p{};
  p._struct_size = sizeof p;
  p._api_version = NBDKIT_API_VERSION;
  p._thread_model = NBDKIT_THREAD_MODEL_PARALLEL;
  p.name = "remap";
  p.longname = "nbd-remap: a healing layer over a disk that goes bad";
  static const std::string version(build_id());
  p.version = version.c_str();
  p.description =
      "Serves MAIN; what MAIN can no longer hold is put on SPARE, durably.";
  p.magic_config_key = "main";
  p.config_help = parameter_help();
  p.errno_is_preserved = 0;
  p.load = remap_load;
  p.unload = remap_unload;
  p.dump_plugin = remap_dump_plugin;
  p.config = remap_config;
  p.config_complete = remap_config_complete;
  p.thread_model = remap_thread_model;
  p.get_ready = remap_get_ready;
  p.after_fork = remap_after_fork;
  p.cleanup = remap_cleanup;
  p.open = remap_open;
  p.get_size = remap_get_size;
  p.block_size = remap_block_size;
  p.export_description = remap_export_description;
  p.can_write = remap_can_write;
  p.can_flush = remap_yes;
  p.can_trim = remap_yes;
  p.can_zero = remap_yes;
  p.can_fast_zero = remap_can_fast_zero;
  p.can_extents = remap_yes;
  p.can_fua = remap_can_fua;
  p.can_multi_conn = remap_yes;
  p.can_cache = remap_can_cache;
  p.pread = remap_pread;
  p.pwrite = remap_pwrite;
  p.flush = remap_flush;
  p.trim = remap_trim;
  p.zero = remap_zero;
  p.cache = remap_cache;
  p.extents = remap_extents;
  return p;
}

}  // namespace
}  // namespace nbd_remap

extern "C" __attribute__((visibility("default"))) nbdkit_plugin* plugin_init();
extern "C" nbdkit_plugin* plugin_init() {
  static nbdkit_plugin plugin = nbd_remap::make_plugin();
  return &plugin;
}
