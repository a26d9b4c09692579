// SPDX-License-Identifier: BSD-3-Clause
// How a replacement begins, and how one goes on after a restart.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "plugins/backend/clipped_backend.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/replace/empty_disk.hpp"
#include "plugins/replace/replacer.hpp"

namespace nbd_remap {
namespace {

Error refusal(int errnum, const std::string& words) {
  return make_error(ErrorClass::caller, errnum, words);
}

}  // namespace

Status Replacer::start(const std::string& spec, bool force) {
  const Wish wish(*this);
  MutexLock lock(work_mu_);
  if (Status may = may_start(spec); !may) return may;
  if (paused_) return go_on(spec);
  auto opened = open_(spec);
  if (!opened) return std::move(opened).error();
  Status fits = check_disk(*opened->disk);
  if (fits && !force) fits = check_disk_is_empty(*opened->disk);
  if (!fits) return fits;
  ReplaceState state;
  state.phase = ReplacePhase::copying;
  state.volume_bytes = volume_.size();
  state.started = state.changed = clock_.unix_seconds();
  state.next = spec;
  state.next_identity = stored_identity(opened->disk->info().identity);
  const VolumeStatus volume = volume_.status();
  state.old = volume.main.info.name;
  state.old_identity = stored_identity(volume.main.info.identity);
  ReplaceState before;
  {
    MutexLock state_lock(mu_);
    before = std::exchange(state_, state);
  }
  Status status;
  try {
    auto map = new_map({});
    status = map->save_all();
    if (status) status = attach(std::move(*opened), map);
  } catch (const std::bad_alloc&) {
    status = refusal(ENOMEM, spec);
  }
  if (!status) {
    MutexLock state_lock(mu_);
    state_ = std::move(before);
  }
  // What was noted is not to be taken up by the next server.
  if (!status) {
    (void)save({}, true);
    return status;
  }
  wake();
  try {
    tell(LogLevel::info,
         fmt::format("{} is being replaced by {}", state.old, state.next));
  } catch (const std::bad_alloc&) {
    // It is, whether it can be told or not.
  }
  return {};
}

Status Replacer::may_start(const std::string& spec) const {
  if (volume_.read_only())
    return refusal(EROFS, "the volume is read-only; nothing can be replaced");
  if (!notes_.write)
    return refusal(ENOTSUP,
                   "SPARE has no room for the state of a replacement: it was "
                   "formatted with less than 64 MiB, or by an older release");
  if (spec.size() > kMaxReplaceText)
    return refusal(ENAMETOOLONG, "the name of the new disk is too long");
  if (phase() == ReplacePhase::copying && !paused_)
    return refusal(EBUSY, fmt::format("MAIN is being replaced by {} already",
                                      state_words().next));
  if (phase() == ReplacePhase::switched || mirror_ != nullptr) {
    if (paused_) return {};
    return refusal(EBUSY, "the last replacement has not ended yet");
  }
  return {};
}

Status Replacer::check_disk(const Backend& disk) const {
  const BackendInfo& info = disk.info();
  const auto refuse = [&](int errnum, const std::string& words) {
    return refusal(errnum, info.name + ": " + words);
  };
  const VolumeStatus volume = volume_.status();
  if (info.identity == volume.main.info.identity)
    return refuse(EINVAL, "is MAIN itself; expected another disk");
  if (info.identity == volume.spare.info.identity)
    return refuse(EINVAL, "is SPARE; expected another disk");
  if (info.read_only)
    return refuse(EROFS, "read-only; expected a disk that can be written");
  if (!info.can_flush)
    return refuse(ENOTSUP,
                  "offers no FLUSH, so nothing on it would ever be durable");
  if (info.size_bytes < volume.size)
    return refuse(ENOSPC,
                  fmt::format("has {} bytes, expected at least the {} of the "
                              "volume",
                              info.size_bytes, volume.size));
  const std::uint32_t block = volume_.block_bytes();
  if (info.physical_block_bytes > block || info.logical_block_bytes > block ||
      volume.size % info.logical_block_bytes != 0)
    return refuse(
        EINVAL, fmt::format("sectors of {} bytes, physically {}, do not fit "
                            "a volume of {} bytes in blocks of {}",
                            info.logical_block_bytes, info.physical_block_bytes,
                            volume.size, block));
  return {};
}

std::shared_ptr<CopyMap> Replacer::new_map(const std::vector<bool>& bits) {
  return std::make_shared<CopyMap>(
      volume_.size(), bits, [this](const std::vector<bool>& b, bool clears) {
        return save(b, clears);
      });
}

// In the place of MAIN's backend, or of the mirror that lost its new disk.
Status Replacer::attach(NewDisk opened, std::shared_ptr<CopyMap> map) {
  std::shared_ptr<BoundedBackend> next;
  std::uint64_t bytes = 0;
  if (opened.disk) {
    bytes = opened.disk->info().size_bytes;
    // As MAIN it will be no larger than the volume. Now, for at the switch
    // nothing may fail for want of memory.
    next = std::make_shared<BoundedBackend>(
        clip(std::move(opened.disk), volume_.size()), bound_);
  }
  Status status =
      volume_.alone(kDrain, [&](Disk& main) REQUIRES(work_mu_) -> Status {
        main.exchange(
            [&](std::unique_ptr<Backend>& disk) REQUIRES(work_mu_) {
              auto& present = mirror_ == nullptr ? disk : mirror_->present();
              auto mirror = std::make_unique<MirrorBackend>(
                  std::move(present), next, map, [this] { wake(); });
              mirror_ = mirror.get();
              return mirror;
            },
            false, nullptr);
        return {};
      });
  if (!status) return status;
  next_ = std::move(next);
  next_counters_ = std::move(opened.counters);
  next_bytes_ = bytes;
  next_note_ = clock_.now() + kPeriod;
  skip_ = 1;
  tries_ = 0;
  MutexLock lock(mu_);
  map_ = std::move(map);
  waits_for_.clear();
  samples_.clear();
  return {};
}

// The disk that was lost is back. What it lacks is what was written since, and
// whatever had not been flushed.
Status Replacer::go_on(const std::string& spec) {
  if (next_ && next_->hangs())
    return refusal(EBUSY, spec + ": still hangs in an earlier request");
  // It is held exclusively as long as it is open.
  next_.reset();
  const std::string wanted = state_words().next_identity;
  auto opened = open_(spec);
  if (!opened) return std::move(opened).error();
  if (stored_identity(opened->disk->info().identity) != wanted)
    return refusal(
        EBUSY, fmt::format("{}: is not the disk that MAIN is being replaced "
                           "by, \"{}\"; abort that first",
                           spec, wanted));
  if (Status fits = check_disk(*opened->disk); !fits) return fits;
  const auto map = this->map();
  map->distrust();
  if (Status status = attach(std::move(*opened), map); !status) return status;
  paused_ = false;
  {
    MutexLock lock(mu_);
    state_.next = spec;
  }
  tell(LogLevel::info, fmt::format("goes on with {}", spec));
  wake();
  return {};
}

void Replacer::resume() {
  MutexLock lock(work_mu_);
  if (!notes_.read || volume_.read_only()) return;
  const auto bytes = notes_.read();
  if (!bytes) {
    // Whatever it says, its epoch keeps a later server from believing it.
    log_(LogLevel::warning, "replace: " + bytes.error().text());
    return;
  }
  if (bytes->empty()) return;
  auto state = unpack_replace_state(*bytes);
  if (!state) {
    log_(LogLevel::warning,
         "replace: what SPARE has noted is no state of a replacement: " +
             error_words(state.error()));
    return;
  }
  const std::string bound_to = volume_.status().store.superblock.main_identity;
  const bool unfinished = state->phase == ReplacePhase::copying ||
                          state->phase == ReplacePhase::switched;
  if (unfinished && bound_to == state->next_identity) {
    // The superblock decides; this note may be older.
    state->phase = ReplacePhase::switched;
  } else if (unfinished && (bound_to != state->old_identity ||
                            state->volume_bytes != volume_.size())) {
    log_(LogLevel::warning,
         "replace: what SPARE has noted is about other disks, and dropped");
    (void)save({}, true);
    return;
  }
  if (state->owner_epoch + 1 != owner_epoch_) state->in_sync.clear();
  const std::vector<bool> bits = std::move(state->in_sync);
  state->in_sync.clear();
  const std::string next = state->next;
  const std::string identity = state->next_identity;
  const ReplacePhase phase = state->phase;
  {
    MutexLock state_lock(mu_);
    state_ = std::move(*state);
  }
  if (phase != ReplacePhase::copying) return;
  auto map = new_map(bits);
  auto opened = open_(next);
  Status status;
  if (!opened) {
    status = opened.error();
  } else if (stored_identity(opened->disk->info().identity) != identity) {
    status = refusal(EINVAL, next + ": is another disk now");
  } else {
    status = check_disk(*opened->disk);
  }
  NewDisk disk;
  if (status) disk = std::move(*opened);
  paused_ = !status.ok();
  if (const Status attached = attach(std::move(disk), map); !attached) {
    // Nobody is connected yet.
    log_(LogLevel::error, "replace: " + attached.error().text());
    return;
  }
  // The next server believes the bits only if this one's epoch is with them.
  if (const Status noted = map->save_all(); !noted)
    log_(LogLevel::warning, "replace: " + noted.error().text());
  if (paused_)
    (void)wait_for("the new disk is lost, begin again with it to go on: " +
                       error_words(status.error()),
                   kIdle);
  else
    tell(LogLevel::info,
         fmt::format("goes on after a restart; {} of {} regions are in sync",
                     map->regions_in_sync(), map->regions()));
}

}  // namespace nbd_remap
