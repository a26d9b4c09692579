#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Disk: a Backend as the volume uses it. Counts errors by class, joins flushes
// that run at once, and never forgets one that failed (contract C12).
//
// Flush       Callers that come while a flush runs share the next one: a flush
//             that began earlier may have missed their writes. One with
//             nothing written since the last good one is not sent.
// Doubt       Unless the backend itself remembers (flush_covers_failed):
//             after a flush failed (or a FUA write through the page cache,
//             whose error may be another write's) every flush and FUA write
//             fails with EIO until the server is started again.
// Exchange    Another Backend may take the place of the one it stands on, while
//             the volume lets nobody in.
// Threads     any, at once.

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/backend/open_backend.hpp"
#include "plugins/base/mutex.hpp"

namespace nbd_remap {

class Disk final : public Backend {
 public:
  // counters: of a remote, as it was opened with them.
  explicit Disk(std::unique_ptr<Backend> backend,
                std::shared_ptr<const RemoteCounters> counters = nullptr);

  // Of the backend of this moment; stays what it is after an exchange.
  const BackendInfo& info() const override { return face_.load()->info; }
  Status read(DeviceOffset offset, Bytes buffer) override;
  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override;
  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override;
  Status trim(DeviceOffset offset, std::uint64_t length) override;
  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override;
  Status cache(DeviceOffset offset, std::uint64_t length) override;
  Status flush() override;
  Result<std::uint64_t> grow() override;

  // Puts what make() returns in the place of the present backend, which make()
  // takes, last of all: if it throws, nothing has changed. Does not throw
  // unless make() does. afresh: it is another disk, of which nothing is known:
  // counters begin anew, and counters are those of its link.
  // REQUIRES: no other call but those that only look (info, size, link,
  // in_doubt, errors) is under way; the new one has the same size, or afresh.
  void exchange(const std::function<std::unique_ptr<Backend>(
                    std::unique_ptr<Backend>& present)>& make,
                bool afresh, std::shared_ptr<const RemoteCounters> counters);

  // At opening, or what grow() answered last.
  std::uint64_t size() const { return size_; }
  // Null unless it is a remote.
  const RemoteCounters* link() const {
    const Face* face = face_;
    return face->info.remote ? face->counters.get() : nullptr;
  }
  bool in_doubt() const { return in_doubt_; }
  // By ErrorClass.
  std::array<std::uint64_t, kErrorClassCount> errors() const;
  // Reads, writes and zeroes that succeeded; for "did anything work since?".
  // A flush or trim can succeed on a disk that does nothing any more.
  std::uint64_t successes() const { return successes_; }

 private:
  // What the disk answers; ENOMEM if even the words for an error found no
  // memory: the disk may have failed, and that counts as if it had.
  template <class Call>
  static Status answer(Call&& call);
  Status note(Status status);
  Status note_data(Status status);
  Status refuse_in_doubt() const;
  bool cached_here() const;

  // What those who only look see: kept, as they may look for long.
  struct Face {
    BackendInfo info;
    std::shared_ptr<const RemoteCounters> counters;
  };

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<const Face>> faces_;  // the last is the present
  std::atomic<const Face*> face_;
  std::atomic<std::uint64_t> size_;
  std::atomic<bool> in_doubt_{false};
  // What an earlier server wrote and did not flush counts as well.
  std::atomic<bool> dirty_{true};
  std::atomic<std::uint64_t> successes_{0};
  std::array<std::atomic<std::uint64_t>, kErrorClassCount> errors_{};

  Mutex mu_;
  CondVar round_over_;
  bool flushing_ GUARDED_BY(mu_) = false;
  std::uint64_t rounds_begun_ GUARDED_BY(mu_) = 0;
  std::uint64_t rounds_ended_ GUARDED_BY(mu_) = 0;
  std::uint64_t last_good_round_ GUARDED_BY(mu_) = 0;
};

}  // namespace nbd_remap
