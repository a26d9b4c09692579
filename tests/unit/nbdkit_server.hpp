#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NbdkitServer: a real nbdkit on a Unix socket in a directory of its own, for
// as long as the object lives. It is ended by its pid.
//
// Threads  one; the thread that starts a server must live as long as it
//          (--exit-with-parent watches the thread).

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tests/fakes/scratch.hpp"

namespace nbd_remap {

// True as soon as the condition is, false when it was not within the bound.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds bound = std::chrono::seconds(5));

class NbdkitServer {
 public:
  // words: filters, plugin and parameters; "@DIR@" in one stands for the
  // directory; "-p" first: no socket. Throws when it is not ready within
  // 5 s.
  explicit NbdkitServer(std::vector<std::string> words);
  ~NbdkitServer();
  NbdkitServer(const NbdkitServer&) = delete;
  NbdkitServer& operator=(const NbdkitServer&) = delete;

  std::string uri(const std::string& export_name = "") const;
  std::string file(const std::string& name) const { return dir_.file(name); }
  // What the log filter wrote to logfile=@DIR@/log so far.
  std::string log() const;
  // How often text occurs in it.
  int logged(const std::string& text) const;
  // SIGSTOP, and waits until every thread stands: the signal alone returns
  // while some still run, and an answer could come out of a "hung" server.
  void hang() const;
  void go_on() const { ::kill(pid_, SIGCONT); }
  // SIGKILL, and waits until it is gone.
  void kill();

 private:
  ScratchDir dir_;
  pid_t pid_ = -1;
};

}  // namespace nbd_remap
