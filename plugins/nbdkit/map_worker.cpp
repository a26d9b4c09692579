// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/map_worker.hpp"

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <new>

namespace nbd_remap {

MapWorker::MapWorker(Volume& volume) : volume_(volume) {
  MutexLock lock(mu_);
  job_.done = true;
  thread_ = std::thread([this] { run(); });
}

MapWorker::~MapWorker() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

std::optional<std::uint64_t> MapWorker::start(MapAction action,
                                              VolumeOffset offset,
                                              std::uint64_t length) {
  MutexLock lock(mu_);
  if (!job_.done) return std::nullopt;
  Job next;
  next.id = job_.id + 1;
  next.action = action;
  next.offset = offset;
  next.length = length;
  next.began = std::chrono::steady_clock::now();
  job_ = std::move(next);
  changed_.notify_all();
  return job_.id;
}

std::optional<MapWorker::Job> MapWorker::wait(std::uint64_t id,
                                              std::chrono::milliseconds bound) {
  const auto until = std::chrono::steady_clock::now() + bound;
  MutexLock lock(mu_);
  while (job_.id == id && !job_.done)
    if (!changed_.wait_until(mu_, until)) break;
  if (id == 0 || job_.id != id) return std::nullopt;
  return job_;
}

void MapWorker::run() {
  // Signals are for the host's own threads.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), "map");
  for (;;) {
    Job job;
    {
      MutexLock lock(mu_);
      while (!ending_ && job_.done) changed_.wait(mu_);
      if (ending_) return;
      job = job_;
    }
    MapStep step{{}, job.offset, {}};
    try {
      step = volume_.map_step(job.action, job.offset, job.length, kSlice);
    } catch (const std::bad_alloc&) {
      step.status = make_error(ENOMEM, "volume: map action");
    }
    MutexLock lock(mu_);
    job_.step = std::move(step);
    job_.done = true;
    changed_.notify_all();
  }
}

}  // namespace nbd_remap
