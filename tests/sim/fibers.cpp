// SPDX-License-Identifier: BSD-3-Clause
#include "tests/sim/fibers.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace nbd_remap {
namespace {

constexpr std::size_t kStackBytes = 512 << 10;
constexpr std::size_t kGuardBytes = 64 << 10;
Fibers* existing_now = nullptr;
std::uint64_t device_state = 0;
// steady_clock in this program, in ns: it goes on only when nothing else can.
std::int64_t steady_ns = 1;
constexpr std::int64_t kHourNs = 3'600'000'000'000;

[[noreturn]] void give_up(const char* words) {
  (void)std::fprintf(stderr, "fibers: %s\n", words);
  std::abort();
}

}  // namespace

Fibers::Fibers(std::uint64_t seed, unsigned stay_percent)
    : seed_(seed),
      random_(seed),
      stay_percent_(stay_percent),
      fibers_(kMost + kThreads + 1),
      before_(std::exchange(existing_now, this)) {
#if defined(__SANITIZE_THREAD__)
  fibers_[0].shadow = __tsan_get_current_fiber();
#endif
  fibers_[0].state = State::ready;
}

Fibers::~Fibers() {
  for (const Fiber& f : fibers_)
    if (f.taken) give_up("a thread was not joined");
#if defined(__SANITIZE_THREAD__)
  for (std::size_t i = 1; i < fibers_.size(); ++i)
    if (fibers_[i].shadow) __tsan_destroy_fiber(fibers_[i].shadow);
#endif
  existing_now = before_;
}

Fibers* Fibers::existing() { return existing_now; }

