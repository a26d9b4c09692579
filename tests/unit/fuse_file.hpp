#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// FuseFile: an NBD export as a file, by nbdfuse, for as long as the object
// lives. It is ended by its pid.

#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "tests/fakes/scratch.hpp"
#include "tests/unit/nbdkit_server.hpp"

namespace nbd_remap {

class FuseFile {
 public:
  explicit FuseFile(const std::string& uri) {
    const std::string mount = dir_.file("mnt");
    const std::string pid_file = dir_.file("pid");
    std::filesystem::create_directory(mount);
    const std::string file = path();
    const char* words[] = {"nbdfuse",    "-P",        pid_file.c_str(),
                           file.c_str(), uri.c_str(), nullptr};
    if (::posix_spawnp(&pid_, "nbdfuse", nullptr, nullptr,
                       const_cast<char**>(words), environ) != 0) {
      pid_ = -1;
      return;
    }
    mounted_ = eventually([&] {
      return std::filesystem::exists(pid_file) && std::filesystem::exists(file);
    });
  }
  FuseFile(const FuseFile&) = delete;
  FuseFile& operator=(const FuseFile&) = delete;
  ~FuseFile() {
    if (pid_ < 0) return;
    (void)::umount2(dir_.file("mnt").c_str(), MNT_DETACH);
    ::kill(pid_, SIGTERM);
    int status = 0;
    const bool ended =
        eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
    if (!ended) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status, 0);
    }
  }
  bool mounted() const { return mounted_; }
  std::string path() const { return dir_.file("mnt") + "/disk"; }

 private:
  ScratchDir dir_;
  pid_t pid_ = -1;
  bool mounted_ = false;
};

}  // namespace nbd_remap
