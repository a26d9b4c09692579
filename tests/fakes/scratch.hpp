#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Files and loop devices for tests, gone when their owner is.

#include <cstdint>
#include <memory>
#include <string>

#include "plugins/base/unique_fd.hpp"

namespace nbd_remap {

// A directory of its own under the system's one for temporary files, which
// has to be on a real disk for direct I/O. Throws std::runtime_error.
class ScratchDir {
 public:
  ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  ~ScratchDir();

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Sparse, all zeroes; returns its path.
  std::string make_file(const std::string& name, std::uint64_t size) const;

 private:
  std::string path_;
};

// A loop device over a file. It detaches itself when the last user has closed
// it, even if the test dies.
class LoopDevice {
 public:
  // Null, and the reason, where loop devices cannot be had (no root, say).
  static std::unique_ptr<LoopDevice> attach(const std::string& file,
                                            std::string& why_not,
                                            std::uint64_t offset = 0,
                                            std::uint32_t sector_bytes = 512);
  const std::string& path() const { return path_; }

 private:
  LoopDevice(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  UniqueFd fd_;
};

}  // namespace nbd_remap
