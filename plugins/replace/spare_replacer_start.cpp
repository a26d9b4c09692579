// SPDX-License-Identifier: BSD-3-Clause
// How a replacement of SPARE begins, goes on after a restart, and is told of.
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/remap/remap_move.hpp"
#include "plugins/replace/empty_disk.hpp"
#include "plugins/replace/spare_replacer.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kSpareEvents = 50;

Error refuse_spare(int errnum, const std::string& words) {
  return make_error(ErrorClass::caller, errnum, words);
}

}  // namespace

SpareReplacer::SpareReplacer(Volume& volume, ReplaceNotes notes,
                             OpenNewDisk open, const Clock& clock, LogSink log,
                             Options options)
    : volume_(volume),
      notes_(std::move(notes)),
      open_(std::move(open)),
      clock_(clock),
      log_(std::move(log)),
      options_(std::move(options)),
      spec_(options_.spec) {}

SpareReplacer::~SpareReplacer() { stop(); }

void SpareReplacer::run() {
  thread_ = std::thread([this] {
    // Signals are for the host's own threads.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    pthread_setname_np(pthread_self(), "replace-spare");
    work();
  });
}

void SpareReplacer::work() {
  for (;;) {
    Milliseconds pause{kPeriod};
    try {
      pause = step();
    } catch (const std::bad_alloc&) {
      tell(LogLevel::warning, "no memory; tried again later");
    }
    const auto until = std::chrono::steady_clock::now() + pause;
    MutexLock lock(mu_);
    // An owner who waits goes first.
    while (!ending_ && wishes_ != 0) changed_.wait(mu_);
    while (!ending_ && !woken_ && std::chrono::steady_clock::now() < until)
      changed_.wait_until(mu_, until);
    if (ending_) return;
    woken_ = false;
  }
}

void SpareReplacer::stop() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

Status SpareReplacer::start(const std::string& spec, bool force) {
  ++wishes_;
  MutexLock lock(work_mu_);
  --wishes_;
  wake();
  if (Status may = may_start(spec); !may) return may;
  auto opened = open_(spec);
  if (!opened) return std::move(opened).error();
  if (Status fits = check_disk(*opened->disk); !fits) return fits;
  const Superblock bound = volume_.status().store.superblock;
  ReplaceState state;
  state.phase = ReplacePhase::copying;
  state.volume_bytes = volume_.size();
  state.owner_epoch = bound.owner_epoch;
  state.started = state.changed = clock_.unix_seconds();
  state.next = spec;
  state.next_identity = stored_identity(opened->disk->info().identity);
  state.old = spec_;
  state.old_identity = bound.spare_identity;
  if (Status begun = begin(std::move(*opened), state, true, force); !begun)
    return begun;
  try {
    tell(LogLevel::info, fmt::format("SPARE {} is being replaced by {}",
                                     state.old, state.next));
  } catch (const std::bad_alloc&) {
    // It is, whether it can be told or not.
  }
  return {};
}

Status SpareReplacer::may_start(const std::string& spec) const {
  if (volume_.read_only())
    return refuse_spare(EROFS,
                        "the volume is read-only; nothing can be replaced");
  if (!notes_.write)
    return refuse_spare(
        ENOTSUP,
        "SPARE has no room for the state of a replacement: it was formatted "
        "with less than 64 MiB, or by an older release");
  if (spec.size() > kMaxReplaceText)
    return refuse_spare(ENAMETOOLONG, "the name of the new disk is too long");
  if (state().phase == ReplacePhase::copying)
    return refuse_spare(EBUSY, fmt::format("SPARE is being replaced by {} "
                                           "already",
                                           state().next));
  if (mirror_ != nullptr)
    return refuse_spare(EBUSY, "the last replacement has not ended yet");
  return {};
}

