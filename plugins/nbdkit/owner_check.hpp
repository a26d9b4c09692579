#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// OwnerCheck: whether a remote disk that was lost and is back is still ours.
// While the connection was gone another server may have taken the pair over,
// and what we would write then belongs to it.
//
// Threads  any, at once. MAIN's check holds reading_ while it reads SPARE,
// which
//          a remote bounds by its time-out, so that SPARE is not closed under
//          it. SPARE's own check must not wait for that: when both were lost
//          MAIN's check waits for SPARE to be back.

#include <functional>
#include <utility>

#include "plugins/backend/backend.hpp"
#include "plugins/base/mutex.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

class OwnerCheck {
 public:
  // on_loss: called when another server has the pair, perhaps more than once.
  explicit OwnerCheck(std::function<void()> on_loss)
      : on_loss_(std::move(on_loss)) {}

  // From here on SPARE is ours, as this superblock says. spare: where MAIN's
  // check reads it, until forget_spare().
  void own(Backend& spare, const Superblock& superblock);
  void forget_spare();

  // For OpenOptions::on_reconnect. Before own() a SPARE that was lost is an
  // error, and whoever was taking it over begins anew.
  Status spare_is_back(Backend& fresh);
  Status main_is_back();

 private:
  Status check(Backend& spare) EXCLUDES(mu_);

  const std::function<void()> on_loss_;
  Mutex reading_;  // before mu_
  Backend* spare_ GUARDED_BY(reading_) = nullptr;
  Mutex mu_;
  bool owned_ GUARDED_BY(mu_) = false;
  Superblock superblock_ GUARDED_BY(mu_);
};

}  // namespace nbd_remap
