// SPDX-License-Identifier: BSD-3-Clause
// nbdkit-baddisk-plugin.so: the C border. Callbacks and lifecycle, no more.
//
// Lifecycle  config words; get_ready opens the file (its errors end nbdkit
//            with a message, before it forks); after_fork starts the control
//            socket, cleanup stops it; unload closes the file.
// Errors     A fault that was asked for is logged with -v only; anything else
//            that fails is an error in nbdkit's log.

#define NBDKIT_API_VERSION 2
#include <dlfcn.h>
#include <fmt/format.h>
#include <nbdkit-plugin.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "plugins/backend/open_backend.hpp"
#include "plugins/baddisk/bad_disk.hpp"
#include "plugins/baddisk/control.hpp"
#include "plugins/baddisk/parameters.hpp"
#include "plugins/base/build_id.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/wire/http_server.hpp"

namespace {

using namespace nbd_remap;

constexpr std::size_t kMaxControlBody = 1 << 20;

struct PluginState {
  BadDiskParameterReader reader;
  BadDiskParameters parameters;
  std::unique_ptr<BadDisk> disk;
  std::unique_ptr<HttpServer> control;
};

// nbdkit's callbacks before .open carry no pointer.
std::unique_ptr<PluginState> state;  // NOLINT

int fail(const Error& error) {
  nbdkit_error("%s", printable(error.text()).c_str());
  nbdkit_set_error(nbd_errno(error));
  return -1;
}

// For the words of the command line, where errno and class say nothing more.
int refuse(const Error& error) {
  nbdkit_error("baddisk: %s", printable(error.place).c_str());
  return -1;
}

int refuse_control(const Error& error) {
  nbdkit_error("baddisk: control=: %s", printable(error.text()).c_str());
  return -1;
}

int finish(const Status& status) {
  if (status) return 0;
  const Error& error = status.error();
  if (is_fault(error)) {
    nbdkit_debug("%s", error.text().c_str());
    nbdkit_set_error(nbd_errno(error));
    return -1;
  }
  return fail(error);
}

// No exception may leave into C.
template <class Body>
int guarded(Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    nbdkit_error("baddisk: out of memory");
    nbdkit_set_error(ENOMEM);
  } catch (const std::exception& e) {
    nbdkit_error("baddisk: %s", e.what());
    nbdkit_set_error(EIO);
  } catch (...) {
    nbdkit_error("baddisk: unknown exception");
    nbdkit_set_error(EIO);
  }
  return -1;
}

void log_to_nbdkit(LogLevel level, std::string_view text) {
  const std::string line(text);
  if (level == LogLevel::error)
    nbdkit_error("%s", line.c_str());
  else
    nbdkit_debug("%s", line.c_str());
}

Durability durability_of(std::uint32_t flags) {
  return flags & NBDKIT_FLAG_FUA ? Durability::fua : Durability::cached;
}

void baddisk_load() {
  if (guarded([] {
        state = std::make_unique<PluginState>();
        return 0;
      }) != 0)
    std::exit(EXIT_FAILURE);  // NOLINT: nbdkit gives no other way
}

void baddisk_unload() { state.reset(); }

int baddisk_config(const char* key, const char* value) {
  return guarded([&] {
    std::string word = value;
    const std::string name = key;
    if (!word.empty() && (name == "file" || name == "control")) {
      char* absolute = nbdkit_absolute_path(value);
      if (!absolute) return -1;
      word = absolute;
      std::free(absolute);
    }
    const auto ok = state->reader.set(name, word);
    return ok ? 0 : refuse(ok.error());
  });
}

int baddisk_config_complete() {
  return guarded([] {
    auto parameters = state->reader.complete();
    if (!parameters) return refuse(parameters.error());
    state->parameters = *parameters;
    return 0;
  });
}

// With the parallel model, a client that leaves with two or more replies
// outstanding makes nbdkit before 1.34 abort. 1.34 brought nbdkit_disconnect.
int baddisk_thread_model() {
  const bool sound = ::dlsym(RTLD_DEFAULT, "nbdkit_disconnect") != nullptr;
  nbdkit_debug("baddisk: thread model %s, as this nbdkit is %s",
               sound ? "parallel" : "serialize_requests",
               sound ? "1.34 or newer" : "older than 1.34");
  return sound ? NBDKIT_THREAD_MODEL_PARALLEL
               : NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS;
}

// Ends early when the server is told to stop or the client has left.
bool sleep_in_nbdkit(std::chrono::milliseconds time) {
  const auto ms = time.count();
  return nbdkit_nanosleep(static_cast<unsigned>(ms / 1000),
                          static_cast<unsigned>(ms % 1000) * 1'000'000) == 0;
}