class Fibers::Stack {
 public:
  Stack()
      : mapped_(::mmap(nullptr, kGuardBytes + kStackBytes,
                       PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (mapped_ == MAP_FAILED || ::mprotect(mapped_, kGuardBytes, PROT_NONE))
      give_up("no stack");
  }
  ~Stack() { ::munmap(mapped_, kGuardBytes + kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  std::byte* lowest() const {
    return static_cast<std::byte*>(mapped_) + kGuardBytes;
  }

 private:
  void* const mapped_;
};

unsigned Fibers::current() { return existing_now ? existing_now->current_ : 0; }
Fibers::Fiber& Fibers::fiber() { return fibers_[current_]; }

void Fibers::may_hold(int mutexes) {
  if (existing_now) existing_now->fiber().may_hold = mutexes;
}

void Fibers::fault(const std::string& words) {
  if (faults_.empty()) faults_ = words;
}

void Fibers::make(Fiber& f, std::function<void()> body) {
  if (!f.stack) {
    f.stack = std::make_unique<Stack>();
#if defined(__SANITIZE_THREAD__)
    f.shadow = __tsan_create_fiber(0);
#endif
  }
  if (::getcontext(&f.context) != 0) give_up("getcontext");
  f.context.uc_stack.ss_sp = f.stack->lowest();
  f.context.uc_stack.ss_size = kStackBytes;
  f.context.uc_link = nullptr;
  ::makecontext(&f.context, &Fibers::entry, 0);
  f.body = std::move(body);
  f.state = State::ready;
  f.mutexes = f.may_hold = 0;
}

void Fibers::run(const std::vector<std::function<void()>>& bodies) {
  if (bodies.size() > kMost || current_ != 0) give_up("REQUIRES of run()");
  left_ = bodies.size();
  for (std::size_t i = 0; i < bodies.size(); ++i)
    make(fibers_[i + 1], [this, &body = bodies[i]] {
      body();
      if (--left_ == 0) notify(&left_, true);
    });
  while (left_ != 0) {
    fibers_[0].state = State::waiting;
    fibers_[0].condition = &left_;
    fibers_[0].timed = false;
    hand_over();
  }
}

unsigned Fibers::start_thread(std::function<void()> body) {
  for (unsigned i = kMost + 1; i < fibers_.size(); ++i) {
    if (fibers_[i].taken) continue;
    fibers_[i].taken = true;
    make(fibers_[i], [this, i, body = std::move(body)] {
      body();
      notify(&fibers_[i], true);
    });
    return i;
  }
  give_up("too many threads");
}

void Fibers::join_thread(unsigned thread) {
  Fiber& f = fiber();
  while (fibers_[thread].state != State::ended) {
    f.state = State::waiting;
    f.condition = &fibers_[thread];
    f.timed = false;
    hand_over();
  }
  fibers_[thread].taken = false;
}

void Fibers::entry() {
  Fibers& self = *existing_now;
  self.arrived(self.current_);
  self.fiber().body();
  self.fiber().state = State::ended;
  self.hand_over();
  give_up("an ended fiber ran");
}

// Chooses who runs next; comes back when it is this one's turn again.
void Fibers::hand_over() {
  std::array<unsigned, kMost + kThreads + 1> ready{};
  std::array<unsigned, kMost + kThreads + 1> waiting{};
  std::size_t can_run = 0;
  std::size_t wait = 0;
  for (unsigned i = 0; i < fibers_.size(); ++i) {
    if (fibers_[i].state == State::ready) ready.at(can_run++) = i;
    if (fibers_[i].state == State::waiting && i != 0) waiting.at(wait++) = i;
  }
  unsigned next = 0;
  if (wait != 0 && can_run != 0 && random_() % 64 == 0) {
    // "Waits may wake for no reason."
    next = waiting.at(random_() % wait);
  } else if (can_run != 0) {
    next = ready.at(random_() % can_run);
  } else {
    next = nobody_can_run();
  }
  fibers_[next].state = State::ready;
  if (next == current_) return;
  switch_to(next);
}

unsigned Fibers::nobody_can_run() {
  fault("all requests wait, and nobody can wake them");
  for (unsigned i = 0; i < fibers_.size(); ++i) {
    Fiber& f = fibers_[i];
    if (f.state != State::waiting || !f.timed) continue;
    f.timed_out = true;
    steady_ns += kHourNs;
    return i;
  }
  give_up(
      ("a wait without a bound that nobody ends, seed " + std::to_string(seed_))
          .c_str());
}

void Fibers::switch_to(unsigned to) {
  ++switches_;
  const unsigned self = current_;
  Fiber& mine = fibers_[self];
  Fiber& theirs = fibers_[to];
  from_ = self;
  current_ = to;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(theirs.shadow, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = theirs.context.uc_stack.ss_sp;
  std::size_t size = theirs.context.uc_stack.ss_size;
  // An ended fiber's fake stack can go.
  const bool last = mine.state == State::ended;
  __sanitizer_start_switch_fiber(last ? nullptr : &mine.shadow, bottom, size);
#endif
  ::swapcontext(&mine.context, &theirs.context);
  arrived(self);
}

void Fibers::arrived([[maybe_unused]] unsigned self) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(fibers_[self].shadow, &bottom, &size);
  fibers_[self].shadow = nullptr;
  // Where the caller of run() has its stack is known only by leaving it.
  if (from_ == 0) {
    fibers_[0].context.uc_stack.ss_sp = const_cast<void*>(bottom);
    fibers_[0].context.uc_stack.ss_size = size;
  }
#endif
}

void Fibers::yield() {
  Fibers* self = existing_now;
  if (!self || self->current_ == 0) return;
  if (self->fiber().mutexes > self->fiber().may_hold)
    self->fault("a mutex is held across a call of a disk");
  else if (self->random_() % 100 >= self->stay_percent_)
    self->hand_over();
}

int Fibers::wait(const void* condition, const std::function<void()>& unlock,
                 const std::function<void()>& lock, bool timed) {
  ++waits_;
  Fiber& f = fiber();
  if (current_ != 0 && (f.mutexes < 1 || f.mutexes > 1 + f.may_hold))
    fault("a wait with more mutexes held than its own");
  f.condition = condition;
  f.timed = timed;
  f.timed_out = false;
  f.state = State::waiting;
  unlock();
  hand_over();
  lock();
  return std::exchange(f.timed_out, false) ? ETIMEDOUT : 0;
}

void Fibers::notify(const void* condition, bool all) {
  std::vector<Fiber*> waiting;
  for (Fiber& f : fibers_)
    if (f.state == State::waiting && f.condition == condition)
      waiting.push_back(&f);
  if (waiting.empty()) return;
  if (!all) waiting = {waiting[random_() % waiting.size()]};
  for (Fiber* f : waiting) f->state = State::ready;
}

void seed_random_device(std::uint64_t seed) { device_state = seed; }

namespace {

using MutexCall = int (*)(pthread_mutex_t*);
using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*),
                       void*);
using Join = int (*)(pthread_t, void**);

template <class Call>
Call next_of(const char* name) {
  void* found = ::dlsym(RTLD_NEXT, name);
  if (!found) give_up(name);
  return reinterpret_cast<Call>(found);
}

int real_lock(pthread_mutex_t* mutex) {
  static const MutexCall call = next_of<MutexCall>("pthread_mutex_lock");
  return call(mutex);
}

int real_unlock(pthread_mutex_t* mutex) {
  static const MutexCall call = next_of<MutexCall>("pthread_mutex_unlock");
  return call(mutex);
}

bool in_fiber() { return Fibers::current() != 0; }

int wait_in_fiber(pthread_cond_t* condition, pthread_mutex_t* mutex,
                  bool timed) {
  if (!Fibers::existing()) give_up("a wait outside of fibers");
  return Fibers::existing()->wait(
      condition, [mutex] { (void)pthread_mutex_unlock(mutex); },
      [mutex] { (void)pthread_mutex_lock(mutex); }, timed);
}

}  // namespace
}  // namespace nbd_remap

