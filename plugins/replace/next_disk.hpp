#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NextDisk: the disk that is to take another's place, for as long as it does
// what it is asked to. After its first error it is lost: nothing more is sent
// to it, and whoever watches is told.
//
// Both     After must_have(true) an error of it is one of the request: for the
//          time when a restart might find either disk.
// Threads  any, at once.
// Errors   Memory that runs out is one too (ENOMEM): what was begun on either
//          disk has ended when along() returns, and it throws nothing.

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "plugins/backend/bounded_backend.hpp"
#include "plugins/base/mutex.hpp"

namespace nbd_remap {

class NextDisk {
 public:
  // disk: null where it cannot be had; then it is lost from the beginning.
  // name: "MAIN", "SPARE". on_loss: called once, from any thread; does not
  // block or throw.
  NextDisk(std::shared_ptr<BoundedBackend> disk, std::string name,
           std::function<void()> on_loss);

  void lose(Error error);
  bool lost() const { return lost_; }
  Error why_lost() const;
  void must_have(bool on) { must_have_ = on; }
  bool needed() const { return must_have_; }

  // What the volume sends must fit this disk, too.
  void narrow(BackendInfo& info) const;

  // A change, on the old disk (here) and on this one at the same time.
  struct Written {
    Status here;
    bool both = false;  // and both have it
  };
  Written along(const std::function<Status()>& here,
                const std::function<BoundedBackend::CallPtr(BoundedBackend&)>&
                    there) noexcept;
  // What the caller of such a change hears.
  Status answer(Written written) const;
  // Once lost: its error.
  Status flush();

 private:
  const std::shared_ptr<BoundedBackend> disk_;
  const std::string name_;
  const std::function<void()> on_loss_;
  std::atomic<bool> lost_{false};
  std::atomic<bool> must_have_{false};
  mutable Mutex mu_;
  Error why_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