int open_disk() {
  const BadDiskParameters& p = state->parameters;
  // Now, as a failure of after_fork is not seen by who started a daemon.
  if (!p.control.empty())
    if (auto free = HttpServer::check(p.control); !free)
      return refuse_control(free.error());
  OpenOptions options;
  options.direct = DirectIo::off;
  if (is_nbd_uri(p.file))
    return refuse(make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("file={}: expected the path of a file or block device, for "
                    "example file=disk.img",
                    p.file)));
  auto backend = open_backend(p.file, options);
  if (!backend) {
    nbdkit_error("baddisk: file=%s", printable(backend.error().text()).c_str());
    return -1;
  }
  BadDiskOptions disk_options;
  disk_options.heal_on_write = p.heal_on_write;
  disk_options.errnum = p.errnum;
  disk_options.write_cache_bytes = p.write_cache_bytes;
  disk_options.sleep = sleep_in_nbdkit;
  auto disk = std::make_unique<BadDisk>(std::move(*backend), disk_options);
  const std::uint64_t size = disk->bad().size_sectors();
  if (auto ok = disk->bad().add(p.bad, p.mode, p.transient); !ok)
    return refuse(
        make_error(ErrorClass::caller, EINVAL, "bad=: " + ok.error().place));
  if (p.bad_count || p.bad_percent) {
    const char* const word = p.bad_count ? "bad-count=" : "bad-percent=";
    const auto chosen = choose_sectors(
        p.seed, p.bad_count ? *p.bad_count : percent_of(*p.bad_percent, size),
        size);
    const Status ok = chosen ? disk->bad().add(*chosen, p.mode, p.transient)
                             : Status(chosen.error());
    if (!ok)
      return refuse(make_error(ErrorClass::caller, EINVAL,
                               fmt::format("{}: {}", word, ok.error().place)));
  }
  if (auto ok = disk->slow().set(p.slow, BadMode::both, p.slow_ms.value_or(0));
      !ok)
    return refuse(
        make_error(ErrorClass::caller, EINVAL, "slow=: " + ok.error().place));
  if (auto ok = disk->rot().set(p.rot, p.seed, p.rot_bits); !ok)
    return refuse(
        make_error(ErrorClass::caller, EINVAL, "rot=: " + ok.error().place));
  if (p.die_after) disk->dead().die(*p.die_after, p.die_errnum);
  nbdkit_debug(
      "baddisk %s: %s, %llu sectors of 512 bytes, %llu bad, seed %llu",
      std::string(build_id()).c_str(), p.file.c_str(),
      static_cast<unsigned long long>(size),
      static_cast<unsigned long long>(disk->bad().status(0).bad_sectors),
      static_cast<unsigned long long>(p.seed));
  state->disk = std::move(disk);
  return 0;
}

int baddisk_get_ready() { return guarded(open_disk); }

int baddisk_after_fork() {
  return guarded([] {
    const BadDiskParameters& p = state->parameters;
    if (p.control.empty()) return 0;
    HttpServerOptions options;
    options.max_body_bytes = kMaxControlBody;
    auto server = HttpServer::start(
        p.control,
        [defaults = BadDiskDefaults{p.mode, p.seed, p.heal_on_write,
                                    p.die_errnum}](const HttpRequest& request) {
          return answer_control(*state->disk, defaults, request);
        },
        log_to_nbdkit, options);
    if (!server) return refuse_control(server.error());
    state->control = std::move(*server);
    return 0;
  });
}

void baddisk_cleanup() {
  static_cast<void>(guarded([] {
    state->control.reset();
    // An orderly end, as when a drive is told to spin down.
    if (state->disk && state->disk->cache() != nullptr)
      if (auto ok = state->disk->cache()->shut_down(); !ok)
        return fail(ok.error());
    return 0;
  }));
}

void baddisk_dump_plugin() {
  std::printf("baddisk_version=%s\n", std::string(build_id()).c_str());
}

void* baddisk_open(int) { return NBDKIT_HANDLE_NOT_NEEDED; }

int64_t baddisk_get_size(void*) {
  return static_cast<int64_t>(state->disk->info().size_bytes);
}

int baddisk_block_size(void*, uint32_t* minimum, uint32_t* preferred,
                       uint32_t* maximum) {
  *minimum = 1;
  *preferred = kMinBlockBytes;
  *maximum = kMaxRequestBytes;
  return 0;
}

int baddisk_can_write(void*) { return !state->disk->info().read_only; }
int yes(void*) { return 1; }
int baddisk_can_fua(void*) { return NBDKIT_FUA_NATIVE; }
int baddisk_can_fast_zero(void*) { return state->disk->info().fast_zero; }

