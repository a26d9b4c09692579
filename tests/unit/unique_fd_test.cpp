// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/unique_fd.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace nbd_remap {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
UniqueFd open_null() {
  return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
}

TEST(UniqueFd, closes_when_it_goes) {
  int number = -1;
  {
    const UniqueFd fd = open_null();
    ASSERT_TRUE(static_cast<bool>(fd));
    number = fd.get();
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, moves_without_closing_and_closes_what_it_replaces) {
  UniqueFd a = open_null();
  UniqueFd b = open_null();
  const int first = a.get();
  const int second = b.get();
  a = std::move(b);
  EXPECT_EQ(a.get(), second);
  EXPECT_FALSE(is_open(first));
  EXPECT_TRUE(is_open(second));
  const int released = a.release();
  EXPECT_FALSE(static_cast<bool>(a));
  EXPECT_TRUE(is_open(released));
  ::close(released);
}

}  // namespace
}  // namespace nbd_remap
