#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Every Backend that the contract suite is run over.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

// A disk and all that it needs to live (directory, device, server).
class BackendFixture {
 public:
  virtual ~BackendFixture() = default;
  virtual Backend& backend() = 0;
};

struct BackendFactory {
  std::string name;  // becomes part of the test's name: letters and digits
  // A writable disk that reads as zeroes. Null, and the reason, where this
  // machine cannot have one: the test is skipped.
  std::function<std::unique_ptr<BackendFixture>(std::uint64_t size_bytes,
                                                std::string& why_not)>
      make;
  // How many the differential test does; fewer for what is slow.
  std::uint32_t random_operations = 200'000;
};

std::vector<BackendFactory> fake_factories();
std::vector<BackendFactory> file_factories();
std::vector<BackendFactory> fuse_factories();
std::vector<BackendFactory> nbd_factories();

}  // namespace nbd_remap
