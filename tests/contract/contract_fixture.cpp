// SPDX-License-Identifier: BSD-3-Clause
#include "tests/contract/contract_fixture.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace nbd_remap {

std::vector<std::byte> pattern(std::uint64_t seed, std::uint64_t offset,
                               std::uint64_t length) {
  std::vector<std::byte> bytes(length);
  for (std::uint64_t i = 0; i < length;) {
    const std::uint64_t word = (offset + i) / 8;
    const auto content = std::bit_cast<std::array<std::byte, 8>>(
        (word + 1) * 0x9E3779B97F4A7C15U ^ (seed << 56U));
    for (std::uint64_t at = (offset + i) % 8; at < 8 && i < length; ++at, ++i)
      bytes[i] = content[at];
  }
  return bytes;
}

::testing::AssertionResult same_bytes(ConstBytes got, ConstBytes expected) {
  if (got.size() != expected.size())
    return ::testing::AssertionFailure()
           << got.size() << " bytes instead of " << expected.size();
  const auto [a, b] = std::mismatch(got.begin(), got.end(), expected.begin());
  if (a == got.end()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "byte " << a - got.begin() << " of " << got.size() << " is "
         << static_cast<int>(*a) << " instead of " << static_cast<int>(*b);
}

std::vector<std::byte> read_all(Backend& disk, std::uint64_t offset,
                                std::uint64_t length) {
  std::vector<std::byte> bytes(length);
  const Status s = disk.read({offset}, bytes);
  EXPECT_TRUE(s.ok()) << s.error().text();
  return bytes;
}

void BackendContract::open(std::uint64_t size_bytes) {
  fixture_.reset();
  std::string why_not = "no reason given";
  fixture_ = GetParam().make(size_bytes, why_not);
  if (!fixture_) GTEST_SKIP() << GetParam().name << ": " << why_not;
}

namespace {

std::vector<BackendFactory> all_factories() {
  std::vector<BackendFactory> all;
  for (auto factories : {fake_factories(), file_factories(), nbd_factories()})
    all.insert(all.end(), factories.begin(), factories.end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(Disks, BackendContract,
                         ::testing::ValuesIn(all_factories()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace nbd_remap
