#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NbdLink: the way to one export over one or several connections, which comes
// back when it is lost.
//
// Loss        When one connection dies all are taken down: the server may have
//             lost the unflushed writes it took on that one. A thread of the
//             link connects anew, with back-off, for as long as the link
//             lives. Requests wait meanwhile; those that were on the wire are
//             sent again, each within its own deadline. Once the link has been
//             down for the whole time-out, requests fail at once until it is
//             back.
// Identity    A server that comes back with another size, with less than it
//             offered, or that options.check does not accept, is not used: the
//             link has failed, for good.
// Replay      What was acked and not flushed is written again before any
//             request goes on (NbdJournal). An ack counts only if it came over
//             connections that are still up when it is noted; else the request
//             is sent again. So no older write covers a newer one that was
//             acked before it was sent, and a flush that succeeds covers all
//             that was acked before it, on whatever connection.
// Doubt       What cannot be written again is in doubt: the ranges read as a
//             medium error, and flush and FUA fail, until the backend is opened
//             anew. So they do after the server answered a flush with an error.
// Bound       The journal: at half of it the link flushes by itself, at the
//             whole of it writes wait for that.
// Limit       A server that still works on a request of a connection it has
//             lost may do it after newer ones. NBD has no remedy.
// Threads     run(): any, at once. connect(), start(), destruction: one thread,
//             with no run() under way.
// Waits       run(): the time-out. Destruction: 2 s, and the resolver's own
//             time-outs while a host's name is looked up.
// Lock order  mu_; a connection's own is never taken while it is held.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "plugins/backend/nbd_connection.hpp"
#include "plugins/backend/nbd_journal.hpp"
#include "plugins/backend/open_backend.hpp"

namespace nbd_remap {

struct NbdOutcome {
  int errnum = 0;          // 0: done
  bool transport = false;  // the errno is no answer of the disk
  std::string why;         // more about it; may be empty
};
// What a request is given to.
class NbdChannel {
 public:
  virtual ~NbdChannel() = default;
  virtual NbdOutcome run(NbdRequest& request) = 0;
  // Some of what was written may not be there.
  virtual bool in_doubt() const { return false; }
};

// Several connections to one export, alive or dead together.
struct NbdConnections {
  ~NbdConnections();
  NbdConnection& next() {
    return *all[turn.fetch_add(1, std::memory_order_relaxed) % all.size()];
  }
  void give_up(const std::string& why);

  std::atomic<bool> dead{false};
  std::atomic<std::size_t> turn{0};
  std::vector<std::unique_ptr<NbdConnection>> all;
};

class NbdLink final : public NbdChannel {
 public:
  struct Options {
    std::string uri;
    std::string name;  // stands for the URI in texts
    unsigned connections = 1;
    std::chrono::milliseconds timeout{};
    LogSink log;
    std::shared_ptr<RemoteCounters> counters;
    // See OpenOptions::on_reconnect; may be empty.
    std::function<Status(NbdConnection& fresh, const NbdExport& remote)> check;
  };
  using Time = std::chrono::steady_clock::time_point;

  static Result<std::unique_ptr<NbdLink>> connect(Options options);
  ~NbdLink() override;

  const NbdExport& remote() const { return remote_; }
  // Starts the threads. From then on unflushed writes are kept if `journaled`;
  // block: what a write is cut into when a part of it cannot be replayed.
  Status start(bool journaled, std::uint32_t block);
  NbdOutcome run(NbdRequest& request) override EXCLUDES(mu_);
  bool in_doubt() const override { return doubtful_; }

 private:
  using Connections = std::shared_ptr<NbdConnections>;
  struct Range {
    std::uint64_t offset;
    std::uint64_t length;
  };
  enum class Attempt { done, again, never };

  NbdLink(Options options, Connections first);

  static Result<Connections> open(const Options& options,
                                  const NbdPatience& patience);
  Status start_threads(const Connections& set);

  // Requests (nbd_link.cpp).
  Connections usable(const NbdRequest& request, std::uint64_t& mark,
                     NbdOutcome& outcome) EXCLUDES(mu_);
  bool take_room(std::uint64_t bytes, Time until) EXCLUDES(mu_);
  void give_room(std::uint64_t bytes) EXCLUDES(mu_);
  bool settle(const NbdRequest& request, int errnum, const Connections& set,
              std::uint64_t mark, const NbdJournal::Copy& copy) EXCLUDES(mu_);
  void lost(NbdConnections& set, const std::string& why) EXCLUDES(mu_);
  bool wants_flush() const REQUIRES(mu_);
  std::string why_down() const REQUIRES(mu_);
  void doubt(const char* why) REQUIRES(mu_);

  // The keeper's thread (nbd_keeper.cpp).
  void keep() EXCLUDES(mu_);
  void flush_in_background() EXCLUDES(mu_);
  void reconnect() EXCLUDES(mu_);
  bool back_off(std::chrono::milliseconds delay) EXCLUDES(mu_);
  Attempt try_once() EXCLUDES(mu_);
  Attempt fail(const std::string& why) EXCLUDES(mu_);
  Attempt not_yet(const std::string& why) EXCLUDES(mu_);
  bool replay(NbdConnections& set, std::uint64_t& bytes) EXCLUDES(mu_);
  bool replay_in_parts(NbdConnections& set, const NbdJournal::Piece& piece)
      EXCLUDES(mu_);
  void fill(NbdRequest& request, const NbdJournal::Piece& piece) const;
  void log(LogLevel level, const std::string& text) const;

  const Options options_;
  const NbdExport remote_;
  bool journaled_ = false;  // with the next: constant after start()
  std::uint32_t block_ = 0;
  std::vector<std::byte> zeroes_;
  const UniqueFd wake_;  // eventfd: ends a connecting
  std::atomic<bool> stop_{false};
  std::atomic<bool> doubtful_{false};

  mutable Mutex mu_;
  CondVar up_;                           // current_ or failed_ was set
  CondVar room_;                         // the journal has shrunk
  CondVar keeper_;                       // there is work for the keeper
  Connections current_ GUARDED_BY(mu_);  // null while the link is down
  Connections fresh_ GUARDED_BY(mu_);    // not in use yet
  Connections grave_ GUARDED_BY(mu_);    // the keeper buries it
  Time up_since_ GUARDED_BY(mu_);
  Time down_since_ GUARDED_BY(mu_);
  std::string why_ GUARDED_BY(mu_);     // the link is down
  std::string failed_ GUARDED_BY(mu_);  // not empty: for good
  std::string doubt_ GUARDED_BY(mu_);   // why flush and FUA fail
  std::vector<Range> lost_ranges_ GUARDED_BY(mu_);
  NbdJournal journal_ GUARDED_BY(mu_);
  std::uint64_t reserved_ GUARDED_BY(mu_) = 0;
  bool room_wanted_ GUARDED_BY(mu_) = false;
  bool flush_fails_ GUARDED_BY(mu_) = false;
  std::chrono::milliseconds lived_ GUARDED_BY(mu_){0};  // before the last loss

  std::chrono::milliseconds delay_{0};  // the keeper's own: its back-off
  bool told_ = false;                   // the keeper's own: gave up waiting

  std::thread thread_;
};

}  // namespace nbd_remap
