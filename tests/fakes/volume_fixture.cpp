// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/volume_fixture.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace nbd_remap {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kPatience{30};

BackendInfo rig_disk(const char* name, std::uint64_t size,
                     const RigOptions& options) {
  BackendInfo info = fake_disk_info(name, size, options.logical, 4096);
  info.direct = options.direct;
  return info;
}

}  // namespace

void format_for(Backend& spare, Backend& main,
                std::optional<std::uint32_t> block_bytes) {
  FormatRequest request;
  request.block_bytes = block_bytes;
  if (auto made = format_spare(spare, main, request); !made)
    throw std::runtime_error(made.error().text());
}

std::unique_ptr<Volume> open_volume(Backend& main, Backend& spare,
                                    const VolumeOptions& options,
                                    const Clock& clock, LogSink log) {
  auto main_disk =
      std::make_unique<Disk>(std::make_unique<BorrowedBackend>(main));
  auto spare_disk =
      std::make_unique<Disk>(std::make_unique<BorrowedBackend>(spare));
  Binding binding;
  binding.main_bytes = main.info().size_bytes;
  binding.main_identity = main.info().identity;
  binding.main_name = main.info().name;
  auto store = RemapStore::open(*spare_disk, binding, false, log);
  if (!store) throw std::runtime_error(store.error().text());
  return std::make_unique<Volume>(std::move(main_disk), std::move(spare_disk),
                                  std::move(*store), false, "", options, clock,
                                  log);
}

std::vector<std::byte> pattern(std::uint64_t tag, std::size_t length) {
  std::vector<std::byte> data((length + 7) / 8 * 8);
  for (std::size_t i = 0; i < data.size(); i += 8) {
    const std::uint64_t word =
        (tag + 1) * 0x9e3779b97f4a7c15ULL ^ (i / 8 + 1) * 0xc2b2ae3d27d4eb4fULL;
    std::memcpy(data.data() + i, &word, 8);
  }
  data.resize(length);
  return data;
}

Rig::Rig(const RigOptions& o)
    : options(o),
      main_disk(rig_disk("main", o.main_bytes, o)),
      spare_disk(
          rig_disk("spare", spare_bytes_for(o.spare_slots, o.block_bytes), o)) {
  format_for(spare_disk, main_disk, o.block_bytes);
  open();
}

Rig::~Rig() = default;

void Rig::open() {
  volume = open_volume(main, spare, options.volume, clock,
                       [](LogLevel, std::string_view) {});
}

bool Rig::stop() {
  volume->close_gate();
  if (!volume->drain(kPatience)) return false;
  const Status closed = volume->close();
  volume.reset();
  return closed.ok();
}

void Rig::reopen() {
  if (!stop()) throw std::runtime_error("the volume could not be stopped");
  open();
}

bool Rig::holds(std::uint64_t offset, ConstBytes data) {
  std::vector<std::byte> buffer(data.size());
  if (!volume->read(VolumeOffset{offset}, buffer)) return false;
  return std::equal(data.begin(), data.end(), buffer.begin());
}

bool Rig::zeroes(std::uint64_t offset, std::uint64_t length) {
  return holds(offset, std::vector<std::byte>(length));
}

RemapEntry Rig::entry(std::uint64_t block) const {
  const auto found = volume->entries(BlockNo{block}, 1);
  if (!found.empty() && found.front().block == BlockNo{block})
    return found.front();
  RemapEntry clean;
  clean.block = BlockNo{block};
  clean.valid = ~std::uint64_t{0} >> (64 - options.block_bytes / kSectorBytes);
  return clean;
}

FaultyBackend::Rule Rig::spoil(OpSet ops, std::uint64_t block,
                               std::uint64_t count) {
  return main.add_bad_range(ops, at(block), count * options.block_bytes, EIO);
}

void Barrier::arrive_and_wait() {
  const auto deadline = steady_clock::now() + kPatience;
  MutexLock lock(mu_);
  ++arrived_;
  changed_.notify_all();
  while (!open_)
    if (!changed_.wait_until(mu_, deadline)) return;
}

bool Barrier::wait_for_arrival() {
  const auto deadline = steady_clock::now() + kPatience;
  MutexLock lock(mu_);
  while (arrived_ == 0)
    if (!changed_.wait_until(mu_, deadline)) return false;
  return true;
}

void Barrier::open() {
  MutexLock lock(mu_);
  open_ = true;
  changed_.notify_all();
}

}  // namespace nbd_remap
