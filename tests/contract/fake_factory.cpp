// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "plugins/baddisk/write_cache.hpp"
#include "tests/contract/factories.hpp"
#include "tests/fakes/crash_backend.hpp"
#include "tests/fakes/faulty_backend.hpp"
#include "tests/fakes/memory_backend.hpp"

namespace nbd_remap {
namespace {

template <class Disk>
class Owned final : public BackendFixture {
 public:
  template <class... Arguments>
  explicit Owned(Arguments&&... arguments)
      : disk_(std::forward<Arguments>(arguments)...) {}
  Backend& backend() override { return disk_; }

 private:
  Disk disk_;
};

class Wrapped final : public BackendFixture {
 public:
  explicit Wrapped(std::uint64_t size) : inner_(size), faulty_(inner_) {}
  Backend& backend() override { return faulty_; }

 private:
  MemoryBackend inner_;
  FaultyBackend faulty_;
};

}  // namespace

std::vector<BackendFactory> fake_factories() {
  return {
      {"Memory",
       [](std::uint64_t size, std::string&) {
         return std::make_unique<Owned<MemoryBackend>>(size);
       }},
      {"Memory4Kn",
       [](std::uint64_t size, std::string&) {
         return std::make_unique<Owned<MemoryBackend>>(size, 4096U, 4096U);
       },
       50'000},
      {"FaultyWithoutFaults",
       [](std::uint64_t size, std::string&) {
         return std::make_unique<Wrapped>(size);
       },
       50'000},
      {"Crash",
       [](std::uint64_t size, std::string&) {
         return std::make_unique<Owned<CrashBackend>>(size);
       },
       100'000},
      // So small that it is full again and again.
      {"WriteCache",
       [](std::uint64_t size, std::string&) {
         return std::make_unique<Owned<WriteCache>>(
             std::make_unique<MemoryBackend>(size), std::uint64_t{256} << 10);
       },
       50'000},
  };
}

}  // namespace nbd_remap
