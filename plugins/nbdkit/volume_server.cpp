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
#include "plugins/nbdkit/volume_disks.hpp"
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
  const auto binding = binding_of(p, *disks->main, *disks->spare);
  if (!binding) return refused(binding.error(), *disks->spare, *disks->main);
  auto store = RemapStore::open(*disks->spare, *binding, true, log);
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
  std::unique_ptr<Disk> spare;
  std::unique_ptr<RemapStore> store;
  if (disks->spare) {
    spare =
        std::make_unique<Disk>(std::move(disks->spare), disks->spare_counters);
    const auto binding = binding_of(p, *disks->main, *spare);
    if (!binding) return refused(binding.error(), *spare, *disks->main);
    auto opened =
        RemapStore::open(*spare, *binding, disks->read_only, self->host_.log);
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
  const BothNotes notes = notes_in(store ? store->state_area() : nullptr);
  Disk* const spare_disk = spare.get();
  auto main =
      std::make_unique<Disk>(std::move(disks->main), disks->main_counters);
  self->volume_ = std::make_unique<Volume>(
      std::move(main), std::move(spare), std::move(store), disks->read_only,
      disks->missing_spare, p.volume, self->clock_, self->host_.log);

  self->health_ = std::make_unique<HealthKeeper>(
      [s = self.get()] {
        VolumeStatus status = s->volume_->status();
        if (s->spare_replacer_)
          status.activity = replace_words(s->replacer_->status(),
                                          s->spare_replacer_->status());
        return status;
      },
      std::move(past), self->clock_, self->host_.log);
  self->replacer_ = std::make_unique<Replacer>(
      *self->volume_, notes.main,
      new_main_opener(p, self->host_.log, self->owner_), self->clock_,
      self->host_.log);
  SpareReplacer::Options options;
  options.spec = p.spare;
  // MAIN's link may ask SPARE whose the pair is, at any moment.
  options.before_exchange = [owner = self->owner_] { owner->forget_spare(); };
  options.after_exchange = [owner = self->owner_,
                            spare_disk](const Superblock& now) {
    owner->own(*spare_disk, now);
  };
  self->spare_replacer_ = std::make_unique<SpareReplacer>(
      *self->volume_, notes.spare,
      new_spare_opener(p, self->host_.log, self->owner_), self->clock_,
      self->host_.log, std::move(options));
  self->replacer_->resume();
  self->spare_replacer_->resume();
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
        *self->replacer_, *self->spare_replacer_, *self->map_endpoint_,
        name_of(p.main));
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
  self->spare_replacer_->run();
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
  if (waiter_.joinable()) {
    // nbdkit -s ends when its client leaves, and tells nobody.
    host_.shutdown();
    waiter_.join();
  }
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
  if (spare_replacer_) spare_replacer_->stop();
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
  spare_replacer_.reset();
  watchdog.reset();
  step("stop: disks closed", began);
  remove_socket_files(listening_);
}

}  // namespace nbd_remap
