#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// CrashBackend: a disk in memory with a volatile cache, and power cuts.
//
// Keeps what is durable, and for every sector the versions that were written
// since, oldest first. At a crash each sector becomes, independently of all
// others, any one of these: so writes are lost, torn at 512 bytes and
// reordered. FUA makes that write durable, flush() everything.
//
// Threads  any, at once; one operation at a time inside.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/mutex.hpp"
#include "tests/fakes/sparse_image.hpp"

namespace nbd_remap {

class CrashBackend final : public Backend {
 public:
  explicit CrashBackend(std::uint64_t size_bytes);
  explicit CrashBackend(BackendInfo info) : info_(std::move(info)) {}

  // Power fails after n more calls of any data operation succeeded: from then
  // on all fail with ESHUTDOWN. A write or zero that is under way at the cut
  // reaches the disk in part. 0: at the next call.
  void power_cut_after(std::uint64_t n);
  bool power_is_off() const;

  // For each sector with unflushed versions: which survives. 0 is the durable
  // content, 1 the oldest version, unflushed the newest.
  using Choice =
      std::function<std::size_t(std::uint64_t sector, std::size_t unflushed)>;
  // Cuts the power (if it is on), then on again: the disk works and holds what
  // survived. A pending power_cut_after is forgotten.
  void crash(const Choice& choose);
  void crash(std::uint64_t seed);
  // What crash() would leave, as a disk of its own; this one goes on.
  std::unique_ptr<CrashBackend> crashed_copy(const Choice& choose) const;
  std::unique_ptr<CrashBackend> crashed_copy(std::uint64_t seed) const;

  // Sectors with at least one version that is not durable.
  std::size_t unflushed_sectors() const;
  // Data operations so far, failed ones too.
  std::uint64_t operations() const;

  const BackendInfo& info() const override { return info_; }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;

 private:
  // One sector's content; null is zeroes.
  using Version = std::shared_ptr<const std::array<std::byte, kSectorBytes>>;

  // Counts the operation; ESHUTDOWN when there is no power. cut_now tells
  // that it is this very operation that the cut met.
  Status enter(const char* operation, DeviceOffset offset, std::uint64_t length,
               bool* cut_now) REQUIRES(mu_);
  Status change(const char* operation, DeviceOffset offset,
                std::uint64_t length, const std::byte* data,
                Durability durability);
  void store(SparseImage& image, std::uint64_t sector,
             const Version& version) const;
  static Choice seeded(std::uint64_t seed);

  BackendInfo info_;
  mutable Mutex mu_;
  SparseImage durable_ GUARDED_BY(mu_);
  SparseImage current_ GUARDED_BY(mu_);  // what a read sees
  std::map<std::uint64_t, std::vector<Version>> unflushed_ GUARDED_BY(mu_);
  std::optional<std::uint64_t> cut_after_ GUARDED_BY(mu_);
  bool power_is_off_ GUARDED_BY(mu_) = false;
  std::uint64_t operations_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
