// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/nbdkit_server.hpp"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

namespace nbd_remap {
namespace {

std::string content(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds bound) {
  const auto until = std::chrono::steady_clock::now() + bound;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

NbdkitServer::NbdkitServer(std::vector<std::string> words) {
  std::vector<std::string> args{NBDKIT, "--exit-with-parent", "-f", "-P",
                                file("pid")};
  const bool tcp = !words.empty() && words.front() == "-p";
  if (!tcp) args.insert(args.end(), {"-U", file("socket")});
  args.insert(args.end(), words.begin(), words.end());
  std::vector<char*> argv;
  for (std::string& arg : args) {
    const std::size_t at = arg.find("@DIR@");
    if (at != std::string::npos) arg.replace(at, 6, file(""));
    argv.push_back(arg.data());
  }
  argv.push_back(nullptr);
  const int error =
      posix_spawnp(&pid_, argv[0], nullptr, nullptr, argv.data(), environ);
  if (error != 0) throw std::runtime_error("cannot start " NBDKIT);
  // nbdkit writes its pid once it listens.
  if (!eventually([&] { return content(file("pid")).ends_with('\n'); })) {
    kill();
    throw std::runtime_error("nbdkit was not ready in time");
  }
}

NbdkitServer::~NbdkitServer() { kill(); }

std::string NbdkitServer::uri(const std::string& export_name) const {
  return "nbd+unix:///" + export_name + "?socket=" + file("socket");
}

std::string NbdkitServer::log() const { return content(file("log")); }

int NbdkitServer::logged(const std::string& text) const {
  const std::string all = log();
  int count = 0;
  for (std::size_t at = 0; (at = all.find(text, at)) != std::string::npos; ++at)
    ++count;
  return count;
}

void NbdkitServer::hang() const {
  ::kill(pid_, SIGSTOP);
  siginfo_t ignored;
  ::waitid(P_PID, pid_, &ignored, WSTOPPED | WEXITED | WNOWAIT);
}

void NbdkitServer::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace nbd_remap
