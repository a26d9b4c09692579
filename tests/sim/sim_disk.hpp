#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// SimDisk: a disk in memory with a volatile cache, bad sectors, and a power
// supply that it may share with another. Cheap to copy, so that a test can look
// at every state that a power cut may leave.
//
// Cache     What is written is seen by every later read; it is durable after a
//           flush, or at once with FUA. After a cut each sector is, apart from
//           all others, its durable content or any that was written since.
// Cut       The call that it meets fails; if it was a write, any sectors of it
//           may be written. All later calls fail with ESHUTDOWN.
// Bad       An operation that touches one bad sector fails with EIO. Of a write
//           that fails any good sectors may be written.
// Threads   one: fibers, which may change at the begin and end of each call.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

// Of both disks of a volume: the cut is one moment for the two.
struct Power {
  std::uint64_t calls = 0;              // of the disks, since it was last set
  std::optional<std::uint64_t> cut_at;  // the number of the call, from 1
  // Only writes and flushes of the second disk count as calls.
  bool only_second = false;
  bool off = false;
  // For the small world: looks before each call.
  std::function<void()> before_call;
  // What the disks did, for comparing runs.
  std::uint64_t trace = 0;
  void note(std::uint64_t word) {
    trace = (trace ^ word) * 0x9e3779b97f4a7c15ULL;
    trace ^= trace >> 29;
  }
};

// Bytes in pages that copies share until one is written.
class SharedImage {
 public:
  explicit SharedImage(std::uint64_t size_bytes)
      : pages_((size_bytes + kPage - 1) / kPage) {}
  void read(std::uint64_t offset, Bytes out) const;
  void enlarge(std::uint64_t size_bytes) {
    pages_.resize((size_bytes + kPage - 1) / kPage);
  }
  // One sector; null: zeroes.
  void put(std::uint64_t sector, const std::byte* content);
  const std::byte* at(std::uint64_t sector) const;
  std::uint64_t checksum() const;

 private:
  static constexpr std::uint64_t kPage = 4096;
  using Page = std::array<std::byte, kPage>;
  std::vector<std::shared_ptr<Page>> pages_;  // null: zeroes
};

class SimDisk final : public Backend {
 public:
  using Content = std::array<std::byte, kSectorBytes>;
  using Version = std::shared_ptr<const Content>;  // null: zeroes

  // second: of the two on this supply.
  SimDisk(const std::string& name, std::uint64_t size_bytes, Power& power,
          std::uint64_t seed, bool second);
  // The same disk, as it is now, on another supply. (The seed goes on too.)
  SimDisk(const SimDisk& other, Power& power);
  SimDisk(const SimDisk&) = delete;
  SimDisk& operator=(const SimDisk&) = delete;

  // Bits of a sector.
  enum Bad : std::uint8_t {
    kReads = 1,       // until it is written
    kReadsLater = 2,  // also after it was written
    kWrites = 4,
  };
  void spoil(std::uint64_t sector, std::uint8_t bad) {
    bad_[sector] |= bad;
    ++bad_sectors_;
  }
  void mend(std::uint64_t sector) { bad_[sector] = 0; }
  void mend_all();
  bool is_bad(std::uint64_t sector, std::uint8_t bad) const {
    return (bad_[sector] & bad) != 0;
  }
  // The next so many reads that touch it fail; or fewer, if a write heals it.
  void trouble(std::uint64_t sector, unsigned times, bool until_written) {
    trouble_[sector] = {times, until_written};
  }
  void fail_next_flush(bool fails = true) { fail_flush_ = fails; }

  struct Fired {
    std::uint64_t reads = 0, writes = 0, transient = 0, flushes = 0;
  };
  const Fired& fired() const { return fired_; }

  // Which of a sector's contents survives: 0 is the durable one, 1 the oldest
  // that was written since, unflushed the newest.
  using Choice =
      std::function<std::size_t(std::uint64_t sector, std::size_t unflushed)>;
  // The power is on again, after a cut that left this.
  void crash(const Choice& choose);
  // After a cut that took the server and spared the disks (kill -9).
  void survive();

  // Of each sector whose survivors differ: their choices, one for each
  // different content, the durable one first.
  struct Fork {
    std::uint64_t sector = 0;
    std::vector<std::size_t> choices;
  };
  std::vector<Fork> forks() const;
  // Of what is durable.
  std::uint64_t checksum() const { return durable_.checksum(); }

  // What grow() will find, and info() after the next opened().
  void enlarge(std::uint64_t size_bytes);
  void opened() { info_.size_bytes = bytes_; }

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
  Result<std::uint64_t> grow() override { return bytes_; }

 private:
  // Notes the call; ESHUTDOWN without power. cut: it is this call that met it.
  Status enter(const char* operation, DeviceOffset offset, std::uint64_t length,
               bool* cut);
  Status change(const char* operation, DeviceOffset offset,
                std::uint64_t length, const std::byte* data,
                Durability durability);
  Status bad_medium(const char* operation, DeviceOffset offset,
                    std::uint64_t length) const;
  bool touches(std::uint64_t first, std::uint64_t end, std::uint8_t bad) const;
  static void put(SharedImage& image, std::uint64_t sector,
                  const Version& version) {
    image.put(sector, version ? version->data() : nullptr);
  }
  void store(std::uint64_t sector, const Version& version, bool durable);

  BackendInfo info_;
  std::uint64_t bytes_;
  Power& power_;
  const bool second_;
  std::mt19937_64 random_;
  SharedImage durable_;
  SharedImage current_;
  std::map<std::uint64_t, std::vector<Version>> unflushed_;
  // Of the write that met the cut.
  std::vector<std::pair<std::uint64_t, Version>> limbo_;
  std::vector<std::uint8_t> bad_;
  std::uint64_t bad_sectors_ = 0;
  struct Trouble {
    unsigned times = 0;
    bool until_written = false;
  };
  std::map<std::uint64_t, Trouble> trouble_;
  bool fail_flush_ = false;
  Fired fired_;
};

}  // namespace nbd_remap
