#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What an operator can choose about a volume, with the defaults that
// nbdkit-remap-plugin(1) documents.

#include <chrono>
#include <cstdint>

namespace nbd_remap {

enum class PendingWrite { main_first, spare_first };

struct VolumeOptions {
  PendingWrite on_pending_write = PendingWrite::main_first;
  unsigned retries = 2;        // more tries of a sector that cannot be read
  std::uint64_t breaker = 16;  // blocks failing in a row before MAIN is probed
  // A request waits so long for its regions; longer than a remote's deadline.
  std::chrono::milliseconds lock_bound{60'000};
  // Once one sector is known to be unreadable a read looks for others so long.
  std::chrono::milliseconds search_bound{2'000};
};

}  // namespace nbd_remap
