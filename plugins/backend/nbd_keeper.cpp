// SPDX-License-Identifier: BSD-3-Clause
// The keeper's half of NbdLink: flush in the background, connect anew, check
// who is there, write again what was not flushed.

#include <fmt/format.h>
#include <libnbd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <new>
#include <system_error>
#include <utility>

#include "plugins/backend/nbd_link.hpp"

namespace nbd_remap {
namespace {

using Op = NbdRequest::Op;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstDelay{20};
constexpr milliseconds kLongestDelay{1000};
// Connections that lived shorter than this do not count as being back.
constexpr milliseconds kGoodLife{1000};
// Nobody waits for a flush in the background, and it may have much to do.
constexpr std::chrono::minutes kBackgroundFlush{5};
constexpr std::size_t kReplayWindow = 64;
constexpr std::uint64_t kReplayZeroesBytes = 1U << 20;

// What a server that is back takes away of what it offered; empty if nothing.
std::string less_than(const NbdExport& before, const NbdExport& now) {
  if (now.size_bytes != before.size_bytes)
    return fmt::format("its size is {} now, and was {}", now.size_bytes,
                       before.size_bytes);
  if (now.read_only && !before.read_only) return "it is read-only now";
  if (now.minimum_block > before.minimum_block)
    return fmt::format("its minimum block size is {} now, and was {}",
                       now.minimum_block, before.minimum_block);
  if (now.maximum_payload != before.maximum_payload)
    return fmt::format("its maximum block size is {} now, and was {}",
                       now.maximum_payload, before.maximum_payload);
  struct Offer {
    const char* name;
    bool before;
    bool now;
  };
  for (const Offer& offer :
       {Offer{"FLUSH", before.can_flush, now.can_flush},
        Offer{"FUA", before.can_fua, now.can_fua},
        Offer{"WRITE_ZEROES", before.can_zero, now.can_zero},
        Offer{"fast zeroes", before.can_fast_zero, now.can_fast_zero},
        Offer{"TRIM", before.can_trim, now.can_trim},
        Offer{"CACHE", before.can_cache, now.can_cache},
        Offer{"multi-conn", before.can_multi_conn, now.can_multi_conn},
        Offer{"block status", before.has_extents, now.has_extents}})
    if (offer.before && !offer.now)
      return fmt::format("it does not offer {} any more", offer.name);
  return {};
}

}  // namespace

Status NbdLink::start(bool journaled, std::uint32_t block) {
  journaled_ = journaled;
  block_ = block;
  if (!remote_.can_zero) zeroes_.resize(kReplayZeroesBytes);
  Connections first;
  {
    MutexLock lock(mu_);
    first = current_;
    up_since_ = steady_clock::now();
  }
  if (Status started = start_threads(first); !started) return started;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  Status status;
  try {
    thread_ = std::thread([this] { keep(); });
    pthread_setname_np(thread_.native_handle(), "nbd-keeper");
  } catch (const std::system_error& e) {
    status = make_error(e.code().value(), options_.name + ": start a thread");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

NbdLink::~NbdLink() {
  Connections fresh;
  {
    MutexLock lock(mu_);
    stop_ = true;
    fresh = fresh_;
    keeper_.notify_one();
  }
  eventfd_write(wake_.get(), 1);
  if (fresh) fresh->give_up("closing");
  if (thread_.joinable()) thread_.join();
  // Here, while all that their threads may still touch is there.
  Connections last;
  Connections buried;
  MutexLock lock(mu_);
  last.swap(current_);
  buried.swap(grave_);
}

void NbdLink::keep() {
  while (!stop_) {
    Connections buried;
    bool up = false;
    {
      MutexLock lock(mu_);
      while (!stop_ && !(current_ ? wants_flush() : failed_.empty()))
        keeper_.wait(mu_);
      if (stop_) return;
      buried.swap(grave_);
      up = current_ != nullptr;
    }
    buried.reset();
    try {
      if (up)
        flush_in_background();
      else
        reconnect();
    } catch (const std::bad_alloc&) {
      back_off(kLongestDelay);
    }
  }
}

void NbdLink::flush_in_background() {
  Connections set;
  std::uint64_t mark = 0;
  {
    MutexLock lock(mu_);
    if (!current_) return;
    set = current_;
    mark = journal_.mark();
  }
  NbdRequest request;
  request.deadline = steady_clock::now() + kBackgroundFlush;
  NbdConnection& connection = set->next();
  const int errnum = connection.run(request);
  if (request.lost || errnum == ESHUTDOWN)
    lost(*set,
         request.lost ? connection.why_dead() : "the server is shutting down");
  else
    settle(request, errnum, set, mark, {});
}

// Waits; false when it is time to stop.
bool NbdLink::back_off(milliseconds delay) {
  const Time until = steady_clock::now() + delay;
  MutexLock lock(mu_);
  while (!stop_ && steady_clock::now() < until) keeper_.wait_until(mu_, until);
  return !stop_;
}

void NbdLink::reconnect() {
  {
    MutexLock lock(mu_);
    if (lived_ >= kGoodLife) delay_ = milliseconds(0);
    log(LogLevel::warning,
        fmt::format("connection lost: {}; trying again for "
                    "as long as it takes, requests wait up "
                    "to {:.1f} s",
                    why_, static_cast<double>(options_.timeout.count()) / 1e3));
  }
  told_ = false;
  for (;;) {
    if (!back_off(delay_)) return;
    delay_ = std::clamp(delay_ * 2, kFirstDelay, kLongestDelay);
    if (try_once() != Attempt::again) return;
  }
}

NbdLink::Attempt NbdLink::not_yet(const std::string& why) {
  MutexLock lock(mu_);
  fresh_.reset();
  why_ = why;
  if (!told_ && steady_clock::now() >= down_since_ + options_.timeout) {
    told_ = true;
    log(LogLevel::error, why_down() + "; requests fail until it is back");
  }
  return stop_ ? Attempt::never : Attempt::again;
}

NbdLink::Attempt NbdLink::fail(const std::string& why) {
  MutexLock lock(mu_);
  fresh_.reset();
  failed_ = why;
  log(LogLevel::error,
      "connected again, but this server cannot be used until a restart: " +
          why);
  up_.notify_all();
  room_.notify_all();
  return Attempt::never;
}

NbdLink::Attempt NbdLink::try_once() {
  NbdPatience patience;
  // Half, so that a request may live to see a second attempt.
  patience.until =
      steady_clock::now() + std::max(options_.timeout / 2, milliseconds(100));
  patience.wake_fd = wake_.get();
  patience.cancelled = &stop_;
  Result<Connections> opened = open(options_, patience);
  if (!opened) return not_yet(opened.error().place);
  const Connections set = *std::move(opened);
  const NbdExport& now = set->all.front()->remote();
  const std::string less = less_than(remote_, now);
  if (!less.empty()) return fail(less);
  {
    MutexLock lock(mu_);
    if (stop_) return Attempt::never;
    fresh_ = set;
  }
  if (Status started = start_threads(set); !started)
    return not_yet(started.error().place);
  if (options_.check) {
    const Status checked = options_.check(*set->all.front(), remote_);
    if (!checked && checked.error().error_class == ErrorClass::transport)
      return not_yet(checked.error().place);
    if (!checked) return fail(checked.error().place);
  }
  std::uint64_t bytes = 0;
  if (!replay(*set, bytes)) return not_yet(set->all.front()->why_dead());
  std::chrono::duration<double> down{};
  if (set->dead) return not_yet(set->all.front()->why_dead());
  {
    MutexLock lock(mu_);
    fresh_.reset();
    // Before any request succeeds because of it.
    if (options_.counters) {
      options_.counters->connected = true;
      ++options_.counters->reconnects;
      options_.counters->replayed_bytes += bytes;
    }
    // From here on a death is seen by lost().
    current_ = set;
    up_since_ = steady_clock::now();
    down = up_since_ - down_since_;
    up_.notify_all();
    room_.notify_all();
  }
  log(LogLevel::warning,
      fmt::format("connection back after {:.3f} s, {} bytes written again",
                  down.count(), bytes));
  return Attempt::done;
}

void NbdLink::fill(NbdRequest& request, const NbdJournal::Piece& piece) const {
  request.op = piece.copy || !remote_.can_zero ? Op::write : Op::zero;
  request.offset = piece.offset;
  request.length = piece.length;
  request.flags = piece.flags;
  request.data = piece.copy ? piece.copy->data() + piece.from : zeroes_.data();
  if (request.op == Op::write) request.flags &= ~LIBNBD_CMD_FLAG_NO_HOLE;
  request.deadline = steady_clock::now() + options_.timeout;
}

// The pieces do not overlap, so they go out together. False when the
// connection did not outlive it.
bool NbdLink::replay(NbdConnections& set, std::uint64_t& bytes) {
  std::vector<NbdJournal::Piece> pieces;
  {
    MutexLock lock(mu_);
    pieces = journal_.pieces();
  }
  struct Sent {
    NbdRequest request;
    NbdConnection* connection = nullptr;
    NbdJournal::Piece piece;
  };
  std::deque<Sent> window;
  bool fine = true;
  std::vector<NbdJournal::Piece> refused;
  const auto take_answer = [&] {
    Sent& oldest = window.front();
    const int errnum = oldest.connection->wait(oldest.request);
    if (oldest.request.lost || errnum == ESHUTDOWN)
      fine = false;
    else if (errnum != 0)
      refused.push_back(oldest.piece);
    else
      bytes += oldest.piece.length;
    window.pop_front();
  };
  const auto send = [&](const NbdJournal::Piece& piece) {
    if (window.size() >= kReplayWindow) take_answer();
    if (!fine) return;
    Sent& sent = window.emplace_back();
    sent.piece = piece;
    fill(sent.request, piece);
    sent.connection = &set.next();
    sent.connection->begin(sent.request);
  };
  try {
    for (const NbdJournal::Piece& piece : pieces) {
      if (piece.copy || remote_.can_zero) {
        send(piece);
        continue;
      }
      NbdJournal::Piece part = piece;
      for (std::uint64_t done = 0; done < piece.length; done += part.length) {
        part.offset = piece.offset + done;
        part.length = std::min(kReplayZeroesBytes, piece.length - done);
        send(part);
      }
    }
  } catch (const std::bad_alloc&) {
    fine = false;
  }
  // Their buffers are in use until then.
  while (!window.empty()) take_answer();
  for (const NbdJournal::Piece& piece : refused)
    if (fine) fine = replay_in_parts(set, piece);
  return fine;
}

// A piece that the server refused: what can be written is, a block at a time
// where the medium is bad; the rest is lost. False when the connection is.
bool NbdLink::replay_in_parts(NbdConnections& set,
                              const NbdJournal::Piece& piece) {
  NbdRequest request;
  fill(request, piece);
  const int errnum = set.next().run(request);
  if (request.lost) return false;
  if (errnum == 0) return true;
  if (errnum == EIO && piece.length > block_) {
    NbdJournal::Piece head = piece;
    head.length = round_up(piece.length / 2, block_);
    NbdJournal::Piece tail = piece;
    tail.offset += head.length;
    tail.from += head.length;
    tail.length -= head.length;
    return replay_in_parts(set, head) && replay_in_parts(set, tail);
  }
  MutexLock lock(mu_);
  // Reads see an error, not what was there before.
  lost_ranges_.push_back({piece.offset, piece.length});
  doubtful_ = true;
  if (journal_.known_bad(piece.offset, piece.length)) return true;
  doubt(
      "unflushed writes were lost with the server's cache, and could not be "
      "written again");
  log(LogLevel::error,
      fmt::format("cannot write {} bytes at {} again: FLUSH fails until a "
                  "restart",
                  piece.length, piece.offset));
  return true;
}

void NbdLink::log(LogLevel level, const std::string& text) const {
  if (options_.log) options_.log(level, options_.name + ": " + text);
}

}  // namespace nbd_remap
