// SPDX-License-Identifier: BSD-3-Clause
// Contract L1, M2: each allocation of a start over files fails in turn: open
// both disks, load the map, begin to serve. The start fails with ENOMEM (or
// does without), leaves no descriptor behind, and the next one finds all.
//
//   NBD_REMAP_LONG=1       all allocations; else one in so many
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "plugins/backend/open_backend.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/spare_format.hpp"
#include "plugins/volume/volume.hpp"
#include "tests/fakes/scratch.hpp"
#include "tests/faults/alloc_fault.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMainBytes = 8 << 20;
constexpr std::uint64_t kBlock = 4096;

std::size_t descriptors() {
  std::size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    n += entry.path().empty() ? 0 : 1;
  return n;
}

class Files {
 public:
  explicit Files(std::uint64_t slots)
      : main_(dir_.make_file("main", kMainBytes)),
        spare_(dir_.make_file("spare", spare_bytes_for(slots, kBlock))) {}

  Status format() {
    auto main = open(main_);
    if (!main) return main.error();
    auto spare = open(spare_);
    if (!spare) return spare.error();
    FormatRequest request;
    request.block_bytes = kBlock;
    // Whatever a format that was cut left there may be written over.
    if (auto old = survey_metadata(**spare))
      request.replace = old->superblock.uuid;
    auto made = format_spare(**spare, **main, request);
    return made ? Status() : Status(made.error());
  }

  Status start() {
    volume_.reset();
    auto main = open(main_);
    if (!main) return main.error();
    auto spare = open(spare_);
    if (!spare) return spare.error();
    Binding binding;
    binding.main_bytes = (*main)->info().size_bytes;
    binding.main_identity = (*main)->info().identity;
    binding.main_name = (*main)->info().name;
    auto main_disk = std::make_unique<Disk>(std::move(*main));
    auto spare_disk = std::make_unique<Disk>(std::move(*spare));
    auto store = RemapStore::open(*spare_disk, binding, false, log_);
    if (!store) return store.error();
    volume_ = std::make_unique<Volume>(
        std::move(main_disk), std::move(spare_disk), std::move(*store), false,
        "", VolumeOptions{}, clock_, log_);
    return {};
  }

  Status stop() {
    volume_->close_gate();
    const Status status = volume_->close();
    volume_.reset();
    return status;
  }
  void kill() { volume_.reset(); }
  Volume& volume() { return *volume_; }
  bool running() const { return volume_ != nullptr; }

 private:
  Result<std::unique_ptr<Backend>> open(const std::string& path) {
    OpenOptions options;
    options.log = log_;
    return open_backend(path, options);
  }

  const ScratchDir dir_;
  const std::string main_;
  const std::string spare_;
  const SystemClock clock_;
  const LogSink log_ = [](LogLevel, std::string_view) {};
  std::unique_ptr<Volume> volume_;
};

// What a callback of nbdkit does.
template <class Body>
Status guarded(Body&& body) {
  Status status;
  AllocFault::arm();
  try {
    status = body();
  } catch (const std::bad_alloc&) {
    AllocFault::pause();
    status = make_error(ENOMEM, "out of memory");
  }
  AllocFault::pause();
  return status;
}

std::uint64_t stride() {
  return std::getenv("NBD_REMAP_LONG") != nullptr ? 1 : 5;
}

// Calls work() with each allocation failing in turn; check() after each.
template <class Work, class Check>
std::uint64_t each_allocation(Work&& work, Check&& check) {
  std::uint64_t injected = 0;
  for (std::uint64_t n = 1;; n += stride())
    for (const bool sticky : {false, true}) {
      const std::size_t before = descriptors();
      AllocFault::set(n, sticky);
      const Status status = guarded(work);
      const bool fired = AllocFault::fired() != 0;
      AllocFault::set(AllocFault::kNever, false);
      if (!fired) {
        EXPECT_TRUE(status);
        return injected;
      }
      ++injected;
      check(status);
      if (!status) {
        EXPECT_EQ(status.error().errnum, ENOMEM) << status.error().text();
        EXPECT_EQ(descriptors(), before) << "allocation " << n;
      }
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "allocation " << n << (sticky ? ", sticky" : "");
        return injected;
      }
    }
}

void map_blocks(Files& files, std::uint64_t blocks) {
  for (std::uint64_t i = 0; i < blocks; i += 16)
    ASSERT_TRUE(files.volume()
                    .map_step(MapAction::remap, VolumeOffset{2 * i * kBlock},
                              kBlock, std::chrono::milliseconds(60'000))
                    .status);
}

void fail_starts(Files& files, std::uint64_t remapped, const char* what) {
  files.kill();
  const std::uint64_t n = each_allocation(
      [&] { return files.start(); },
      [&](const Status& status) {
        EXPECT_EQ(status.ok(), files.running());
        files.kill();
        const Status next = files.start();
        ASSERT_TRUE(next) << next.error().text();
        EXPECT_EQ(files.volume().status().store.remapped, remapped);
        EXPECT_EQ(files.volume().status().store.failed, "");
        files.kill();
      });
  std::printf("%s: %lu allocations failed\n", what, n);
  EXPECT_GT(n, 20U);
}

TEST(AllocStart, a_format_that_finds_no_memory_can_be_done_again) {
  Files files(50);
  const std::uint64_t n = each_allocation(
      [&] {
        files.kill();
        return files.format();
      },
      [&](const Status& status) {
        if (status) return;
        const Status again = files.format();
        EXPECT_TRUE(again) << again.error().text();
      });
  EXPECT_GT(n, 0U);
}

TEST(AllocStart, a_first_start_that_finds_no_memory_leaves_nothing) {
  Files files(50);
  ASSERT_TRUE(files.format());
  fail_starts(files, 0, "first start");
}

TEST(AllocStart, a_start_after_a_stop_that_finds_no_memory_loses_no_mapping) {
  Files files(200);
  ASSERT_TRUE(files.format());
  ASSERT_TRUE(files.start());
  map_blocks(files, 160);
  ASSERT_TRUE(files.stop());
  fail_starts(files, 10, "after a stop");
}

TEST(AllocStart, a_start_after_a_kill_that_finds_no_memory_loses_no_mapping) {
  Files files(200);
  ASSERT_TRUE(files.format());
  ASSERT_TRUE(files.start());
  map_blocks(files, 480);
  fail_starts(files, 30, "after a kill");
}

}  // namespace
}  // namespace nbd_remap
