// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/volume_server.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <optional>
#include <utility>

#include "plugins/backend/clipped_backend.hpp"
#include "plugins/base/build_id.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/nbdkit/client_sockets.hpp"
#include "plugins/nbdkit/stop_watchdog.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/replace/replace_notes.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;

// Of a step of the stop, however long those before it took.
constexpr std::chrono::seconds kLeastStopTime{1};

double ms_since(steady_clock::time_point began) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - began)
      .count();
}

Error in_step(const char* word, Error error) {
  error.place = fmt::format("{}: {}", word, error.place);
  return error;
}

struct Disks {
  std::unique_ptr<Backend> main;
  std::unique_ptr<Backend> spare;
  std::shared_ptr<RemoteCounters> main_counters =
      std::make_shared<RemoteCounters>();
  std::shared_ptr<RemoteCounters> spare_counters =
      std::make_shared<RemoteCounters>();
  bool read_only = false;
  std::string missing_spare;
};

// missing-spare=readonly: a SPARE that cannot be opened for writing is opened
// for reading, and if that fails too there is none.
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

Binding binding_of(const Parameters& p, const Backend& main) {
  Binding binding;
  binding.main_bytes = main.info().size_bytes;
  binding.main_identity = main.info().identity;
  binding.main_name = main.info().name;
  binding.spare_uuid = p.spare_uuid;
  binding.block_bytes = p.block_bytes;
  return binding;
}

// A disk that was formatted with smaller blocks than it now says it has.
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

// Where the store's SPARE has room for it. Reads and writes while the store is.
HealthStore health_store(RemapStore& store) {
  HealthStore out;
  StateArea* area = store.state_area();
  if (area == nullptr) return out;
  out.max_bytes = max_state_bytes(StateKind::health);
  out.read = [area] { return area->read(StateKind::health); };
  out.write = [area](ConstBytes bytes) {
    return area->write(StateKind::health, bytes);
  };
  return out;
}

std::string name_of(const std::string& disk) {
  std::string path = disk;
  if (is_nbd_uri(disk)) path = disk.substr(0, disk.find('?'));
  while (!path.empty() && path.back() == '/') path.pop_back();
  const std::string name = path.substr(path.find_last_of('/') + 1);
  return name.empty() || name.back() == ':' ? "volume" : name;
}

// What a replacement of MAIN opens, as main= is opened.
OpenNewDisk new_disk_opener(const Parameters& p, const LogSink& log,
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
    return NewDisk{std::move(*disk), std::move(counters)};
  };
}

// A MAIN that was replaced is refused by SPARE; the words say by what.
Error refused(Error error, Backend& spare, const Backend& main) {
  if (error.error_class == ErrorClass::caller) {
    const std::string words = replaced_by(spare, main.info().identity);
    if (!words.empty()) error.place += "; " + words;
  }
  return in_step("spare", std::move(error));
}

}  // namespace

Status rehearse_start(const Parameters& p, const LogSink& log) {
  if (!p.control.empty())
    if (Status free = HttpServer::check(p.control); !free)
      return in_step("control", std::move(free).error());
  auto disks = open_disks(p, log, std::make_shared<OwnerCheck>([] {}));
  if (!disks) return std::move(disks).error();
  warn_if_cached(*disks->main, "main", log);
  if (!disks->spare) return {};
  warn_if_cached(*disks->spare, "spare", log);
  auto store =
      RemapStore::open(*disks->spare, binding_of(p, *disks->main), true, log);
  if (!store)
    return refused(std::move(store).error(), *disks->spare, *disks->main);
  return check_blocks(*disks->main, *disks->spare,
                      (*store)->layout().block_bytes);
}

// Also on the way out of a start that found no memory: then without a word.
void VolumeServer::step(const char* what, steady_clock::time_point began) {
  try {
    host_.log(LogLevel::info,
              fmt::format("{} in {:.1f} ms", what, ms_since(began)));
  } catch (const std::bad_alloc&) {
  }
}

