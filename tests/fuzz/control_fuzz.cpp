// SPDX-License-Identifier: BSD-3-Clause
// What the requests of a control socket say, past HTTP: the endpoints of a
// volume and those of a bad disk. The first byte says which, then a few
// requests, each "METHOD target", a line feed, the body, and a zero byte. An
// answer is JSON, a refusal is a problem detail and has changed nothing.
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "plugins/baddisk/control.hpp"
#include "plugins/nbdkit/health_endpoint.hpp"
#include "plugins/nbdkit/map_endpoint.hpp"
#include "plugins/nbdkit/status_endpoint.hpp"
#include "plugins/wire/target.hpp"
#include "tests/fakes/volume_fixture.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::size_t kMostRequests = 6;

// Empty: HTTP itself would have refused it.
std::optional<HttpRequest> next_request(FuzzInput& in) {
  FuzzInput one(std::as_bytes(std::span(in.text_until('\0'))));
  const std::string_view line = one.text_until('\n');
  const std::size_t blank = line.find(' ');
  if (blank == std::string_view::npos) return std::nullopt;
  auto target = parse_target(line.substr(blank + 1));
  if (!target) return std::nullopt;
  return HttpRequest{std::string(line.substr(0, blank)),
                     std::move(target->path), std::move(target->query),
                     std::string(one.rest_text())};
}

// True: it was refused.
bool check(const HttpResponse& response) {
  const json body = json::parse(response.body, nullptr, false);
  require(body.is_object(), "an answer is a JSON object");
  if (response.status == 200 || response.status == 202) return false;
  require(response.status == 400 || response.status == 404 ||
              response.status == 405 || response.status == 409,
          "a refusal is the request's fault");
  require(response.content_type == "application/problem+json" &&
              body["status"] == response.status && body["detail"].is_string(),
          "a refusal says why");
  return true;
}

// A little volume with a remapped and a pending block.
class VolumeWorld {
 public:
  VolumeWorld() {
    rig_.spoil({FaultOp::write}, 2);
    rig_.write(rig_.at(2), 4096, 1);
    rig_.spoil({FaultOp::read}, 5);
    rig_.read(rig_.at(5), 4096);
    require(entries().size() == 2, "the faults fired");
  }
  std::vector<RemapEntry> entries() const { return rig_.entries(); }
  bool quiesced() const { return rig_.volume->status().quiesced; }
  HttpResponse answer(const HttpRequest& request) {
    auto answer = map_.answer(request);
    if (!answer) answer = judged_.answer(request);
    return answer ? std::move(*answer) : status_.answer(request);
  }
  // A job that takes its time would change the map under the next request; one
  // that waits for the end of a quiesce has nobody else to end it.
  void wait_for_job(const std::string& body) {
    const json answer = json::parse(body);
    if (!answer.contains("job")) return;
    if (quiesced())
      require(
          this->answer({"POST", "/v1/volumes/disk/resume", {}, ""}).status ==
              200,
          "a quiesce ends when it is told to");
    const auto path = "/v1/volumes/disk/jobs/" + answer["job"]["id"].dump();
    for (int i = 0; i < 1000; ++i)
      if (this->answer({"GET", path, {}, ""}).status != 202) return;
    require(false, "a job ends");
  }

 private:
  static RigOptions small() {
    RigOptions options;
    options.main_bytes = 64 << 10;
    options.spare_slots = 12;
    return options;
  }
  Rig rig_{small()};
  HealthKeeper health_{[this] { return rig_.volume->status(); },
                       {},
                       rig_.clock,
                       [](LogLevel, std::string_view) {}};
  HealthEndpoint judged_{health_, "disk"};
  StatusEndpoint status_{*rig_.volume, health_, "disk", rig_.clock, [] {}};
  MapEndpoint map_{*rig_.volume, "disk", rig_.clock};
};

void try_volume(FuzzInput& in) {
  // A new one is costly, and only needed when something was done to the last.
  static std::unique_ptr<VolumeWorld> world;
  bool used = false;
  for (std::size_t n = 0; n < kMostRequests && !in.empty(); ++n) {
    const auto request = next_request(in);
    if (!request) continue;
    if (!world) world = std::make_unique<VolumeWorld>();
    const auto entries = world->entries();
    const bool quiesced = world->quiesced();
    const HttpResponse response = world->answer(*request);
    const bool refused = check(response);
    if (response.status == 202) world->wait_for_job(response.body);
    if (refused || request->method == "GET")
      require(world->entries() == entries && world->quiesced() == quiesced,
              "a refusal and a question change nothing");
    else
      used = true;
  }
  if (used) world.reset();
}

class NamedDisk final {
 public:
  NamedDisk()
      : disk_(std::make_unique<MemoryBackend>(
                  fake_disk_info("disk", 1 << 20, 512, 4096)),
              options()) {}
  BadDisk& disk() { return disk_; }
  HttpResponse answer(const HttpRequest& request) {
    return answer_control(disk_, {}, request);
  }
  std::string seen() { return answer({"GET", "/v1/baddisk", {}, ""}).body; }

 private:
  static BadDiskOptions options() {
    BadDiskOptions o;
    o.write_cache_bytes = 64 << 10;
    return o;
  }
  BadDisk disk_;
};

void try_baddisk(FuzzInput& in) {
  NamedDisk disk;
  const std::vector<std::byte> some(4096);
  static_cast<void>(disk.disk().write(8192, some, Durability::cached));
  std::optional<std::string> before;  // costs more than the request itself
  for (std::size_t n = 0; n < kMostRequests && !in.empty(); ++n) {
    const auto request = next_request(in);
    if (!request) continue;
    if (!before) before = disk.seen();
    if (check(disk.answer(*request)))
      require(disk.seen() == *before, "a refusal changes nothing");
    else
      before.reset();
  }
}

}  // namespace

void fuzz_control(ConstBytes input) {
  FuzzInput in(input);
  if (in.below(2, 1) == 0)
    try_volume(in);
  else
    try_baddisk(in);
}

}  // namespace nbd_remap
