#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NbdConnection: one connection to an NBD server, shared by any number of
// threads. A thread of its own owns the libnbd handle, sends the requests of
// all callers without waiting for earlier answers, and wakes each caller when
// its answer is there.
//
// Death       A connection that is lost, breaks the protocol or leaves a
//             request unanswered until its deadline is dead for good: the
//             handle is closed, and only then is every request in flight failed
//             (ENOTCONN; ETIMEDOUT for the late ones). So no late answer is
//             ever written into a buffer that its caller has back. Requests
//             that come later fail at once.
// Hostility   Nothing the server sends is believed without a check: a read must
//             be covered by data, extents are counted and capped, texts are
//             cleaned before they are shown.
// Threads     run(): any, at once. give_up(): any, at any time after start().
//             connect(), start(), begin_stop(), finish_stop(), destruction: one
//             thread, with no run() under way.
// Waits       connect(): until the given time, plus the system's own time-outs
//             of looking up a host name. run(): the deadline. finish_stop() and
//             destruction: 2 s after begin_stop().

#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "plugins/backend/backend.hpp"
#include "plugins/backend/nbd_handle.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {

// One request on the wire. Lives with the caller, untouched by anyone else
// before run() and after it.
struct NbdRequest {
  enum class Op { read, write, flush, zero, trim, cache, extents };

  Op op = Op::flush;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::byte* buffer = nullptr;      // Op::read: length bytes
  const std::byte* data = nullptr;  // Op::write: length bytes
  std::uint32_t flags = 0;          // LIBNBD_CMD_FLAG_*
  // Op::extents: the server's answer from offset on. None has length 0, but
  // there may be none at all, and they may go on beyond offset + length.
  std::vector<Extent> extents;

  // The rest is the connection's.
  class NbdConnection* connection = nullptr;
  boost::intrusive::list_member_hook<> hook;  // in one list at a time
  std::chrono::steady_clock::time_point deadline;
  std::uint64_t covered = 0;  // bytes of a read that came so far
  bool extents_complete = false;
  int errnum = 0;
  bool done = false;
  CondVar answered;
};

class NbdConnection {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Connects and negotiates. `name` stands for the URI in errors: class caller
  // for a URI that libnbd refuses, transport for anything else.
  static Result<std::unique_ptr<NbdConnection>> connect(
      const std::string& uri, const std::string& name,
      std::chrono::milliseconds request_deadline, Time until);
  ~NbdConnection();

  const NbdExport& remote() const { return remote_; }
  // Starts the thread. `on_death` is called by it, once, if the connection
  // dies; with no lock held, before any caller hears of it.
  Status start(const std::string& name, std::function<void()> on_death);
  // 0 or an errno: of the server's reply, or ENOTCONN, ETIMEDOUT, EPROTO.
  int run(NbdRequest& request) EXCLUDES(mu_);
  // Refuses later requests and kills the connection; does not wait for that.
  void give_up(const std::string& reason) EXCLUDES(mu_);
  // Lets the thread say goodbye to the server.
  void begin_stop() EXCLUDES(mu_);
  // Waits for it. Destruction does both.
  void finish_stop();
  // Why the connection is dead; empty while it is not.
  std::string why_dead() const EXCLUDES(mu_);

 private:
  // No allocation: a full memory cannot lose a request.
  using List = boost::intrusive::list<
      NbdRequest,
      boost::intrusive::member_hook<
          NbdRequest, boost::intrusive::list_member_hook<>, &NbdRequest::hook>>;
  enum class Order { serve, give_up, stop };

  NbdConnection(NbdHandle handle, UniqueFd wake,
                std::chrono::milliseconds request_deadline);

  void wake_up() REQUIRES(mu_);
  void serve() EXCLUDES(mu_);
  void serve_until_told() EXCLUDES(mu_);
  Order take_requests() EXCLUDES(mu_);
  void issue(NbdRequest& request);
  // One turn: waits for the socket, the eventfd or the next deadline.
  void wait_and_move();
  bool oldest_is_late(Time now) const;
  void finish(NbdRequest& request, int errnum);
  void publish() EXCLUDES(mu_);
  void die(std::string_view reason) EXCLUDES(mu_);
  void say_goodbye();
  static int on_completion(void* user_data, int* error);
  static int on_chunk(void* user_data, const void* data, std::size_t count,
                      std::uint64_t offset, unsigned status, int* error);
  static int on_extents(void* user_data, const char* context,
                        std::uint64_t offset, std::uint32_t* entries,
                        std::size_t count, int* error);

  const std::chrono::milliseconds request_deadline_;
  const UniqueFd wake_;  // eventfd
  const NbdExport remote_;
  std::function<void()> on_death_;

  // The thread's own, once it runs.
  NbdHandle handle_;
  List taken_;                  // not yet given to libnbd
  List in_flight_;              // oldest first
  List finished_;               // not yet told to their callers
  std::string libnbd_message_;  // of the last call that failed
  const char* lie_ = nullptr;   // seen by a callback; ends the connection

  mutable Mutex mu_;
  List queue_ GUARDED_BY(mu_);
  bool woken_ GUARDED_BY(mu_) = false;
  bool stop_ GUARDED_BY(mu_) = false;
  bool dead_ GUARDED_BY(mu_) = false;
  std::string why_dead_ GUARDED_BY(mu_);  // or why it shall die

  std::jthread thread_;  // last: joined before the rest goes
};

}  // namespace nbd_remap