Result<std::unique_ptr<VolumeServer>> VolumeServer::start(const Parameters& p,
                                                          Host host) {
  std::unique_ptr<VolumeServer> self(new VolumeServer(std::move(host)));
  self->host_.log(LogLevel::info,
                  fmt::format("start: nbd-remap {}", build_id()));
  self->listening_ = listening_sockets();
  auto began = steady_clock::now();
  auto disks = open_disks(p, self->host_.log, self->owner_);
  if (!disks) return std::move(disks).error();
  self->step("start: disks opened", began);

  began = steady_clock::now();
  const Binding binding = binding_of(p, *disks->main);
  std::unique_ptr<Disk> spare;
  std::unique_ptr<RemapStore> store;
  if (disks->spare) {
    spare =
        std::make_unique<Disk>(std::move(disks->spare), disks->spare_counters);
    auto opened =
        RemapStore::open(*spare, binding, disks->read_only, self->host_.log);
    if (!opened)
      return refused(std::move(opened).error(), *spare, *disks->main);
    store = std::move(*opened);
    self->owner_->own(*spare, store->status().superblock);
    Status fits =
        check_blocks(*disks->main, *spare, store->layout().block_bytes);
    if (!fits) return std::move(fits).error();
    const StoreStatus status = store->status();
    // A disk that took MAIN's place may be larger than the volume.
    disks->main = clip(std::move(disks->main), status.superblock.main_bytes);
    self->step(fmt::format("start: map of {} remapped and {} pending blocks "
                           "loaded",
                           status.remapped, status.pending)
                   .c_str(),
               began);
  } else {
    self->host_.log(
        LogLevel::error,
        "SPARE is missing, every read will fail: " + disks->missing_spare);
  }
  HealthStore past =
      store && !disks->read_only ? health_store(*store) : HealthStore();
  StateArea* const notes = store ? store->state_area() : nullptr;
  auto main =
      std::make_unique<Disk>(std::move(disks->main), disks->main_counters);
  self->volume_ = std::make_unique<Volume>(
      std::move(main), std::move(spare), std::move(store), disks->read_only,
      disks->missing_spare, p.volume, self->clock_, self->host_.log);

  self->health_ = std::make_unique<HealthKeeper>(
      [volume = self->volume_.get()] { return volume->status(); },
      std::move(past), self->clock_, self->host_.log);
  self->replacer_ = std::make_unique<Replacer>(
      *self->volume_, notes_in(notes),
      new_disk_opener(p, self->host_.log, self->owner_), self->clock_,
      self->host_.log);
  self->replacer_->resume();
  if (!self->volume_->read_only())
    self->scanner_ = std::make_unique<Scanner>(
        scan_volume_of(*self->volume_), self->volume_->state_area(),
        self->clock_, p.scan, self->host_.log);

  if (!p.control.empty()) {
    began = steady_clock::now();
    self->endpoint_ = std::make_unique<StatusEndpoint>(
        *self->volume_, *self->health_, name_of(p.main), self->clock_,
        self->host_.shutdown);
    self->health_endpoint_ =
        std::make_unique<HealthEndpoint>(*self->health_, name_of(p.main));
    self->map_endpoint_ = std::make_unique<MapEndpoint>(
        *self->volume_, name_of(p.main), self->clock_);
    self->replace_endpoint_ = std::make_unique<ReplaceEndpoint>(
        *self->replacer_, *self->map_endpoint_, name_of(p.main));
    self->scan_endpoint_ = std::make_unique<ScanEndpoint>(
        *self->volume_, self->scanner_.get(), name_of(p.main), self->clock_);
    auto control = HttpServer::start(
        p.control,
        [endpoint = self->endpoint_.get(), map = self->map_endpoint_.get(),
         health = self->health_endpoint_.get(),
         replace = self->replace_endpoint_.get(),
         scan = self->scan_endpoint_.get()](const HttpRequest& request) {
          auto answer = map->answer(request);
          if (!answer) answer = health->answer(request);
          if (!answer) answer = replace->answer(request);
          if (!answer) answer = scan->answer(request);
          return answer ? std::move(*answer) : endpoint->answer(request);
        },
        self->host_.log);
    if (!control) return in_step("control", std::move(control).error());
    self->control_ = std::move(*control);
    self->control_path_ = p.control;
    self->step("start: control socket opened", began);
  }
  self->health_->start();
  self->replacer_->run();
  self->waiter_ = std::thread([s = self.get()] { s->wait_and_close(); });
  return self;
}

