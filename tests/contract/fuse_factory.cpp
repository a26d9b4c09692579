// SPDX-License-Identifier: BSD-3-Clause
#include <exception>
#include <utility>

#include "plugins/backend/file_backend.hpp"
#include "tests/contract/factories.hpp"
#include "tests/unit/fuse_file.hpp"
#include "tests/unit/nbdkit_server.hpp"

namespace nbd_remap {
namespace {

class FuseDisk final : public BackendFixture {
 public:
  explicit FuseDisk(std::uint64_t size)
      : server_({"memory", std::to_string(size)}), file_(server_.uri()) {}
  bool mounted() const { return file_.mounted(); }
  Status open(DirectIo direct) {
    OpenOptions options;
    options.direct = direct;
    auto backend = open_file_backend(file_.path(), options);
    if (!backend) return std::move(backend).error();
    backend_ = *std::move(backend);
    return {};
  }
  Backend& backend() override { return *backend_; }

 private:
  NbdkitServer server_;
  FuseFile file_;
  std::unique_ptr<Backend> backend_;  // closed before the file goes
};

BackendFactory fuse(std::string name, DirectIo direct) {
  return {std::move(name),
          [=](std::uint64_t size,
              std::string& why_not) -> std::unique_ptr<BackendFixture> {
            try {
              auto disk = std::make_unique<FuseDisk>(size);
              why_not = "nbdfuse cannot mount here";
              if (!disk->mounted()) return nullptr;
              const Status opened = disk->open(direct);
              if (opened.ok()) return disk;
              why_not = opened.error().text();
            } catch (const std::exception& e) {
              why_not = e.what();
            }
            return nullptr;
          },
          2'000};
}

}  // namespace

std::vector<BackendFactory> fuse_factories() {
  return {fuse("FuseDirect", DirectIo::on),
          fuse("FuseBuffered", DirectIo::off)};
}

}  // namespace nbd_remap
