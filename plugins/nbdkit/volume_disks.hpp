#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The disks of a server: opened as its parameters say, at the start and when
// one is to be replaced, and the words for those that it refuses.
//
// Threads  any.

#include <memory>
#include <string>

#include "plugins/backend/open_backend.hpp"
#include "plugins/nbdkit/owner_check.hpp"
#include "plugins/nbdkit/parameters.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/replace/replacer.hpp"

namespace nbd_remap {

struct Disks {
  std::unique_ptr<Backend> main;
  std::unique_ptr<Backend> spare;
  std::shared_ptr<RemoteCounters> main_counters =
      std::make_shared<RemoteCounters>();
  std::shared_ptr<RemoteCounters> spare_counters =
      std::make_shared<RemoteCounters>();
  bool read_only = false;
  std::string missing_spare;
};

// missing-spare=readonly: a SPARE that cannot be opened for writing is opened
// for reading, and if that fails too there is none.
Result<Disks> open_disks(const Parameters& parameters, const LogSink& log,
                         const std::shared_ptr<OwnerCheck>& owner);

// What SPARE must be. Asks, for a SPARE that was about to take another one's
// place, that one whether it did; an error if it did not, or nobody knows.
Result<Binding> binding_of(const Parameters& parameters, const Backend& main,
                           Backend& spare);

// A disk that was formatted with smaller blocks than it now says it has.
Status check_blocks(const Backend& main, const Backend& spare,
                    std::uint32_t block_bytes);

void warn_if_cached(const Backend& disk, const char* role, const LogSink& log);

// What a replacement of MAIN, or of SPARE, opens: as main= and spare= are.
OpenNewDisk new_main_opener(const Parameters& parameters, const LogSink& log,
                            const std::shared_ptr<OwnerCheck>& owner);
OpenNewDisk new_spare_opener(const Parameters& parameters, const LogSink& log,
                             const std::shared_ptr<OwnerCheck>& owner);

// What was replaced is refused; the words say by what.
Error refused(Error error, Backend& spare, const Backend& main);

// An error of this word, such as main or spare.
Error in_step(const char* word, Error error);

}  // namespace nbd_remap
