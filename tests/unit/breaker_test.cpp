// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/breaker.hpp"

#include <gtest/gtest.h>

namespace nbd_remap {
namespace {

TEST(Breaker, it_is_time_to_probe_after_so_many_blocks_in_a_row) {
  Breaker breaker(4);
  for (std::uint64_t block : {10, 20, 30})
    EXPECT_FALSE(breaker.failed(BlockNo{block}, 7)) << block;
  EXPECT_TRUE(breaker.failed(BlockNo{40}, 7));
  EXPECT_FALSE(breaker.open()) << "only failed probes open it";
}

TEST(Breaker, one_block_that_fails_again_and_again_is_one_place) {
  Breaker breaker(2);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(breaker.failed(BlockNo{0}, 0));
  EXPECT_TRUE(breaker.failed(BlockNo{1}, 0));
}

TEST(Breaker, any_success_between_begins_the_run_anew) {
  Breaker breaker(2);
  for (std::uint64_t i = 0; i < 100; ++i)
    EXPECT_FALSE(breaker.failed(BlockNo{i}, i));
  EXPECT_TRUE(breaker.failed(BlockNo{100}, 99));
}

TEST(Breaker, an_answered_probe_begins_the_run_anew) {
  Breaker breaker(2);
  EXPECT_FALSE(breaker.failed(BlockNo{1}, 0));
  EXPECT_TRUE(breaker.failed(BlockNo{2}, 0));
  EXPECT_TRUE(breaker.failed(BlockNo{3}, 0)) << "until one is answered";
  breaker.answered();
  EXPECT_FALSE(breaker.failed(BlockNo{4}, 0));
}

TEST(Breaker, a_threshold_of_one_probes_at_once) {
  Breaker breaker(1);
  EXPECT_TRUE(breaker.failed(BlockNo{0}, 0));
}

TEST(Breaker, once_open_it_stays_open) {
  Breaker breaker(2);
  breaker.trip();
  breaker.answered();
  EXPECT_TRUE(breaker.open());
}

}  // namespace
}  // namespace nbd_remap