Status SpareReplacer::check_disk(const Backend& disk) const {
  const BackendInfo& info = disk.info();
  const auto refuse = [&](int errnum, const std::string& words) {
    return refuse_spare(errnum, info.name + ": " + words);
  };
  const VolumeStatus volume = volume_.status();
  if (info.identity == volume.main.info.identity)
    return refuse(EINVAL, "is MAIN; expected another disk");
  if (info.identity == volume.spare.info.identity)
    return refuse(EINVAL, "is SPARE itself; expected another disk");
  if (info.read_only)
    return refuse(EROFS, "read-only; expected a disk that can be written");
  if (!info.can_flush)
    return refuse(ENOTSUP,
                  "offers no FLUSH, so nothing on it would ever be durable");
  const std::uint64_t wanted = volume.store.superblock.disk_bytes();
  if (info.size_bytes < wanted)
    return refuse(ENOSPC, fmt::format("has {} bytes, expected at least the {} "
                                      "of SPARE",
                                      info.size_bytes, wanted));
  if (info.size_bytes > kMaxSpareBytes)
    return refuse(EINVAL, fmt::format("has {} bytes, more than a SPARE can "
                                      "have, {}",
                                      info.size_bytes, kMaxSpareBytes));
  const std::uint32_t block = volume_.block_bytes();
  if (info.physical_block_bytes > block || info.logical_block_bytes > block)
    return refuse(
        EINVAL, fmt::format("sectors of {} bytes, physically {}, do not fit "
                            "blocks of {}",
                            info.logical_block_bytes, info.physical_block_bytes,
                            block));
  return {};
}

// A SPARE that somebody may want is not for the taking: only one that was
// replaced, or never came to be one.
Status SpareReplacer::check_empty(Backend& disk, bool force) {
  if (!force) return check_disk_is_empty(disk);
  const auto found = find_superblock(disk);
  if (!found) return found.error();
  if (!*found || (*found)->is_candidate() || (*found)->was_replaced())
    return {};
  return refuse_spare(
      EEXIST,
      fmt::format("{}: is SPARE {}; to give it up, erase its first and last "
                  "MiB first, --force does not",
                  disk.info().name, uuid_text((*found)->uuid)));
}

Status SpareReplacer::begin(NewDisk opened, const ReplaceState& wanted,
                            bool checked, bool force) {
  layout_ = volume_.status().store.superblock.layout;
  const auto next =
      std::make_shared<BoundedBackend>(std::move(opened.disk), options_.bound);
  // The bound holds for what is asked of it here as well.
  Status status = checked ? check_empty(*next, force) : Status();
  if (!status) return status;
  const ReplaceState before = state();
  ReplaceState begun = wanted;
  if (status = note(wanted); !status) return status;
  next_ = next;
  counters_ = std::move(opened.counters);
  adopted_ = std::move(opened.adopted);
  try {
    status = prepare_candidate(*next, layout_);
    if (status)
      status = volume_.alone_with_spare(
          kDrain, [&](Disk& spare, RemapStore&) REQUIRES(work_mu_) -> Status {
            spare.exchange(
                [&](std::unique_ptr<Backend>& present) REQUIRES(work_mu_) {
                  auto mirror = std::make_unique<SpareMirror>(
                      std::move(present), next, layout_, [this] { wake(); });
                  mirror_ = mirror.get();
                  return mirror;
                },
                false, nullptr);
            return {};
          });
  } catch (const std::bad_alloc&) {
    status = refuse_spare(ENOMEM, wanted.next);
  }
  if (!status) {
    drop_next();
    // What was noted is not to be taken up by the next server.
    (void)note(before);
    return status;
  }
  cursor_ = BlockNo{0};
  set_state(std::move(begun));
  {
    MutexLock lock(mu_);
    copied_bytes_ = lost_sectors_ = read_errors_ = 0;
    began_ = clock_.now();
  }
  wake();
  return {};
}

