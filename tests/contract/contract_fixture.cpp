// SPDX-License-Identifier: BSD-3-Clause
#include "tests/contract/contract_fixture.hpp"

#include <algorithm>
#include <cstring>
#include <span>

namespace nbd_remap {

std::vector<std::byte> pattern(std::uint64_t seed, std::uint64_t offset,
                               std::uint64_t length) {
  const std::uint64_t first = offset / 8;
  std::vector<std::uint64_t> words((offset + length + 7) / 8 - first);
  for (std::size_t i = 0; i < words.size(); ++i)
    words[i] = (first + i + 1) * 0x9E3779B97F4A7C15U ^ (seed << 56U);
  std::vector<std::byte> bytes(length);
  if (length > 0)
    std::memcpy(bytes.data(),
                std::as_bytes(std::span(words)).subspan(offset % 8).data(),
                length);
  return bytes;
}

::testing::AssertionResult same_bytes(ConstBytes got, ConstBytes expected) {
  if (got.size() != expected.size())
    return ::testing::AssertionFailure()
           << got.size() << " bytes instead of " << expected.size();
  if (got.empty() || std::memcmp(got.data(), expected.data(), got.size()) == 0)
    return ::testing::AssertionSuccess();
  const auto [a, b] = std::mismatch(got.begin(), got.end(), expected.begin());
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
  for (auto factories :
       {fake_factories(), file_factories(), fuse_factories(), nbd_factories()})
    all.insert(all.end(), factories.begin(), factories.end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(Disks, BackendContract,
                         ::testing::ValuesIn(all_factories()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace nbd_remap
