// SPDX-License-Identifier: BSD-3-Clause
// FUZZ_TARGET, a function of fuzz_targets.hpp, as libFuzzer calls it.
//
//   cmake --preset fuzz && cmake --build --preset fuzz --target fuzzers
//   build/fuzz/tests/fuzz/metadata_fuzz -max_total_time=60 NEW_CORPUS \
//     tests/fuzz/corpus/metadata tests/fuzz/regressions/metadata
//
// tests/fuzz/run does that for all, and keeps what it finds.

#include <cstddef>
#include <cstdint>

#include "tests/fuzz/fuzz_targets.hpp"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name for it
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size) {
  nbd_remap::FUZZ_TARGET({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
