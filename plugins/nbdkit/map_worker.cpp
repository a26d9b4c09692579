// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/nbdkit/map_worker.hpp"

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <new>
#include <utility>

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
  Job job;
  job.name = map_action_name(action);
  job.offset = offset;
  job.length = length;
  return start(std::move(job), [this, action](Job& at) {
    at.step = volume_.map_step(action, at.offset, at.length, kSlice);
  });
}

std::optional<std::uint64_t> MapWorker::start(Grow disk) {
  Job job;
  job.name = "grow";
  return start(std::move(job), [this, disk](Job& at) {
    auto size = disk == Grow::main ? volume_.grow_main() : volume_.grow_spare();
    if (size)
      at.grown_to = *size;
    else
      at.step.status = std::move(size).error();
  });
}

std::optional<std::uint64_t> MapWorker::quiesce(std::chrono::seconds longest) {
  Job job;
  job.name = "quiesce";
  return start(std::move(job), [this, longest](Job& at) {
    at.step.status = volume_.quiesce(kDrain, longest);
  });
}

std::optional<std::uint64_t> MapWorker::start(const std::string& name,
                                              std::function<Status()> work) {
  Job job;
  job.name = name;
  return start(std::move(job),
               [work = std::move(work)](Job& at) { at.step.status = work(); });
}

std::optional<std::uint64_t> MapWorker::start(Job job, Work work) {
  MutexLock lock(mu_);
  if (!job_.done) return std::nullopt;
  job.id = job_.id + 1;
  job.began = std::chrono::steady_clock::now();
  job_ = std::move(job);
  work_ = std::move(work);
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
    Work work;
    {
      MutexLock lock(mu_);
      while (!ending_ && job_.done) changed_.wait(mu_);
      if (ending_) return;
      // Nobody changes the job before it is done; a copy might find no memory.
      job.id = job_.id;
      job.offset = job_.offset;
      job.length = job_.length;
      work.swap(work_);
    }
    job.step.next = job.offset;
    try {
      work(job);
    } catch (const std::bad_alloc&) {
      job.step.status = make_error(ENOMEM, "map action");
    }
    MutexLock lock(mu_);
    job_.step = std::move(job.step);
    job_.grown_to = job.grown_to;
    job_.done = true;
    changed_.notify_all();
  }
}

}  // namespace nbd_remap
