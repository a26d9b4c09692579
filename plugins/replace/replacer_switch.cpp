// SPDX-License-Identifier: BSD-3-Clause
// How a replacement ends: by the switch, by an owner's wish, or because the
// new disk failed.
#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "plugins/base/tool_text.hpp"
#include "plugins/replace/replacer.hpp"

namespace nbd_remap {
namespace {

constexpr std::chrono::milliseconds kSlice{250};

}  // namespace

std::chrono::milliseconds Replacer::switch_step() {
  const auto map = this->map();
  std::unique_ptr<Backend> old;  // closed when clients run again
  bool more = false;
  Status status =
      volume_.alone(kDrain, [&](Disk& main) REQUIRES(work_mu_) -> Status {
        if (map->next()) {
          more = true;
          return {};
        }
        if (main.in_doubt())
          return make_error(EIO,
                            main.info().name +
                                ": an earlier flush failed, so nobody knows "
                                "what it holds; start the server anew");
        Status ready = main.flush();
        if (ready) ready = mirror_->next().flush();
        if (!ready) return ready;
        // A server that starts after this may find either disk in the
        // superblock.
        mirror_->next().must_have(true);
        ready = volume_.set_main(next_->info().identity, next_bytes_);
        if (!ready) {
          if (ready.error().error_class != ErrorClass::caller)
            undecided_ = true;
          mirror_->next().must_have(undecided_);
          return ready;
        }
        main.exchange(
            [&](std::unique_ptr<Backend>& present) REQUIRES(work_mu_) {
              old = std::move(present);
              return next_->release();
            },
            true, next_counters_);
        return {};
      });
  if (more) return Milliseconds(0);
  if (!status) {
    if (mirror_->next().lost() && !undecided_) return Milliseconds(0);
    return wait_for(
        undecided_ ? "SPARE failed while it noted the switch; both disks are "
                     "written until it is back, or the server starts anew: " +
                         error_words(status.error())
                   : error_words(status.error()),
        kPeriod);
  }
  undecided_ = false;
  mirror_ = nullptr;
  next_.reset();
  set_phase(ReplacePhase::switched, "");
  {
    MutexLock lock(mu_);
    map_.reset();
  }
  old.reset();
  fold_at_ = 0;
  fold_tested_ = false;
  tell(LogLevel::info, fmt::format("{} is MAIN now, {} is no longer used",
                                   state_words().next, state_words().old));
  // If this is lost the superblock tells the next server.
  if (const Status noted = save({}, true); !noted)
    log_(LogLevel::warning, "replace: " + noted.error().text());
  return Milliseconds(0);
}

// Blocks on SPARE go to the new disk, which can hold them; and what became
// unreadable on the old one after it was copied is readable there.
std::chrono::milliseconds Replacer::fold_step() {
  const std::uint64_t size = volume_.size();
  const MapAction action = fold_tested_ ? MapAction::retest : MapAction::unmap;
  const MapStep step =
      volume_.map_step(action, VolumeOffset{fold_at_}, size - fold_at_, kSlice);
  fold_at_ = step.next.value;
  if (!step.status) return wait_for(error_words(step.status.error()), kPeriod);
  gets_on();
  if (fold_at_ < size) return Milliseconds(0);
  fold_at_ = 0;
  if (!std::exchange(fold_tested_, true)) return Milliseconds(0);
  set_phase(ReplacePhase::done, "");
  if (const Status noted = save({}, true); !noted) {
    set_phase(ReplacePhase::switched, "");
    return wait_for(error_words(noted.error()), kPeriod);
  }
  const VolumeStatus now = volume_.status();
  tell(LogLevel::info,
       fmt::format("done; {} blocks with unreadable sectors stay on SPARE",
                   now.store.remapped));
  return kIdle;
}

std::chrono::milliseconds Replacer::lost_step() {
  const Error why = mirror_->next().why_lost();
  if (undecided_)
    return wait_for(
        "the new disk failed while SPARE has not decided which is "
        "MAIN: " +
            error_words(why),
        kIdle);
  if (why.error_class == ErrorClass::medium) {
    const Status ended = end_copying(
        ReplacePhase::failed, "the new disk is bad: " + error_words(why));
    if (ended) return kIdle;
    return wait_for(error_words(ended.error()), kPeriod);
  }
  paused_ = true;
  return wait_for(
      "the new disk is lost, begin again with it to go on: " + error_words(why),
      kIdle);
}

Status Replacer::abort() {
  const Wish wish(*this);
  MutexLock lock(work_mu_);
  if (phase() != ReplacePhase::copying)
    return make_error(
        ErrorClass::caller, ENOENT,
        phase() == ReplacePhase::switched
            ? "MAIN is replaced already, and cannot be had back so"
            : "MAIN is not being replaced");
  if (undecided_)
    return make_error(ErrorClass::caller, EBUSY,
                      "SPARE has not decided which disk is MAIN: start the "
                      "server anew");
  return end_copying(ReplacePhase::aborted, "its owner ended it");
}

// Durable first: a server that starts later must not go on with it.
Status Replacer::end_copying(ReplacePhase to, const std::string& reason) {
  set_phase(to, reason);
  if (Status noted = map()->save_all(); !noted) {
    set_phase(ReplacePhase::copying, "");
    return noted;
  }
  tell(to == ReplacePhase::failed ? LogLevel::error : LogLevel::info,
       reason + "; MAIN stays what it was");
  paused_ = false;
  (void)detach();
  return {};
}

bool Replacer::detach() {
  const Status status =
      volume_.alone(kDrain, [&](Disk& main) REQUIRES(work_mu_) -> Status {
        main.exchange(
            [&](std::unique_ptr<Backend>& present) REQUIRES(work_mu_) {
              auto was = std::move(mirror_->present());
              present.reset();
              return was;
            },
            false, nullptr);
        return {};
      });
  if (!status) return false;
  mirror_ = nullptr;
  drop_next();
  MutexLock lock(mu_);
  map_.reset();
  return true;
}

void Replacer::drop_next() {
  if (next_ && next_->hangs()) hanging_.push_back(std::move(next_));
  next_.reset();
}

}  // namespace nbd_remap
