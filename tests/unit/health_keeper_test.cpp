// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/health/health_keeper.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <memory>

namespace nbd_remap {
namespace {

using namespace std::chrono_literals;

class ManualClock final : public Clock {
 public:
  std::chrono::steady_clock::time_point now() const override { return {}; }
  std::uint64_t unix_seconds() const override { return seconds; }
  std::atomic<std::uint64_t> seconds{1'795'219'200};
};

// A volume by its status, and the bytes that a SPARE keeps.
class HealthKeeperTest : public testing::Test {
 protected:
  HealthKeeperTest() {
    status_.store.slots.slots = 1000;
    status_.store.superblock.copies_in_step = 3;
  }
  std::unique_ptr<HealthKeeper> keeper(bool with_store = true) {
    HealthStore store;
    if (with_store) {
      store.max_bytes = 16 << 10;
      store.read = [this]() -> Result<std::vector<std::byte>> {
        if (broken_) return make_error(EIO, "spare: read");
        return saved_;
      };
      store.write = [this](ConstBytes bytes) -> Status {
        ++writes_;
        if (broken_) return make_error(EIO, "spare: write");
        saved_.assign(bytes.begin(), bytes.end());
        return {};
      };
    }
    return std::make_unique<HealthKeeper>(
        [this] {
          MutexLock lock(mu_);
          return status_;
        },
        std::move(store), clock_,
        [this](LogLevel, std::string_view) { ++logged_; });
  }
  void errors(std::uint64_t n) {
    MutexLock lock(mu_);
    status_.main.errors[static_cast<std::size_t>(ErrorClass::medium)] = n;
  }
  Mutex mu_;
  VolumeStatus status_;
  ManualClock clock_;
  std::vector<std::byte> saved_;
  std::atomic<int> writes_{0};
  std::atomic<int> logged_{0};
  std::atomic<bool> broken_{false};
};

TEST_F(HealthKeeperTest, the_past_survives_a_restart) {
  for (int day = 0; day < 10; ++day) {
    status_.store.slots.used = static_cast<std::uint64_t>(day) * 10;
    const auto one = keeper();  // a server a day
    errors(3);
    one->tick();
    clock_.seconds += kDay;
  }
  const HealthReport r = keeper()->report();
  EXPECT_EQ(r.forecast.kind, SpareForecast::Kind::day);
  EXPECT_NEAR(r.forecast.slots_per_day, 10, 1e-6);
  EXPECT_EQ(keeper()->memory().points.size(), 10U);
  EXPECT_EQ(keeper()->memory().points.back().errors, 30U);
}

TEST_F(HealthKeeperTest, the_store_is_written_once_an_hour_at_most) {
  const auto one = keeper();
  for (int minute = 0; minute < 180; ++minute) {
    one->tick();
    clock_.seconds += 60;
  }
  EXPECT_EQ(writes_, 3);
}

TEST_F(HealthKeeperTest, an_acknowledgement_survives_and_new_trouble_alerts) {
  status_.store.remapped = 12;
  {
    const auto one = keeper();
    EXPECT_TRUE(one->report().alert);
    ASSERT_TRUE(one->acknowledge());
    EXPECT_FALSE(one->report().alert);
    one->tick();
  }
  const auto two = keeper();
  EXPECT_FALSE(two->report().alert);
  clock_.seconds += 30 * kDay;
  EXPECT_FALSE(two->report().alert);
  status_.store.remapped = 13;
  EXPECT_TRUE(two->report().alert);
  // All was copied back, and then it begins again.
  status_.store.remapped = 0;
  two->tick();
  EXPECT_FALSE(two->report().alert);
  status_.store.remapped = 5;
  EXPECT_TRUE(two->report().alert);
  EXPECT_TRUE(keeper()->report().alert);
}

TEST_F(HealthKeeperTest, a_missing_spare_takes_nothing_back) {
  status_.store.remapped = 12;
  const auto one = keeper();
  ASSERT_TRUE(one->acknowledge());
  one->tick();
  const VolumeStatus before = status_;
  status_.missing_spare = "gone";
  status_.store = {};
  clock_.seconds += kDay;
  one->tick();
  EXPECT_TRUE(one->report().alert);
  status_ = before;
  EXPECT_FALSE(one->report().alert);
}

TEST_F(HealthKeeperTest, what_fails_requests_cannot_be_acknowledged) {
  status_.breaker_open = true;
  const auto one = keeper();
  const Status refused = one->acknowledge();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().errnum, EBUSY);
  EXPECT_TRUE(one->report().alert);
}

TEST_F(HealthKeeperTest, what_a_drive_said_is_kept_with_its_time) {
  SmartCounts counts;
  counts.pending = 8;
  counts.noted = 1;
  keeper()->tick();
  const auto one = keeper();
  one->note_smart(counts);
  one->tick();
  const auto kept = keeper()->memory().smart;
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->noted, clock_.seconds);
  EXPECT_EQ(kept->pending, 8U);
}

TEST_F(HealthKeeperTest, its_thread_saves_at_once_and_at_the_end) {
  const auto one = keeper();
  one->start();
  EXPECT_EQ(one->wait_saved(30s), HealthKeeper::Saved::yes);
  for (int i = 0; i < 50; ++i) {
    one->note_smart(SmartCounts());
    ASSERT_EQ(one->wait_saved(30s), HealthKeeper::Saved::yes);
  }
  errors(7);
  one->stop();
  one->stop();
  EXPECT_EQ(keeper()->memory().errors, 14U);  // 7 of before, 7 of now
}

TEST_F(HealthKeeperTest, a_store_that_fails_is_said_and_tried_again) {
  broken_ = true;
  const auto one = keeper();
  EXPECT_EQ(logged_, 1);
  one->start();
  one->note_smart(SmartCounts());
  EXPECT_EQ(one->wait_saved(30s), HealthKeeper::Saved::failed);
  EXPECT_GE(logged_, 2);
  broken_ = false;
  one->note_smart(SmartCounts());
  EXPECT_EQ(one->wait_saved(30s), HealthKeeper::Saved::yes);
}

TEST_F(HealthKeeperTest, without_a_store_it_is_known_until_the_end) {
  status_.store.remapped = 1;
  const auto one = keeper(false);
  one->start();
  ASSERT_TRUE(one->acknowledge());
  EXPECT_EQ(one->wait_saved(0s), HealthKeeper::Saved::nowhere);
  EXPECT_FALSE(one->report().alert);
  one->stop();
  EXPECT_EQ(writes_, 0);
}

}  // namespace
}  // namespace nbd_remap
