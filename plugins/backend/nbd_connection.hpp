#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NbdConnection: one connection to an NBD server, shared by any number of
// threads. A caller puts its request on the wire itself; a thread of the
// connection's own takes the answers and wakes each caller when its answer is
// there. So nobody waits for earlier answers, and a request costs one wake-up.
//
// Death       A connection that is lost, breaks the protocol or leaves a
//             request unanswered until its deadline is dead for good: the
//             handle is closed, and only then is every request in flight ended
//             as lost. So no late answer is ever written into a buffer that
//             its caller has back. Requests that come later are lost at once.
// Hostility   Nothing the server sends is believed without a check: a read must
//             be covered by data, extents are counted and capped, texts are
//             cleaned before they are shown.
// Threads     begin(), wait(), run(), why_dead(): any, at once. give_up(): any,
//             at any time after start(). connect(), start(), begin_stop(),
//             finish_stop(), destruction: one thread, with no request under
//             way.
// Waits       connect(): as NbdPatience says. wait(): the request's deadline.
//             finish_stop() and destruction: 2 s after begin_stop().
// Lock order  mu_ is held while libnbd is called, and libnbd calls back; no
//             other lock is taken meanwhile.

#include <semaphore.h>

#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "plugins/backend/backend.hpp"
#include "plugins/backend/nbd_handle.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {

// One request on the wire. Lives with the caller; untouched by anyone else
// before begin() and after wait().
struct NbdRequest {
  enum class Op { read, write, flush, zero, trim, cache, extents };

  NbdRequest();
  ~NbdRequest();
  NbdRequest(const NbdRequest&) = delete;
  NbdRequest& operator=(const NbdRequest&) = delete;

  Op op = Op::flush;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::byte* buffer = nullptr;      // Op::read: length bytes
  const std::byte* data = nullptr;  // Op::write: length bytes
  bool zeroes = false;              // Op::write: data is nothing but zeroes
  std::uint32_t flags = 0;          // LIBNBD_CMD_FLAG_*
  std::chrono::steady_clock::time_point deadline;
  // Op::extents: what begins at offset, as the server says. It may go on beyond
  // offset + length; of length 0 if there was no answer.
  Extent extent;
  // No answer came, or none that can be believed: the server may have done
  // it, or not.
  bool lost = false;

  // The rest is the connection's.
  class NbdConnection* connection = nullptr;
  boost::intrusive::list_member_hook<> hook;  // in one list at a time
  std::uint64_t covered = 0;  // bytes of a read that came so far
  bool has_extent = false;
  bool ended = false;
  int errnum = 0;
  sem_t answered;  // its waiter may end it while it is still being posted
};

class NbdConnection {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // As connect_nbd_handle().
  static Result<std::unique_ptr<NbdConnection>> connect(
      const std::string& uri, const std::string& name,
      const NbdPatience& patience);
  ~NbdConnection();

  const NbdExport& remote() const { return remote_; }
  // Starts the thread. `on_death` is called by it, once, if the connection
  // dies; with no lock held, before any caller hears of it.
  Status start(const std::string& name, std::function<void()> on_death);
  // Puts it on the wire. REQUIRES: its deadline is set, and wait() follows.
  void begin(NbdRequest& request) EXCLUDES(mu_);
  // 0 or an errno: of the server's reply, or, if it is lost, ENOTCONN,
  // ETIMEDOUT or EPROTO.
  int wait(NbdRequest& request);
  int run(NbdRequest& request) EXCLUDES(mu_) {
    begin(request);
    return wait(request);
  }
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

  NbdConnection(NbdHandle handle, UniqueFd wake);

  void wake_up() REQUIRES(mu_);
  void serve() EXCLUDES(mu_);
  // Empty: told to stop. Else why the connection shall die.
  std::string serve_until_told() EXCLUDES(mu_);
  void issue(NbdRequest& request) REQUIRES(mu_);
  void add_in_flight(NbdRequest& request) REQUIRES(mu_);
  void move_on(short socket_events) REQUIRES(mu_);
  void remember_error() REQUIRES(mu_);
  void finish(NbdRequest& request, int errnum) REQUIRES(mu_);
  void publish(List& ended);
  void die(std::string_view reason) EXCLUDES(mu_);
  void say_goodbye() EXCLUDES(mu_);
  // libnbd calls these, and is only called with mu_ held.
  static int on_completion(void* user_data,
                           int* error) NO_THREAD_SAFETY_ANALYSIS;
  static int on_chunk(void* user_data, const void* data, std::size_t count,
                      std::uint64_t offset, unsigned status, int* error);
  static int on_extents(void* user_data, const char* context,
                        std::uint64_t offset, std::uint32_t* entries,
                        std::size_t count, int* error);

  const UniqueFd wake_;  // eventfd
  const NbdExport remote_;
  std::function<void()> on_death_;

  mutable Mutex mu_;
  NbdHandle handle_ GUARDED_BY(mu_);  // null once it is dead
  List in_flight_ GUARDED_BY(mu_);    // by deadline
  List finished_ GUARDED_BY(mu_);     // not yet told to their callers
  // Of the last libnbd call that failed.
  std::string libnbd_message_ GUARDED_BY(mu_);
  // Seen by a callback; ends the connection.
  const char* lie_ GUARDED_BY(mu_) = nullptr;
  unsigned polled_ GUARDED_BY(mu_) = 0;  // directions that the thread awaits
  Time wakes_by_ GUARDED_BY(mu_) = Time::max();  // the thread, by itself
  bool woken_ GUARDED_BY(mu_) = false;
  bool stop_ GUARDED_BY(mu_) = false;
  bool dead_ GUARDED_BY(mu_) = false;
  std::string why_dead_ GUARDED_BY(mu_);  // or why it shall die

  std::jthread thread_;  // last: joined before the rest goes
};

}  // namespace nbd_remap
