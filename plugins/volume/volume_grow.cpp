// SPDX-License-Identifier: BSD-3-Clause
#include <fmt/format.h>

#include <cerrno>

#include "plugins/remap/remap_grow.hpp"
#include "plugins/volume/volume.hpp"
#include "plugins/volume/volume_request.hpp"

namespace nbd_remap {

Status Volume::may_grow() const {
  if (!read_only_) return {};
  return make_error(ErrorClass::caller, EROFS, "volume: read-only");
}

// The last block may have ended in the middle: it is kept from clients until
// the new size counts.
Result<std::uint64_t> Volume::grow_main() {
  if (Status may = may_grow(); !may) return std::move(may).error();
  const auto pass = gate_.enter();
  if (!pass) return stopping_error();
  const auto now = main_->grow();
  if (!now) return now.error();
  const std::uint64_t old = size();
  if (*now <= old)
    return make_error(ErrorClass::caller, EINVAL,
                      fmt::format("{}: has {} bytes, as before: enlarge it "
                                  "first (a remote is asked at the next "
                                  "start only)",
                                  main_->info().name, *now));
  Status status =
      locked(Mode::exclusive, VolumeOffset{old - 1}, 1, [&]() -> Status {
        Status done = complete_last_block(*main_, *spare_, *store_, old, *now);
        if (done) done = store_->grow_main(*now);
        if (done) size_ = *now;
        return done;
      });
  if (!status) return std::move(status).error();
  log_(LogLevel::info, fmt::format("{}: the volume grew from {} to {} bytes",
                                   main_->info().name, old, *now));
  return *now;
}

Result<std::uint64_t> Volume::grow_spare() {
  if (Status may = may_grow(); !may) return std::move(may).error();
  const auto pass = gate_.enter();
  if (!pass) return stopping_error();
  const auto now = spare_->grow();
  if (!now) return now.error();
  if (Status status = store_->grow_spare(*now); !status)
    return std::move(status).error();
  log_(LogLevel::info,
       fmt::format("{}: SPARE grew to {} bytes, {} slots", spare_->info().name,
                   *now, store_->status().slots.slots));
  return *now;
}

}  // namespace nbd_remap