void SpareReplacer::resume() {
  MutexLock lock(work_mu_);
  if (!notes_.read || volume_.read_only()) return;
  const auto bytes = notes_.read();
  if (!bytes) {
    log_(LogLevel::warning, "replace: " + bytes.error().text());
    return;
  }
  if (bytes->empty()) return;
  const auto found = unpack_replace_state(*bytes);
  if (!found) {
    log_(LogLevel::warning,
         "replace: what SPARE has noted is no state of a replacement: " +
             error_words(found.error()));
    return;
  }
  set_state(*found);
  if (found->phase != ReplacePhase::copying) return;
  const std::string bound = volume_.status().store.superblock.spare_identity;
  Status status;
  if (found->old_identity != bound)
    status = refuse_spare(EINVAL, "what SPARE has noted is of another one");
  Result<NewDisk> opened = NewDisk{};
  if (status) {
    opened = open_(found->next);
    if (!opened) status = opened.error();
  }
  if (status &&
      stored_identity(opened->disk->info().identity) != found->next_identity)
    status = refuse_spare(EINVAL, found->next + ": is another disk now");
  if (status) status = check_disk(*opened->disk);
  if (status) status = begin(std::move(*opened), *found, false, true);
  if (status) {
    tell(LogLevel::info,
         fmt::format("begins anew with {} after a restart", found->next));
    return;
  }
  set_state(ended(ReplacePhase::failed,
                  "after a restart: " + error_words(status.error())));
  tell(LogLevel::error, state().reason + "; SPARE stays what it was");
  if (const Status noted = note(state()); !noted)
    log_(LogLevel::warning, "replace: " + error_words(noted.error()));
}

Status SpareReplacer::note(const ReplaceState& state) {
  return notes_.write(pack_replace_state(state));
}

ReplaceStatus SpareReplacer::status() const {
  const StoreStatus store = volume_.status().store;
  const std::uint64_t block = volume_.block_bytes();
  MutexLock lock(mu_);
  ReplaceStatus out;
  out.phase = state_.phase;
  out.next = state_.next;
  out.next_identity = state_.next_identity;
  out.old = state_.old;
  out.old_identity = state_.old_identity;
  out.started = state_.started;
  out.changed = state_.changed;
  out.reason = state_.reason;
  out.waits_for = waits_for_;
  out.read_errors = read_errors_;
  out.lost_sectors = lost_sectors_;
  out.events.assign(events_.begin(), events_.end());
  if (state_.phase != ReplacePhase::copying) return out;
  out.bytes = store.remapped * block;
  out.copied_bytes = std::min(copied_bytes_, out.bytes);
  const std::chrono::duration<double> time = clock_.now() - began_;
  if (time.count() > 0 && waits_for_.empty())
    out.bytes_per_second = static_cast<double>(copied_bytes_) / time.count();
  return out;
}

bool SpareReplacer::busy() const {
  return state().phase == ReplacePhase::copying;
}

std::chrono::milliseconds SpareReplacer::wait_for(const std::string& what,
                                                  Milliseconds time) {
  bool news = false;
  {
    MutexLock lock(mu_);
    news = waits_for_ != what;
    waits_for_ = what;
  }
  if (news) tell(LogLevel::warning, "waits: " + what);
  return time;
}

void SpareReplacer::tell(LogLevel level, const std::string& text) {
  log_(level, "replace SPARE: " + text);
  MutexLock lock(mu_);
  events_.push_back({clock_.unix_seconds(), text});
  if (events_.size() > kSpareEvents) events_.pop_front();
}

ReplaceState SpareReplacer::state() const {
  MutexLock lock(mu_);
  return state_;
}

ReplaceState SpareReplacer::ended(ReplacePhase phase,
                                  const std::string& reason) const {
  ReplaceState out = state();
  out.phase = phase;
  out.reason = reason;
  out.changed = clock_.unix_seconds();
  return out;
}

void SpareReplacer::set_state(ReplaceState state) {
  MutexLock lock(mu_);
  state_ = std::move(state);
  waits_for_.clear();
}

void SpareReplacer::wake() {
  MutexLock lock(mu_);
  woken_ = true;
  changed_.notify_all();
}

}  // namespace nbd_remap
