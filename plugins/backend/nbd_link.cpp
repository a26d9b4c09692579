// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_link.hpp"

#include <fmt/format.h>
#include <libnbd.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

namespace nbd_remap {
namespace {

using Op = NbdRequest::Op;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Of unflushed data that is kept; as much as two of the largest writes. Half
// of it is what a flush in the background has to bring to the server's disk.
constexpr std::uint64_t kJournalBytes = 64U << 20;
// Zeroes have no data, and small writes make a flush as long as large ones.
constexpr std::size_t kJournalCount = 32768;

bool overlap(std::uint64_t a, std::uint64_t a_length, std::uint64_t b,
             std::uint64_t b_length) {
  return a < b + b_length && b < a + a_length;
}

}  // namespace

// None goes while another one's thread may still report its death to it; all
// say goodbye at the same time.
NbdConnections::~NbdConnections() {
  for (const auto& connection : all) connection->begin_stop();
  for (const auto& connection : all) connection->finish_stop();
}

void NbdConnections::give_up(const std::string& why) {
  for (const auto& connection : all) connection->give_up(why);
}

NbdLink::NbdLink(Options options, Connections first)
    : options_(std::move(options)),
      remote_(first->all.front()->remote()),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      current_(std::move(first)) {}

Result<std::unique_ptr<NbdLink>> NbdLink::connect(Options options) {
  NbdPatience patience;
  patience.until = steady_clock::now() + options.timeout;
  Result<Connections> first = open(options, patience);
  if (!first) return std::move(first).error();
  std::unique_ptr<NbdLink> link(
      new NbdLink(std::move(options), *std::move(first)));
  if (!link->wake_) return make_error(errno, link->options_.name + ": eventfd");
  return link;
}

Result<NbdLink::Connections> NbdLink::open(const Options& options,
                                           const NbdPatience& patience) {
  auto set = std::make_shared<NbdConnections>();
  std::size_t wanted = 1;
  while (set->all.size() < wanted) {
    auto connection =
        NbdConnection::connect(options.uri, options.name, patience);
    if (!connection) {
      // A server may allow fewer connections than we like.
      if (!set->all.empty()) break;
      return std::move(connection).error();
    }
    const NbdExport& remote = (*connection)->remote();
    if (remote.can_multi_conn) wanted = std::max(options.connections, 1U);
    if (!set->all.empty() && remote != set->all.front()->remote())
      return make_error(
          ErrorClass::transport, EPROTO,
          options.name + ": two connections show different exports");
    set->all.push_back(*std::move(connection));
  }
  return set;
}

// One death is the death of all.
Status NbdLink::start_threads(const Connections& set) {
  for (const auto& connection : set->all) {
    Status started = connection->start(
        options_.name, [this, all = set.get(), dead = connection.get()] {
          lost(*all, dead->why_dead());
        });
    if (!started) return started;
  }
  return {};
}

void NbdLink::lost(NbdConnections& set, const std::string& why) {
  set.dead = true;
  set.give_up(why);
  {
    MutexLock lock(mu_);
    if (current_.get() != &set) return;
    grave_ = std::move(current_);
    current_.reset();
    down_since_ = steady_clock::now();
    lived_ = std::chrono::duration_cast<milliseconds>(down_since_ - up_since_);
    try {
      why_ = why;
    } catch (const std::bad_alloc&) {
      why_.clear();
    }
    if (options_.counters) options_.counters->connected = false;
    keeper_.notify_one();
  }
}

std::string NbdLink::why_down() const {
  if (!failed_.empty()) return failed_;
  const std::chrono::duration<double> down = steady_clock::now() - down_since_;
  return fmt::format("no connection for {:.1f} s: {}", down.count(), why_);
}

void NbdLink::doubt(const char* why) {
  doubtful_ = true;
  flush_fails_ = true;
  try {
    if (doubt_.empty()) doubt_ = why;
  } catch (const std::bad_alloc&) {
    // In doubt without a reason.
  }
}

// The connections to use, when there are any in time. Else empty, and the
// outcome.
NbdLink::Connections NbdLink::usable(const NbdRequest& request,
                                     std::uint64_t& mark, NbdOutcome& outcome) {
  MutexLock lock(mu_);
  for (;;) {
    if (doubtful_) {
      if (flush_fails_ &&
          (request.op == Op::flush || (request.flags & LIBNBD_CMD_FLAG_FUA))) {
        outcome = {EIO, true, doubt_};
        return {};
      }
      for (const Range& range : lost_ranges_)
        if (request.op == Op::read && overlap(range.offset, range.length,
                                              request.offset, request.length)) {
          outcome = {EIO, false, "lost with the server's cache"};
          return {};
        }
    }
    if (current_) {
      mark = journal_.mark();
      return current_;
    }
    const Time until =
        std::min(request.deadline, down_since_ + options_.timeout);
    if (!failed_.empty() || steady_clock::now() >= until) {
      outcome = {ENOTCONN, true, why_down()};
      return {};
    }
    up_.wait_until(mu_, until);
  }
}

bool NbdLink::wants_flush() const {
  return room_wanted_ || journal_.bytes() >= kJournalBytes / 2 ||
         journal_.count() >= kJournalCount / 2;
}

bool NbdLink::take_room(std::uint64_t bytes, Time until) {
  MutexLock lock(mu_);
  while (journal_.bytes() + reserved_ + bytes > kJournalBytes ||
         journal_.count() >= kJournalCount) {
    Time limit = until;
    if (!current_) limit = std::min(limit, down_since_ + options_.timeout);
    if (!failed_.empty() || steady_clock::now() >= limit) return false;
    room_wanted_ = !journal_.empty();
    if (room_wanted_) keeper_.notify_one();
    room_.wait_until(mu_, limit);
  }
  reserved_ += bytes;
  return true;
}

void NbdLink::give_room(std::uint64_t bytes) {
  MutexLock lock(mu_);
  reserved_ -= bytes;
  room_.notify_all();
}

// Notes the answer. False when the connections that gave it are gone: what the
// server acked it may have lost since, and it missed the replay.
bool NbdLink::settle(const NbdRequest& request, int errnum,
                     const Connections& set, std::uint64_t mark,
                     const NbdJournal::Copy& copy) {
  MutexLock lock(mu_);
  if (current_ != set) return false;
  const bool changes = request.op == Op::write || request.op == Op::zero;
  if (request.op == Op::flush) {
    if (errnum != 0) doubt("a flush failed: what was written is in doubt");
    // After a failure too: nothing that the server says later is about these.
    journal_.flushed(mark);
    room_wanted_ = false;
    room_.notify_all();
  } else if (changes && errnum == EIO) {
    journal_.failed(request.offset, request.length);
  } else if (changes && errnum == 0) {
    if (request.flags & LIBNBD_CMD_FLAG_FUA) {
      journal_.made_durable(request.offset, request.length);
      return true;
    }
    try {
      journal_.wrote(request.offset, request.length, copy,
                     request.flags & LIBNBD_CMD_FLAG_NO_HOLE);
    } catch (const std::bad_alloc&) {
      doubt("no memory to keep what is not flushed yet");
    }
    if (wants_flush()) keeper_.notify_one();
  }
  return true;
}

NbdOutcome NbdLink::run(NbdRequest& request) {
  // Gives back what a write took of the journal, however it ends.
  struct Room {
    NbdLink& link;
    std::uint64_t bytes = 0;
    ~Room() {
      if (bytes > 0) link.give_room(bytes);
    }
  };
  request.deadline = steady_clock::now() + options_.timeout;
  NbdOutcome outcome;
  Room room{*this};
  NbdJournal::Copy copy;
  const bool kept = journaled_ &&
                    (request.op == Op::write || request.op == Op::zero) &&
                    !(request.flags & LIBNBD_CMD_FLAG_FUA);
  if (kept) {
    const std::uint64_t bytes =
        request.op == Op::write && !request.zeroes ? request.length : 0;
    if (!take_room(bytes, request.deadline))
      return {ETIMEDOUT, true, "no flush of earlier writes in time"};
    room.bytes = bytes;
    if (bytes > 0)
      copy = std::make_shared<const std::vector<std::byte>>(
          request.data, request.data + request.length);
  }
  for (;;) {
    std::uint64_t mark = 0;
    const Connections set = usable(request, mark, outcome);
    if (!set) return outcome;
    NbdConnection& connection = set->next();
    const int errnum = connection.run(request);
    // A server that says it is going down is as good as gone.
    if (!request.lost && errnum == ESHUTDOWN) {
      lost(*set, "the server is shutting down");
    } else if (!request.lost) {
      if (!journaled_) return {errnum, false, {}};
      if (request.op == Op::read || settle(request, errnum, set, mark, copy))
        return {errnum, false, {}};
    } else {
      // Its thread says so too, but perhaps later.
      lost(*set, connection.why_dead());
    }
    if (steady_clock::now() >= request.deadline)
      return {ETIMEDOUT, true, connection.why_dead()};
  }
}

}  // namespace nbd_remap
