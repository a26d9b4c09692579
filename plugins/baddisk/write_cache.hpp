#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// WriteCache: the volatile write cache of a disk, and power cuts.
//
// The backend below is the platter. Writes and zeroes stay here, every version
// of every unit, until a flush; reads see the newest. FUA goes to the platter
// at once. A cut chooses what of the rest gets there, then there is no power
// and every operation fails with ESHUTDOWN until power_on().
//
// Units       a unit is a sector of 512 bytes, or the platter's logical block
//             if that is larger: nothing smaller is torn.
// Bound       the versions held are at most limit_bytes. A write that would
//             exceed that first sends all that is held to the platter, as a
//             drive does when its cache is full (destaged: no cut takes it
//             back); one that alone exceeds it goes there as well.
// Invariants  (1) What was flushed, or written with FUA, is on the platter,
//                 and nothing older is held.
//             (2) A unit holds after a cut what is on the platter or one of
//                 the versions held.
//             (3) A failure of the platter loses nothing that is held.
// Threads     any, at once; one operation at a time, mu_ is held during I/O.
// Lifetime    Destruction forgets what is held, like the kill of a process;
//             shut_down() keeps it.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/base/mutex.hpp"

namespace nbd_remap {

// What a power cut does to the writes that were not flushed. Each may do what
// those before it do.
enum class CutKind {
  all,        // all are lost
  lost,       // those after some moment are lost
  reordered,  // any of them are lost, whole
  torn,       // any units of them are lost
};
std::optional<CutKind> parse_cut_kind(std::string_view text);

class WriteCache final : public Backend {
 public:
  struct CacheStatus {
    bool power = true;
    std::uint64_t limit_bytes = 0;
    std::uint64_t held_bytes = 0;   // all versions
    std::uint64_t held_writes = 0;  // that came since the last were sent on
    std::uint64_t destaged = 0;     // times the bound was met
    std::uint64_t cuts = 0;
    std::uint64_t sectors_kept = 0;  // by all cuts: the newest version is there
    std::uint64_t sectors_lost = 0;  // by all cuts: an older one, or none
    std::uint64_t refused = 0;       // operations that met no power
  };

  WriteCache(std::unique_ptr<Backend> platter, std::uint64_t limit_bytes);

  // EALREADY if there is no power already. The same seed, kind and versions
  // held leave the same content.
  Status cut(CutKind kind, std::uint64_t seed);
  void power_on();
  // All that is held goes to the platter, unless there is no power.
  Status shut_down();
  CacheStatus status() const;

  const BackendInfo& info() const override { return platter_->info(); }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  // Goes to the platter at once: what is there afterwards is unspecified
  // anyhow, but nothing held may come over it later.
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;

 private:
  struct Version {
    std::uint64_t write = 0;            // ascending
    std::unique_ptr<std::byte[]> data;  // one unit; null: zeroes
  };
  using Versions = std::vector<Version>;
  // Which version of the unit goes to the platter; its size: none.
  using Choice = std::function<std::size_t(const Versions& versions)>;

  Status powered(const char* operation) REQUIRES(mu_);
  bool make_room(std::uint64_t length, Status& done) REQUIRES(mu_);
  void hold(std::uint64_t offset, std::uint64_t length, const std::byte* data)
      REQUIRES(mu_);
  void forget(std::uint64_t offset, std::uint64_t length) REQUIRES(mu_);
  void forget_all() REQUIRES(mu_);
  Status send_on(const Choice& choose) REQUIRES(mu_);
  Status send_newest() REQUIRES(mu_);
  Choice chooser(CutKind kind, std::uint64_t seed) REQUIRES(mu_);

  const std::unique_ptr<Backend> platter_;
  const std::uint64_t unit_;
  mutable Mutex mu_;
  std::map<std::uint64_t, Versions> held_ GUARDED_BY(mu_);  // by unit number
  std::uint64_t last_write_ GUARDED_BY(mu_) = 0;
  CacheStatus status_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
