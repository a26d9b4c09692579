#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// VolumeServer: one volume from start to stop inside nbdkit (contract L1, L2).
//
// Start  backends, metadata, volume, control socket, then the thread that
//        waits for the end, the scanner after the volume. A step that fails
//        undoes the earlier ones and says which it was. Every step is logged
//        with its time.
// Stop   begins when nbdkit is told to end: close the gate, wait for requests
//        in flight, shut the clients' sockets; then, from nbdkit's cleanup
//        callback: control socket, checkpoint and clean mark, disks. If
//        all that has not ended within kStopBound (a disk that hangs) the
//        process ends at once, unclean, which is an ordinary way to stop.
//
// Threads  start and stop: nbdkit's main thread. Its own: the waiting thread,
//          which starts after nbdkit's fork and is joined in stop().

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "plugins/base/clock.hpp"
#include "plugins/base/log.hpp"
#include "plugins/health/health_keeper.hpp"
#include "plugins/nbdkit/client_sockets.hpp"
#include "plugins/nbdkit/health_endpoint.hpp"
#include "plugins/nbdkit/map_endpoint.hpp"
#include "plugins/nbdkit/owner_check.hpp"
#include "plugins/nbdkit/parameters.hpp"
#include "plugins/nbdkit/replace_endpoint.hpp"
#include "plugins/nbdkit/scan_endpoint.hpp"
#include "plugins/nbdkit/status_endpoint.hpp"
#include "plugins/replace/replacer.hpp"
#include "plugins/replace/spare_replacer.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

// What the server needs of its host.
struct Host {
  LogSink log;
  std::function<void()> shutdown;  // ask the host to end
  // Returns when the host is ending, whoever asked it to.
  std::function<void()> wait_for_end;
};

inline constexpr std::chrono::seconds kStopBound{10};

// Reads what start() will read and refuses what it will refuse, then lets go
// of everything: an error is still seen by whoever started nbdkit, before it
// goes into the background. Starts no thread that outlives the call.
Status rehearse_start(const Parameters& parameters, const LogSink& log);

class VolumeServer {
 public:
  static Result<std::unique_ptr<VolumeServer>> start(
      const Parameters& parameters, Host host);
  ~VolumeServer();  // stops

  Volume& volume() { return *volume_; }
  std::string description() const;

  void stop();

 private:
  explicit VolumeServer(Host host) : host_(std::move(host)) {}
  void wait_and_close();
  [[noreturn]] void give_up(const std::string& why);
  void step(const char* what, std::chrono::steady_clock::time_point began);

  Host host_;
  SystemClock clock_;
  ListeningSockets listening_;
  std::string control_path_;
  // Another server that took the pair over ends this one.
  const std::shared_ptr<OwnerCheck> owner_ =
      std::make_shared<OwnerCheck>(host_.shutdown);
  std::unique_ptr<Replacer> replacer_;  // both outlive the volume
  std::unique_ptr<SpareReplacer> spare_replacer_;
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<HealthKeeper> health_;
  std::unique_ptr<Scanner> scanner_;  // none of a read-only volume
  std::unique_ptr<StatusEndpoint> endpoint_;
  std::unique_ptr<HealthEndpoint> health_endpoint_;
  std::unique_ptr<MapEndpoint> map_endpoint_;
  std::unique_ptr<ReplaceEndpoint> replace_endpoint_;
  std::unique_ptr<ScanEndpoint> scan_endpoint_;
  std::unique_ptr<HttpServer> control_;
  std::atomic<bool> ending_{false};  // stop() has begun
  std::atomic<bool> drained_{false};
  // Set by the waiting thread, read by others once it is joined.
  std::chrono::steady_clock::time_point stop_by_ =
      std::chrono::steady_clock::now() + kStopBound;
  std::thread waiter_;
};

}  // namespace nbd_remap