// In place of libc's and libstdc++'s: a program's own come first.
extern "C" {
__attribute__((visibility("default"))) int pthread_mutex_lock(
    pthread_mutex_t* mutex) noexcept {
  if (nbd_remap::in_fiber()) nbd_remap::Fibers::existing()->mutex_taken();
  return nbd_remap::real_lock(mutex);
}
__attribute__((visibility("default"))) int pthread_mutex_unlock(
    pthread_mutex_t* mutex) noexcept {
  if (nbd_remap::in_fiber()) nbd_remap::Fibers::existing()->mutex_given();
  return nbd_remap::real_unlock(mutex);
}
__attribute__((visibility("default"))) int pthread_cond_wait(
    pthread_cond_t* condition, pthread_mutex_t* mutex) {
  return nbd_remap::wait_in_fiber(condition, mutex, false);
}
__attribute__((visibility("default"))) int pthread_cond_clockwait(
    pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t,
    const struct timespec*) {
  return nbd_remap::wait_in_fiber(condition, mutex, true);
}
__attribute__((visibility("default"))) int pthread_cond_broadcast(
    pthread_cond_t* condition) noexcept {
  if (auto* fibers = nbd_remap::Fibers::existing())
    fibers->notify(condition, true);
  return 0;
}
__attribute__((visibility("default"))) int pthread_cond_signal(
    pthread_cond_t* condition) noexcept {
  if (auto* fibers = nbd_remap::Fibers::existing())
    fibers->notify(condition, false);
  return 0;
}
__attribute__((visibility("default"))) int pthread_create(
    pthread_t* id, const pthread_attr_t* attributes, void* (*start)(void*),
    void* argument) noexcept {
  if (auto* fibers = nbd_remap::Fibers::existing()) {
    *id = fibers->start_thread([=] { (void)start(argument); });
    return 0;
  }
  static const auto call =
      nbd_remap::next_of<nbd_remap::Create>("pthread_create");
  return call(id, attributes, start, argument);
}
__attribute__((visibility("default"))) int pthread_join(pthread_t id,
                                                        void** result) {
  // A real one is an address.
  if (auto* fibers = nbd_remap::Fibers::existing();
      fibers &&
      id < nbd_remap::Fibers::kMost + nbd_remap::Fibers::kThreads + 1) {
    fibers->join_thread(static_cast<unsigned>(id));
    return 0;
  }
  static const auto call = nbd_remap::next_of<nbd_remap::Join>("pthread_join");
  return call(id, result);
}
// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming)
// std::chrono::steady_clock::now(), in a register like its one number
__attribute__((visibility("default"))) std::int64_t
_ZNSt6chrono3_V212steady_clock3nowEv() {
  return nbd_remap::steady_ns;
}
// unsigned std::random_device::_M_getval()
__attribute__((visibility("default"))) unsigned
_ZNSt13random_device9_M_getvalEv(void*) {
  nbd_remap::device_state =
      nbd_remap::device_state * 6364136223846793005ULL + 1442695040888963407ULL;
  return static_cast<unsigned>(nbd_remap::device_state >> 33);
}
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)
}
