// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/scratch.hpp"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdlib.h>  // mkdtemp
#include <sys/ioctl.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace nbd_remap {

namespace fs = std::filesystem;

ScratchDir::ScratchDir() {
  path_ = (fs::temp_directory_path() / "nbd-remap-test-XXXXXX").string();
  if (::mkdtemp(path_.data()) == nullptr)
    throw std::runtime_error("mkdtemp " + path_);
}

ScratchDir::~ScratchDir() {
  std::error_code error;
  fs::remove_all(path_, error);
}

std::string ScratchDir::make_file(const std::string& name,
                                  std::uint64_t size) const {
  const std::string path = file(name);
  std::ofstream(path).flush();
  fs::resize_file(path, size);
  return path;
}

std::unique_ptr<LoopDevice> LoopDevice::attach(const std::string& file,
                                               std::string& why_not,
                                               std::uint64_t offset,
                                               std::uint32_t sector_bytes) {
  const auto fail = [&](const std::string& what) {
    why_not = what + ": " + std::generic_category().message(errno);
    return nullptr;
  };
  const UniqueFd backing(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!backing) return fail(file);
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) return fail("/dev/loop-control");
  loop_config config{};
  config.fd = static_cast<__u32>(backing.get());
  config.block_size = sector_bytes;
  config.info.lo_offset = offset;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  // Others look for a free one at the same time.
  for (int attempt = 0; attempt < 100; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return fail("LOOP_CTL_GET_FREE");
    std::string path = "/dev/loop" + std::to_string(number);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) return fail(path);
    if (::ioctl(fd.get(), LOOP_CONFIGURE, &config) == 0)
      return std::unique_ptr<LoopDevice>(
          new LoopDevice(std::move(path), std::move(fd)));
    if (errno != EBUSY) return fail("LOOP_CONFIGURE " + path);
  }
  return fail("no free loop device");
}

}  // namespace nbd_remap
