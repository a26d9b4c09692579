// SPDX-License-Identifier: BSD-3-Clause
#include "tests/contract/factories.hpp"

namespace nbd_remap {

std::vector<BackendFactory> nbd_factories() { return {}; }

}  // namespace nbd_remap