VolumeServer::~VolumeServer() { stop(); }

std::string VolumeServer::description() const {
  const VolumeStatus s = volume_->status();
  return fmt::format("nbd-remap volume: {} with spare {}", s.main.info.name,
                     s.spare.info.name.empty() ? "missing" : s.spare.info.name);
}

// What a hanging disk or host leaves to do: an unclean end, as kill -9 is.
void VolumeServer::give_up(const std::string& why) {
  host_.log(LogLevel::error,
            fmt::format("stop: {} after {} s; ending without a clean mark", why,
                        kStopBound.count()));
  remove_socket_files(listening_);
  if (control_) ::unlink(control_path_.c_str());
  ::_exit(EXIT_FAILURE);
}

// Clients may still connect while nbdkit closes its listening socket, so their
// sockets are shut again until stop() says that nbdkit has let them go.
void VolumeServer::wait_and_close() {
  host_.wait_for_end();
  auto began = steady_clock::now();
  stop_by_ = began + kStopBound;
  volume_->close_gate();
  if (!volume_->drain(kStopBound))
    give_up(fmt::format("{} requests are still in flight, a disk hangs",
                        volume_->status().in_flight));
  drained_ = true;
  step("stop: requests ended", began);
  began = steady_clock::now();
  const auto until = std::max(stop_by_, began + kLeastStopTime);
  int shut = 0;
  while (!ending_) {
    shut += shutdown_client_sockets(listening_);
    if (steady_clock::now() > until) give_up("nbdkit still holds clients");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  step(fmt::format("stop: {} client sockets shut", shut).c_str(), began);
}

void VolumeServer::stop() {
  ending_ = true;
  if (waiter_.joinable()) waiter_.join();
  if (control_) {
    const auto began = steady_clock::now();
    control_->stop();
    step("stop: control socket closed", began);
  }
  if (!volume_) {
    remove_socket_files(listening_);
    return;
  }
  // A SPARE that hangs would hold the checkpoint for as long as its deadline
  // allows, and a local one for ever.
  std::optional<StopWatchdog> watchdog(
      std::in_place, std::max(stop_by_, steady_clock::now() + kLeastStopTime),
      [this] { give_up("a disk hangs"); });
  auto began = steady_clock::now();
  if (health_) health_->stop();
  if (scanner_) {
    scanner_->stop();
    step("stop: scanner ended", began);
    began = steady_clock::now();
  }
  if (drained_) {
    replacer_->stop();
    if (Status status = volume_->close(); status)
      step("stop: checkpoint written, marked clean", began);
    else
      host_.log(LogLevel::error,
                "stop: not marked clean: " + status.error().text());
  }
  began = steady_clock::now();
  owner_->forget_spare();
  control_.reset();
  replace_endpoint_.reset();
  map_endpoint_.reset();  // its worker has ended, as its requests have
  health_endpoint_.reset();
  scan_endpoint_.reset();
  scanner_.reset();
  endpoint_.reset();
  health_.reset();
  volume_.reset();
  replacer_.reset();
  watchdog.reset();
  step("stop: disks closed", began);
  remove_socket_files(listening_);
}

}  // namespace nbd_remap
