// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/result.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>

namespace nbd_remap {
namespace {

TEST(Result, holds_a_value_or_an_error_and_says_which) {
  Result<int> good = 7;
  ASSERT_TRUE(good.ok());
  EXPECT_TRUE(static_cast<bool>(good));
  EXPECT_EQ(*good, 7);
  const Result<int> bad = make_error(EIO, "disk");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().errnum, EIO);
  EXPECT_EQ(bad.error().place, "disk");
}

TEST(Result, passes_on_a_value_that_cannot_be_copied) {
  Result<std::unique_ptr<int>> made = std::make_unique<int>(5);
  ASSERT_TRUE(made.ok());
  const std::unique_ptr<int> taken = *std::move(made);
  EXPECT_EQ(*taken, 5);
  Result<std::string> text = std::string("abc");
  EXPECT_EQ(text->size(), 3U);
}

TEST(Result, a_value_of_zero_is_not_a_failure) {
  EXPECT_TRUE(Result<int>(0).ok());
  EXPECT_TRUE(Result<bool>(false).ok());
}

TEST(Status, is_success_unless_it_was_given_an_error) {
  EXPECT_TRUE(Status().ok());
  const Status failed = make_error(ENOSPC, "spare");
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().error_class, ErrorClass::full);
}

}  // namespace
}  // namespace nbd_remap
