// SPDX-License-Identifier: BSD-3-Clause
#include <exception>
#include <utility>

#include "plugins/backend/nbd_backend.hpp"
#include "tests/contract/factories.hpp"
#include "tests/unit/nbdkit_server.hpp"

namespace nbd_remap {
namespace {

using Words = std::vector<std::string>;

class NbdDisk final : public BackendFixture {
 public:
  explicit NbdDisk(const Words& words) : server_(words) {}
  Status open() {
    auto backend = open_nbd_backend(server_.uri(), OpenOptions{});
    if (!backend) return std::move(backend).error();
    backend_ = *std::move(backend);
    return {};
  }
  Backend& backend() override { return *backend_; }

 private:
  NbdkitServer server_;
  std::unique_ptr<Backend> backend_;  // closed before the server goes
};

// nbdkit's memory disk behind filters.
BackendFactory nbdkit(std::string name, const Words& filters,
                      const Words& parameters,
                      std::uint32_t random_operations) {
  return {std::move(name),
          [=](std::uint64_t size,
              std::string& why_not) -> std::unique_ptr<BackendFixture> {
            Words words = filters;
            words.insert(words.end(), {"memory", std::to_string(size)});
            words.insert(words.end(), parameters.begin(), parameters.end());
            try {
              auto disk = std::make_unique<NbdDisk>(words);
              if (Status opened = disk->open(); opened)
                return disk;
              else
                why_not = opened.error().text();
            } catch (const std::exception& e) {
              why_not = e.what();
            }
            return nullptr;
          },
          random_operations};
}

}  // namespace

std::vector<BackendFactory> nbd_factories() {
  return {// Four connections, and all that the protocol offers.
          nbdkit("NbdMultiConn", {}, {}, 8'000),
          // One connection, blocks of 4096, small requests only.
          nbdkit("NbdStrict4K",
                 {"--filter=multi-conn", "--filter=blocksize-policy"},
                 {"multi-conn-mode=disable", "blocksize-minimum=4096",
                  "blocksize-maximum=64K", "blocksize-error-policy=error"},
                 4'000),
          // A server that offers as little as it can.
          nbdkit("NbdPlain",
                 {"--no-sr", "--filter=fua", "--filter=nozero",
                  "--filter=nocache", "--filter=noextents"},
                 {"cachemode=none"}, 8'000)};
}

}  // namespace nbd_remap
