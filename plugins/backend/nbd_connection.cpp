// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_connection.hpp"

#include <fmt/format.h>
#include <libnbd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kGoodbyeBound{2000};
// An answer to BLOCK_STATUS may be 64 MiB long; what is past this is not kept.
constexpr std::size_t kMaxExtents = 65536;

}  // namespace

NbdConnection::NbdConnection(NbdHandle handle, UniqueFd wake,
                             milliseconds request_deadline)
    : request_deadline_(request_deadline),
      wake_(std::move(wake)),
      remote_(ask_nbd_export(handle.get())),
      handle_(std::move(handle)) {}

NbdConnection::~NbdConnection() {
  begin_stop();
  finish_stop();
}

Result<std::unique_ptr<NbdConnection>> NbdConnection::connect(
    const std::string& uri, const std::string& name,
    milliseconds request_deadline, Time until) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return make_error(errno, name + ": eventfd");
  Result<NbdHandle> handle = connect_nbd_handle(uri, name, until);
  if (!handle) return std::move(handle).error();
  return std::unique_ptr<NbdConnection>(
      new NbdConnection(*std::move(handle), std::move(wake), request_deadline));
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

int NbdConnection::run(NbdRequest& request) {
  request.connection = this;
  MutexLock lock(mu_);
  if (dead_ || !why_dead_.empty()) return ENOTCONN;
  // Under the lock, so that the queue is in the order of the deadlines.
  request.deadline = steady_clock::now() + request_deadline_;
  queue_.push_back(request);
  wake_up();
  while (!request.done) request.answered.wait(mu_);
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
    serve_until_told();
  } catch (const std::bad_alloc&) {
    die("out of memory");
  }
}

void NbdConnection::serve_until_told() {
  for (;;) {
    const Order order = take_requests();
    if (order == Order::stop) return say_goodbye();
    if (order == Order::give_up) return die(why_dead());
    while (!taken_.empty()) issue(taken_.front());
    if (lie_) return die(lie_);
    if (nbd_is_gone(handle_.get()))
      return die(libnbd_message_.empty() ? "the server closed the connection"
                                         : libnbd_message_);
    publish();
    if (oldest_is_late(steady_clock::now()))
      return die(
          fmt::format("no answer within {} ms", request_deadline_.count()));
    wait_and_move();
  }
}

NbdConnection::Order NbdConnection::take_requests() {
  MutexLock lock(mu_);
  if (woken_) {
    eventfd_t ignored = 0;
    eventfd_read(wake_.get(), &ignored);
    woken_ = false;
  }
  taken_.splice(taken_.end(), queue_);
  if (!why_dead_.empty()) return Order::give_up;
  return stop_ ? Order::stop : Order::serve;
}

void NbdConnection::issue(NbdRequest& request) {
  taken_.erase(taken_.iterator_to(request));
  in_flight_.push_back(request);
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
  libnbd_message_ = nbd_error_line();
  const bool gone = nbd_is_gone(h);
  finish(request, gone ? ENOTCONN : errnum ? errnum : EINVAL);
}

void NbdConnection::wait_and_move() {
  const int timeout_ms =
      in_flight_.empty() ? -1 : milliseconds_until(in_flight_.front().deadline);
  if (!pump_nbd(handle_.get(), wake_.get(), timeout_ms))
    libnbd_message_ = nbd_error_line();
}

bool NbdConnection::oldest_is_late(Time now) const {
  return !in_flight_.empty() && in_flight_.front().deadline <= now;
}

void NbdConnection::finish(NbdRequest& request, int errnum) {
  request.errnum = errnum;
  in_flight_.erase(in_flight_.iterator_to(request));
  finished_.push_back(request);
}

void NbdConnection::publish() {
  if (finished_.empty()) return;
  MutexLock lock(mu_);
  while (!finished_.empty()) {
    NbdRequest& request = finished_.front();
    finished_.pop_front();
    // The caller owns it again once the lock is released.
    request.done = true;
    request.answered.notify_one();
  }
}

void NbdConnection::die(std::string_view reason) {
  // From here on nothing can write into a caller's buffer.
  handle_.reset();
  {
    MutexLock lock(mu_);
    dead_ = true;
    try {
      if (why_dead_.empty()) why_dead_ = reason;
    } catch (const std::bad_alloc&) {
      // Dead without a reason.
    }
    in_flight_.splice(in_flight_.end(), taken_);
    in_flight_.splice(in_flight_.end(), queue_);
  }
  const Time now = steady_clock::now();
  while (!in_flight_.empty()) {
    NbdRequest& request = in_flight_.front();
    finish(request, request.deadline <= now ? ETIMEDOUT : ENOTCONN);
  }
  // First, so that no caller who hears of this can still succeed elsewhere.
  if (on_death_) on_death_();
  publish();
}

void NbdConnection::say_goodbye() {
  nbd_handle* h = handle_.get();
  const Time until = steady_clock::now() + kGoodbyeBound;
  bool fine = nbd_aio_disconnect(h, 0) == 0;
  while (fine && !nbd_is_gone(h) && steady_clock::now() < until)
    fine = pump_nbd(h, -1, milliseconds_until(until));
  handle_.reset();
}

int NbdConnection::on_completion(void* user_data, int* error) {
  auto& request = *static_cast<NbdRequest*>(user_data);
  int errnum = *error;
  if (errnum == 0 && request.op == NbdRequest::Op::read &&
      request.covered != request.length) {
    request.connection->lie_ = "the server left out a part of a read";
    errnum = EPROTO;
  }
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
  if (request.extents_complete ||
      std::string_view(context) != LIBNBD_CONTEXT_BASE_ALLOCATION)
    return 0;
  request.extents_complete = true;  // a second answer would contradict it
  try {
    for (std::size_t i = 0; i + 1 < count; i += 2) {
      if (entries[i] == 0) continue;
      if (request.extents.size() == kMaxExtents) break;
      request.extents.push_back({entries[i],
                                 (entries[i + 1] & LIBNBD_STATE_HOLE) != 0,
                                 (entries[i + 1] & LIBNBD_STATE_ZERO) != 0});
    }
  } catch (const std::bad_alloc&) {
    // What is known so far is true.
  }
  return 0;
}

}  // namespace nbd_remap