int baddisk_pread(void*, void* buffer, uint32_t count, uint64_t offset,
                  uint32_t) {
  return guarded([&] {
    return finish(state->disk->read(
        offset, Bytes(static_cast<std::byte*>(buffer), count)));
  });
}

int baddisk_pwrite(void*, const void* buffer, uint32_t count, uint64_t offset,
                   uint32_t flags) {
  return guarded([&] {
    return finish(state->disk->write(
        offset, ConstBytes(static_cast<const std::byte*>(buffer), count),
        durability_of(flags)));
  });
}

int baddisk_zero(void*, uint32_t count, uint64_t offset, uint32_t flags) {
  return guarded([&] {
    const ZeroMode mode = flags & NBDKIT_FLAG_FAST_ZERO ? ZeroMode::fast_only
                          : flags & NBDKIT_FLAG_MAY_TRIM
                              ? ZeroMode::may_punch
                              : ZeroMode::keep_allocated;
    const auto done =
        state->disk->zero(offset, count, mode, durability_of(flags));
    if (!done && done.error().errnum == ENOTSUP) {
      nbdkit_set_error(ENOTSUP);  // an answer, not a failure
      return -1;
    }
    return finish(done);
  });
}

int baddisk_trim(void*, uint32_t count, uint64_t offset, uint32_t flags) {
  return guarded([&] {
    auto done = state->disk->trim(offset, count);
    if (done && flags & NBDKIT_FLAG_FUA) done = state->disk->flush();
    return finish(done);
  });
}

int baddisk_flush(void*, uint32_t) {
  return guarded([] { return finish(state->disk->flush()); });
}

const char* version_text() {
  static const std::string text(build_id());
  return text.c_str();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) nbdkit_plugin* plugin_init() {
  static nbdkit_plugin plugin{};
  plugin._struct_size = sizeof plugin;
  plugin._api_version = NBDKIT_API_VERSION;
  plugin._thread_model = NBDKIT_THREAD_MODEL_PARALLEL;
  plugin.name = "baddisk";
  plugin.longname = "a disk that goes bad on demand";
  plugin.version = version_text();
  plugin.description = "a file or block device whose sectors fail as told";
  plugin.config_help =
      "file=<PATH>  (required) the file or block device behind the disk\n"
      "bad=<LIST>              bad sectors of 512 bytes: "
      "7,100-199,300+8:write\n"
      "bad-count=<N> | bad-percent=<P>  so many bad sectors, chosen by seed\n"
      "mode=read|write|both    what they fail (default: both)\n"
      "transient=<N>           each fails N times, then works (default: 0, "
      "always)\n"
      "heal-on-write=yes|no    a written sector can be read again (default: "
      "no)\n"
      "seed=<N>                for bad-count and bad-percent (default: 1)\n"
      "errno=<NAME>            what the client is told (default: EIO)\n"
      "slow=<LIST> slow-ms=<N> sectors that take so many milliseconds\n"
      "rot=<LIST> rot-bits=<N> sectors read with N bits turned (default: 1)\n"
      "die-after=<N>           after N requests all fail\n"
      "die-errno=<NAME>        what they are told then (default: EIO)\n"
      "write-cache=<SIZE>      hold unflushed writes, for power cuts (default: "
      "none)\n"
      "control=<SOCKET>        HTTP on this Unix socket, to change all that";
  plugin.magic_config_key = "file";
  plugin.errno_is_preserved = 0;
  plugin.load = baddisk_load;
  plugin.unload = baddisk_unload;
  plugin.config = baddisk_config;
  plugin.config_complete = baddisk_config_complete;
  plugin.thread_model = baddisk_thread_model;
  plugin.get_ready = baddisk_get_ready;
  plugin.after_fork = baddisk_after_fork;
  plugin.cleanup = baddisk_cleanup;
  plugin.dump_plugin = baddisk_dump_plugin;
  plugin.open = baddisk_open;
  plugin.get_size = baddisk_get_size;
  plugin.block_size = baddisk_block_size;
  plugin.can_write = baddisk_can_write;
  plugin.can_flush = yes;
  plugin.can_trim = yes;
  plugin.can_zero = yes;
  plugin.can_fast_zero = baddisk_can_fast_zero;
  plugin.can_fua = baddisk_can_fua;
  plugin.can_multi_conn = yes;
  plugin.pread = baddisk_pread;
  plugin.pwrite = baddisk_pwrite;
  plugin.zero = baddisk_zero;
  plugin.trim = baddisk_trim;
  plugin.flush = baddisk_flush;
  return &plugin;
}
