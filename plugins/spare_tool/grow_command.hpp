#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl spare grow, and volume grow without a server: a disk of the pair
// was enlarged. Neither is ever made smaller.

#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

struct GrowOptions {
  std::string spare;
  std::string main;  // empty: SPARE grows; else MAIN did
  bool json = false;
};

// What there is to say of it, for people or as JSON.
Result<std::string> run_grow(const GrowOptions& options);

}  // namespace nbd_remap
