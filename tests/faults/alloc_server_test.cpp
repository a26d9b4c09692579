// SPDX-License-Identifier: BSD-3-Clause
// Contract L1: each allocation of a whole start inside nbdkit fails in turn:
// disks, map, volume, health, replacement, scanner, control socket, threads.
// The start fails with ENOMEM (or does without), ends every thread and leaves
// no descriptor and no socket; the next one finds all and answers.
//
// Once, and without notes of health or a scan on SPARE: the undoing allocates
// too (threads are told to end; nlohmann's json destroys itself with a list),
// and when that finds no memory either, the start ends as kill -9 does.
//
//   NBD_REMAP_LONG=1       all allocations; else one in so many
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "plugins/backend/open_backend.hpp"
#include "plugins/nbdkit/volume_server.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/spare_format.hpp"
#include "plugins/wire/http_client.hpp"
#include "tests/fakes/scratch.hpp"
#include "tests/faults/alloc_fault.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;

std::size_t entries_of(const char* folder) {
  std::size_t n = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    n += entry.path().empty() ? 0 : 1;
  return n;
}

// A thread that was joined is seen for a moment longer.
bool becomes(std::size_t threads) {
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (entries_of("/proc/self/task") != threads) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

class Server {
 public:
  explicit Server(std::uint64_t spare_bytes) {
    parameters_.main = dir_.make_file("main", 8 << 20);
    parameters_.spare = dir_.make_file("spare", spare_bytes);
    parameters_.control = dir_.file("control");
  }

  bool format() {
    auto main = open_backend(parameters_.main, {});
    auto spare = open_backend(parameters_.spare, {});
    if (!main || !spare) return false;
    FormatRequest request;
    request.block_bytes = 4096;
    if (auto old = survey_metadata(**spare))
      request.replace = old->superblock.uuid;
    return format_spare(**spare, **main, request).ok();
  }

  // The thread that calls it is the one whose allocations fail.
  Status start() {
    end_ = std::promise<void>();
    Host host;
    host.log = [](LogLevel, std::string_view) {};
    host.shutdown = [] {};
    host.wait_for_end = [end = end_.get_future().share()] { end.wait(); };
    AllocFault::arm_this_thread();
    Status status;
    try {
      auto server = VolumeServer::start(parameters_, std::move(host));
      if (server)
        server_ = std::move(*server);
      else
        status = std::move(server).error();
    } catch (const std::bad_alloc&) {
      status = make_error(ENOMEM, "out of memory");
    }
    AllocFault::pause();
    return status;
  }

  void stop() {
    if (!server_) return;
    end_.set_value();
    server_.reset();
  }

  bool running() const { return server_ != nullptr; }
  bool socket_exists() const { return fs::exists(parameters_.control); }
  std::string ask() const {
    auto answer = http_request(parameters_.control, "GET", "/v1/volumes");
    return answer ? answer->body : answer.error().text();
  }

 private:
  const ScratchDir dir_;
  Parameters parameters_;
  std::promise<void> end_;
  std::unique_ptr<VolumeServer> server_;
};

void fail_each_allocation(std::uint64_t spare_bytes) {
  const bool all = std::getenv("NBD_REMAP_LONG") != nullptr;
  Server server(spare_bytes);
  ASSERT_TRUE(server.format());
  ASSERT_TRUE(server.start());
  ASSERT_NE(server.ask().find("\"main\""), std::string::npos) << server.ask();
  server.stop();

  std::uint64_t failed = 0;
  std::uint64_t done_without = 0;
  for (std::uint64_t n = 1;; n += all ? 1 : 5) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    ASSERT_TRUE(server.format());
    const std::size_t descriptors = entries_of("/proc/self/fd");
    const std::size_t threads = entries_of("/proc/self/task");
    AllocFault::set(n, false);
    const Status status = server.start();
    const bool fired = AllocFault::fired() != 0;
    AllocFault::set(AllocFault::kNever, false);
    ASSERT_EQ(status.ok(), server.running());
    if (!fired) {
      EXPECT_TRUE(status);
      server.stop();
      break;
    }
    ++(status ? done_without : failed);
    if (status)
      EXPECT_NE(server.ask().find("\"main\""), std::string::npos);
    else
      EXPECT_EQ(status.error().errnum, ENOMEM) << status.error().text();
    server.stop();
    EXPECT_FALSE(server.socket_exists());
    EXPECT_EQ(entries_of("/proc/self/fd"), descriptors);
    EXPECT_TRUE(becomes(threads)) << "a thread goes on";
    if (::testing::Test::HasFailure()) return;
  }
  std::printf("%lu starts failed, %lu did without\n", failed, done_without);
  EXPECT_GT(failed, all ? 250U : 50U);
}

TEST(AllocServer, a_whole_start_that_finds_no_memory_leaves_nothing) {
  fail_each_allocation(8 << 20);
}

TEST(AllocServer, a_whole_start_with_a_place_for_notes_leaves_nothing) {
  fail_each_allocation(80 << 20);
}

}  // namespace
}  // namespace nbd_remap
