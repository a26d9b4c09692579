// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "plugins/backend/file_backend.hpp"
#include "tests/contract/factories.hpp"
#include "tests/fakes/scratch.hpp"

namespace nbd_remap {
namespace {

class FileDisk final : public BackendFixture {
 public:
  static std::unique_ptr<BackendFixture> make(std::uint64_t size,
                                              DirectIo direct,
                                              std::uint32_t loop_sector_bytes,
                                              std::string& why_not) {
    auto disk = std::make_unique<FileDisk>();
    std::string path = disk->dir_.make_file("disk", size);
    if (loop_sector_bytes != 0) {
      disk->loop_ = LoopDevice::attach(path, why_not, 0, loop_sector_bytes);
      if (!disk->loop_) return nullptr;
      path = disk->loop_->path();
    }
    OpenOptions options;
    options.direct = direct;
    auto backend = open_file_backend(path, options);
    if (!backend) {
      why_not = backend.error().text();
      return nullptr;
    }
    disk->backend_ = std::move(*backend);
    return disk;
  }
  Backend& backend() override { return *backend_; }

 private:
  ScratchDir dir_;
  std::unique_ptr<LoopDevice> loop_;
  std::unique_ptr<Backend> backend_;
};

BackendFactory file(std::string name, DirectIo direct,
                    std::uint32_t loop_sector_bytes,
                    std::uint32_t random_operations) {
  return {std::move(name),
          [=](std::uint64_t size, std::string& why_not) {
            return FileDisk::make(size, direct, loop_sector_bytes, why_not);
          },
          random_operations};
}

}  // namespace

std::vector<BackendFactory> file_factories() {
  return {file("FileDirect", DirectIo::on, 0, 4'000),
          file("FileBuffered", DirectIo::off, 0, 8'000),
          file("LoopDirect", DirectIo::on, 512, 3'000),
          file("LoopDirect4Kn", DirectIo::on, 4096, 1'000),
          file("LoopBuffered", DirectIo::off, 512, 4'000)};
}

}  // namespace nbd_remap
