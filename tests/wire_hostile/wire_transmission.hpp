#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The transmission phase on a volume that is larger than 4 GiB, so that no
// length that fits in a request is out of range by itself.

#include "tests/wire_hostile/wire_fixture.hpp"

namespace nbd_remap {

inline constexpr std::uint32_t kEinval = 22;
inline constexpr std::uint32_t kEnospc = 28;
inline constexpr std::uint32_t kMost = 0xFFFF'FFFF;

class WireTransmission : public HostileWire {
 protected:
  static constexpr std::uint64_t kSize = (5ULL << 30) + 512;
  static void SetUpTestSuite() { world_ = make_world(kSize); }
  static void TearDownTestSuite() { end_world(world_); }
  void TearDown() override { check_world(*world_); }

  static WireClient client(bool structured = true, bool contexts = false) {
    WireClient c(world_->volume->socket());
    c.go(structured, contexts);
    return c;
  }
  static World& world() { return *world_; }

 private:
  static inline std::unique_ptr<World> world_;
};

}  // namespace nbd_remap
