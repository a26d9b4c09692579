// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_connection.hpp"

#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kGoodbyeBound{2000};
constexpr milliseconds kIdle{5000};
// An answer to BLOCK_STATUS may be 64 MiB long; what is past this is not kept.

}  // namespace

NbdRequest::NbdRequest() { sem_init(&answered, 0, 0); }
NbdRequest::~NbdRequest() { sem_destroy(&answered); }

NbdConnection::NbdConnection(NbdHandle handle, UniqueFd wake)
    : wake_(std::move(wake)),
      remote_(ask_nbd_export(handle.get())),
      handle_(std::move(handle)) {}

NbdConnection::~NbdConnection() {
  begin_stop();
  finish_stop();
}

Result<std::unique_ptr<NbdConnection>> NbdConnection::connect(
    const std::string& uri, const std::string& name,
    const NbdPatience& patience) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return make_error(errno, name + ": eventfd");
  Result<NbdHandle> handle = connect_nbd_handle(uri, name, patience);
  if (!handle) return std::move(handle).error();
  return std::unique_ptr<NbdConnection>(
      new NbdConnection(*std::move(handle), std::move(wake)));
}

Status NbdConnection::start(const std::string& name,
                            std::function<void()> on_death) {
  on_death_ = std::move(on_death);
  // Signals are the host's business.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  Status status;
  try {
    thread_ = std::jthread([this] { serve(); });
    pthread_setname_np(thread_.native_handle(), "nbd-connection");
  } catch (const std::system_error& e) {
    status = make_error(e.code().value(), name + ": start a thread");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

void NbdConnection::begin(NbdRequest& request) {
  request.connection = this;
  request.lost = false;
  request.ended = false;
  request.covered = 0;
  request.extent = {};
  request.has_extent = false;
  MutexLock lock(mu_);
  if (dead_ || !why_dead_.empty()) {
    request.errnum = ENOTCONN;
    request.lost = true;
    sem_post(&request.answered);
    return;
  }
  add_in_flight(request);
  issue(request);
  // The thread looks after the rest, and must be told what it does not expect:
  // a socket that took only a part, an earlier deadline, the end of all.
  nbd_handle* h = handle_.get();
  if (!finished_.empty() || (nbd_aio_get_direction(h) & ~polled_) != 0 ||
      request.deadline < wakes_by_ || nbd_is_gone(h))
    wake_up();
}

int NbdConnection::wait(NbdRequest& request) {
  while (sem_wait(&request.answered) != 0) {
    // EINTR: the host's signals are not for us.
  }
  return request.errnum;
}

void NbdConnection::give_up(const std::string& reason) {
  MutexLock lock(mu_);
  if (dead_ || !why_dead_.empty()) return;
  why_dead_ = reason.empty() ? "gone" : reason;
  wake_up();
}

void NbdConnection::begin_stop() {
  MutexLock lock(mu_);
  stop_ = true;
  wake_up();
}

void NbdConnection::finish_stop() {
  if (thread_.joinable()) thread_.join();
}

std::string NbdConnection::why_dead() const {
  MutexLock lock(mu_);
  return why_dead_;
}

void NbdConnection::wake_up() {
  if (std::exchange(woken_, true)) return;
  eventfd_write(wake_.get(), 1);
}

void NbdConnection::serve() {
  try {
    const std::string reason = serve_until_told();
    if (reason.empty()) return say_goodbye();
    die(reason);
  } catch (const std::bad_alloc&) {
    die("out of memory");
  }
}

std::string NbdConnection::serve_until_told() {
  std::array<pollfd, 2> fds{{{-1, 0, 0}, {wake_.get(), POLLIN, 0}}};
  for (;;) {
    List ended;
    std::string reason;
    int timeout_ms = 0;
    {
      MutexLock lock(mu_);
      if (std::exchange(woken_, false)) {
        eventfd_t ignored = 0;
        eventfd_read(wake_.get(), &ignored);
      }
      nbd_handle* h = handle_.get();
      if (fds[0].revents != 0) move_on(fds[0].revents);
      const Time now = steady_clock::now();
      if (lie_)
        reason = lie_;
      else if (nbd_is_gone(h))
        reason = libnbd_message_.empty() ? "the server closed the connection"
                                         : libnbd_message_;
      else if (!in_flight_.empty() && in_flight_.front().deadline <= now)
        reason = "no answer in time";
      else if (!why_dead_.empty())
        reason = why_dead_;
      // A request that dies with the connection is lost: die() ends it.
      if (!reason.empty()) return reason;
      if (stop_) return {};
      ended.swap(finished_);
      fds[0] = {nbd_aio_get_fd(h), nbd_poll_events(h), 0};
      polled_ = nbd_aio_get_direction(h);
      // Awake now and then when idle: the next request need not wake it.
      wakes_by_ = now + kIdle;
      if (!in_flight_.empty())
        wakes_by_ = std::min(wakes_by_, in_flight_.front().deadline);
      timeout_ms = milliseconds_until(wakes_by_);
    }
    publish(ended);
    if (poll(fds.data(), fds.size(), timeout_ms) <= 0) fds[0].revents = 0;
  }
}

void NbdConnection::move_on(short socket_events) {
  if (!tell_nbd(handle_.get(), socket_events)) remember_error();
}

void NbdConnection::remember_error() {
  try {
    libnbd_message_ = nbd_error_line();
  } catch (const std::bad_alloc&) {
    // Dead without a reason.
  }
}

void NbdConnection::add_in_flight(NbdRequest& request) {
  auto at = in_flight_.end();
  while (at != in_flight_.begin() && std::prev(at)->deadline > request.deadline)
    --at;
  in_flight_.insert(at, request);
}

void NbdConnection::issue(NbdRequest& request) {
  nbd_handle* h = handle_.get();
  const nbd_completion_callback completion{on_completion, &request, nullptr};
  const auto offset = request.offset;
  const auto length = request.length;
  const auto flags = request.flags;
  std::int64_t cookie = -1;
  switch (request.op) {
    case NbdRequest::Op::read:
      cookie = nbd_aio_pread_structured(h, request.buffer, length, offset,
                                        {on_chunk, &request, nullptr},
                                        completion, flags);
      break;
    case NbdRequest::Op::write:
      cookie =
          nbd_aio_pwrite(h, request.data, length, offset, completion, flags);
      break;
    case NbdRequest::Op::flush:
      cookie = nbd_aio_flush(h, completion, flags);
      break;
    case NbdRequest::Op::zero:
      cookie = nbd_aio_zero(h, length, offset, completion, flags);
      break;
    case NbdRequest::Op::trim:
      cookie = nbd_aio_trim(h, length, offset, completion, flags);
      break;
    case NbdRequest::Op::cache:
      cookie = nbd_aio_cache(h, length, offset, completion, flags);
      break;
    case NbdRequest::Op::extents:
      cookie = nbd_aio_block_status(h, length, offset,
                                    {on_extents, &request, nullptr}, completion,
                                    flags);
      break;
  }
  if (cookie != -1) return;
  const int errnum = nbd_get_errno();
  remember_error();
  const bool gone = nbd_is_gone(h);
  if (request.ended) return;
  request.lost = gone;
  finish(request, gone ? ENOTCONN : errnum ? errnum : EINVAL);
}

void NbdConnection::finish(NbdRequest& request, int errnum) {
  request.errnum = errnum;
  request.ended = true;
  in_flight_.erase(in_flight_.iterator_to(request));
  finished_.push_back(request);
}

void NbdConnection::publish(List& ended) {
  while (!ended.empty()) {
    NbdRequest& request = ended.front();
    ended.pop_front();
    sem_post(&request.answered);  // the caller's from here on
  }
}

void NbdConnection::die(std::string_view reason) {
  List ended;
  {
    MutexLock lock(mu_);
    dead_ = true;
    const Time now = steady_clock::now();
    // From here on nothing can write into a caller's buffer.
    handle_.reset();
    while (!in_flight_.empty()) {
      NbdRequest& request = in_flight_.front();
      request.lost = true;
      finish(request, request.deadline <= now ? ETIMEDOUT : ENOTCONN);
    }
    try {
      if (why_dead_.empty()) why_dead_ = reason;
    } catch (const std::bad_alloc&) {
      // Dead without a reason.
    }
    ended.swap(finished_);
  }
  // First, so that no caller who hears of this can still succeed elsewhere.
  if (on_death_) on_death_();
  publish(ended);
}

void NbdConnection::say_goodbye() {
  // Nobody else is here any more.
  MutexLock lock(mu_);
  nbd_handle* h = handle_.get();
  const Time until = steady_clock::now() + kGoodbyeBound;
  bool fine = nbd_aio_disconnect(h, 0) == 0;
  while (fine && !nbd_is_gone(h) && steady_clock::now() < until)
    fine = pump_nbd(h, -1, milliseconds_until(until));
  handle_.reset();
  dead_ = true;
}

int NbdConnection::on_completion(void* user_data, int* error) {
  auto& request = *static_cast<NbdRequest*>(user_data);
  int errnum = *error;
  if (errnum == 0 && request.op == NbdRequest::Op::read &&
      request.covered != request.length) {
    request.connection->lie_ = "the server left out a part of a read";
    errnum = EPROTO;
    request.lost = true;
  }
  // No reply says this: libnbd says it of what a dead connection leaves.
  if (errnum == ENOTCONN) request.lost = true;
  request.connection->finish(request, errnum);
  return 1;  // libnbd forgets the command
}

int NbdConnection::on_chunk(void* user_data, const void* /*data*/,
                            std::size_t count, std::uint64_t /*offset*/,
                            unsigned status, int* /*error*/) {
  if (status != LIBNBD_READ_ERROR)
    static_cast<NbdRequest*>(user_data)->covered += count;
  return 0;
}

int NbdConnection::on_extents(void* user_data, const char* context,
                              std::uint64_t /*offset*/, std::uint32_t* entries,
                              std::size_t count, int* /*error*/) {
  auto& request = *static_cast<NbdRequest*>(user_data);
  if (request.has_extent ||
      std::string_view(context) != LIBNBD_CONTEXT_BASE_ALLOCATION)
    return 0;
  request.has_extent = true;  // a second answer would contradict it
  for (std::size_t i = 0; i + 1 < count && request.extent.length == 0; i += 2)
    request.extent = {entries[i], (entries[i + 1] & LIBNBD_STATE_HOLE) != 0,
                      (entries[i + 1] & LIBNBD_STATE_ZERO) != 0};
  return 0;
}

}  // namespace nbd_remap
