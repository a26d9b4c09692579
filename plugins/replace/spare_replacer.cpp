// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/spare_replacer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "plugins/base/tool_text.hpp"

namespace nbd_remap {
namespace {

// A step copies for so long, and while clients are busy then rests as long.
constexpr std::chrono::milliseconds kSlotSlice{20};

}  // namespace

std::chrono::milliseconds SpareReplacer::step() {
  MutexLock lock(work_mu_);
  if (state().phase == ReplacePhase::copying) return copy_step();
  // Requests had not ended when it was to be taken away.
  if (mirror_ != nullptr && !detach()) return kPeriod;
  return kIdle;
}

std::chrono::milliseconds SpareReplacer::copy_step() {
  if (undecided_) return undecided_step();
  if (mirror_->next().lost()) {
    const Status done =
        end(ReplacePhase::failed,
            "the new disk failed: " + error_words(mirror_->next().why_lost()));
    return done ? kIdle : wait_for(error_words(done.error()), kPeriod);
  }
  const auto wanted = [this](SlotNo slot)
                          REQUIRES(work_mu_) { return !mirror_->holds(slot); };
  const auto copy = [this](const Volume::SlotContent& slot)
                        REQUIRES(work_mu_) { return copy_slot(slot); };
  const auto until = std::chrono::steady_clock::now() + kSlotSlice;
  do {
    const auto next = volume_.with_slot(cursor_, wanted, copy);
    if (!next) {
      if (mirror_->next().lost()) return Milliseconds(0);
      return wait_for(error_words(next.error()), kPeriod);
    }
    if (!*next) {
      // Behind the last; those before may have been taken since.
      if (std::exchange(cursor_, BlockNo{0}) == BlockNo{0})
        return switch_step();
      return Milliseconds(0);
    }
    cursor_ = **next;
  } while (std::chrono::steady_clock::now() < until && wishes_ == 0);
  {
    MutexLock lock(mu_);
    waits_for_.clear();
  }
  return volume_.in_flight() == 0 ? Milliseconds(0) : kSlotSlice;
}

// Nobody else writes there now.
Status SpareReplacer::copy_slot(const Volume::SlotContent& slot) {
  const SlotNo number = slot.entry.slot();
  if (mirror_->next().lost()) return mirror_->next().why_lost();
  if (mirror_->holds(number)) return {};
  Status written =
      next_->write(layout_.slot(number), slot.bytes, Durability::cached);
  if (!written) {
    mirror_->next().lose(written.error());
    return written;
  }
  const std::uint64_t lost = slot.entry.valid & ~slot.known;
  mirror_->copied(number, lost);
  MutexLock lock(mu_);
  copied_bytes_ += slot.bytes.size();
  if (lost == 0) return {};
  ++read_errors_;
  lost_sectors_ += static_cast<std::uint64_t>(std::popcount(lost));
  return {};
}

std::chrono::milliseconds SpareReplacer::switch_step() {
  std::unique_ptr<Backend> old;  // closed when clients run again
  Status why;
  Moved moved = Moved::no;
  bool more = false;
  const ReplaceState done = ended(ReplacePhase::done, "");
  const std::vector<std::byte> note = notes_.packed(pack_replace_state(done));
  options_.before_exchange();
  const Status status = volume_.alone_with_spare(
      kDrain, [&](Disk& spare, RemapStore& store) REQUIRES(work_mu_) -> Status {
        for (const RemapEntry& e : store.table().snapshot())
          more |= e.remapped() && !mirror_->holds(e.slot());
        if (more) return {};
        if (spare.in_doubt())
          return make_error(EIO, spare.info().name +
                                     ": an earlier flush failed, so nobody "
                                     "knows what it holds; start the server "
                                     "anew");
        if (Status flushed = spare.flush(); !flushed) return flushed;
        if (Status flushed = next_->flush(); !flushed) {
          mirror_->next().lose(flushed.error());
          return flushed;
        }
        MoveRequest request;
        request.lost = [this](SlotNo slot) REQUIRES(work_mu_) {
          return mirror_->lost_sectors(slot);
        };
        request.beside = [&]() REQUIRES(work_mu_) {
          return store.state_area()->copy_to(*next_, StateKind::replace, note);
        };
        // A server that starts after this may find either disk.
        request.decides = [this]() REQUIRES(work_mu_) {
          mirror_->next().must_have(true);
        };
        request.exchange = [&]() REQUIRES(work_mu_) {
          spare.exchange(
              [&](std::unique_ptr<Backend>& present) REQUIRES(work_mu_) {
                old = std::move(present);
                mirror_ = nullptr;
                return next_->release();
              },
              true, counters_);
        };
        moved = store.move_to(*next_, request, why);
        return moved == Moved::yes ? Status() : why;
      });
  options_.after_exchange(volume_.status().store.superblock);
  if (moved == Moved::yes) {
    if (!why) log_(LogLevel::error, "replace: " + error_words(why.error()));
    return switched();
  }
  if (more || (status && moved == Moved::no)) return Milliseconds(0);
  if (moved == Moved::next_failed) mirror_->next().lose(status.error());
  undecided_ = moved == Moved::undecided;
  if (mirror_->next().lost() && !undecided_) return Milliseconds(0);
  return wait_for(
      undecided_ ? "the old SPARE failed while it noted the switch; both disks "
                   "are written until it is back, or the server starts anew: " +
                       error_words(status.error())
                 : error_words(status.error()),
      kPeriod);
}

// A log that is resumed has written that the old disk is SPARE.
std::chrono::milliseconds SpareReplacer::undecided_step() {
  const Status back = volume_.alone_with_spare(
      kDrain, [](Disk&, RemapStore& store) { return store.resume(); });
  if (!back) return kPeriod;
  undecided_ = false;
  mirror_->next().must_have(false);
  tell(LogLevel::info, "the old disk still is SPARE, tried again");
  return Milliseconds(0);
}

std::chrono::milliseconds SpareReplacer::switched() {
  set_state(ended(ReplacePhase::done, ""));
  next_.reset();
  if (adopted_) adopted_();
  adopted_ = nullptr;
  spec_ = state().next;
  tell(LogLevel::info, fmt::format("{} is SPARE now, {} is no longer used",
                                   state().next, state().old));
  // It is there already; only this server's copy of the notes is behind.
  if (const Status noted = note(state()); !noted)
    log_(LogLevel::warning, "replace: " + error_words(noted.error()));
  const Superblock now = volume_.status().store.superblock;
  if (now.growing_to_bytes == 0) return kIdle;
  const auto grown = volume_.grow_spare();
  if (!grown)
    tell(LogLevel::info, "the new SPARE is larger, but not used whole: " +
                             error_words(grown.error()));
  return kIdle;
}

Status SpareReplacer::abort() {
  ++wishes_;
  MutexLock lock(work_mu_);
  --wishes_;
  wake();
  if (state().phase != ReplacePhase::copying)
    return make_error(ErrorClass::caller, ENOENT,
                      "SPARE is not being replaced");
  if (undecided_)
    return make_error(ErrorClass::caller, EBUSY,
                      "it is not decided which disk is SPARE: start the server "
                      "anew");
  return end(ReplacePhase::aborted, "its owner ended it");
}

// Durable first: a server that starts later must not go on with it.
Status SpareReplacer::end(ReplacePhase phase, const std::string& reason) {
  const ReplaceState before = state();
  set_state(ended(phase, reason));
  if (Status noted = note(state()); !noted) {
    set_state(before);
    return noted;
  }
  tell(phase == ReplacePhase::failed ? LogLevel::error : LogLevel::info,
       reason + "; SPARE stays what it was");
  (void)detach();
  return {};
}

bool SpareReplacer::detach() {
  std::unique_ptr<Backend> mirror;
  const Status status = volume_.alone_with_spare(
      kDrain, [&](Disk& spare, RemapStore&) REQUIRES(work_mu_) -> Status {
        spare.exchange(
            [&](std::unique_ptr<Backend>& present) REQUIRES(work_mu_) {
              mirror = std::move(present);
              return std::move(mirror_->present());
            },
            false, nullptr);
        return {};
      });
  if (!status) return false;
  mirror_ = nullptr;
  mirror.reset();
  drop_next();
  return true;
}

void SpareReplacer::drop_next() {
  if (next_ && next_->hangs()) hanging_.push_back(std::move(next_));
  next_.reset();
}

}  // namespace nbd_remap
