// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/volume/health.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace nbd_remap {
namespace {

VolumeStatus sound() {
  VolumeStatus status;
  status.store.slots.slots = 100;
  status.store.superblock.copies_in_step = 3;
  return status;
}

TEST(Health, a_sound_volume_is_healthy_and_has_no_reasons) {
  const Health health = assess_health(sound());
  EXPECT_EQ(health.state, HealthState::healthy);
  EXPECT_TRUE(health.reasons.empty());
}

TEST(Health, each_fact_gives_its_state_and_its_reason) {
  struct Case {
    const char* reason;
    HealthState state;
    std::function<void(VolumeStatus&)> change;
  };
  using S = VolumeStatus;
  const std::vector<Case> cases{
      {"SPARE is missing: gone", HealthState::failed,
       [](S& s) { s.missing_spare = "gone"; }},
      {"can no longer change: broken", HealthState::failed,
       [](S& s) { s.store.failed = "broken"; }},
      {"flush of SPARE", HealthState::failed,
       [](S& s) { s.spare.in_doubt = true; }},
      {"flush of MAIN", HealthState::failed,
       [](S& s) { s.main.in_doubt = true; }},
      {"SPARE is full", HealthState::failed,
       [](S& s) { s.store.slots.used = 100; }},
      {"SPARE is full", HealthState::failed,
       [](S& s) { s.store.slots.used = 60, s.store.slots.retired = 40; }},
      {"nearly full: 90 of 100", HealthState::degraded,
       [](S& s) { s.store.slots.used = 90; }},
      {"one copy of the metadata", HealthState::degraded,
       [](S& s) { s.store.superblock.copies_in_step = 2; }},
      {"1 slot is retired", HealthState::degraded,
       [](S& s) { s.store.slots.retired = 1; }},
      {"1 block has unreadable", HealthState::degraded,
       [](S& s) { s.store.pending = 1; }},
      {"2 blocks of MAIN are bad", HealthState::degraded,
       [](S& s) { s.store.remapped = 2; }},
      {"breaker open", HealthState::failed,
       [](S& s) { s.breaker_open = true; }},
      {"stopping", HealthState::stopping, [](S& s) { s.stopping = true; }},
  };
  for (const Case& c : cases) {
    VolumeStatus status = sound();
    c.change(status);
    const Health health = assess_health(status);
    EXPECT_EQ(health.state, c.state) << c.reason;
    bool said = false;
    for (const std::string& reason : reason_texts(health))
      said |= reason.find(c.reason) != std::string::npos;
    EXPECT_TRUE(said) << c.reason;
  }
}

TEST(Health, the_worst_fact_gives_the_word_and_all_are_named) {
  VolumeStatus status = sound();
  status.store.remapped = 1;
  status.store.pending = 1;
  status.breaker_open = true;
  const Health health = assess_health(status);
  EXPECT_EQ(health.state, HealthState::failed);
  EXPECT_EQ(health.reasons.size(), 3U);
  status.stopping = true;
  EXPECT_EQ(assess_health(status).state, HealthState::stopping);
}

// Mistake 36.
TEST(Health, a_small_spare_below_its_last_slot_is_not_full) {
  for (std::uint64_t slots : {1, 2, 9, 10, 11}) {
    VolumeStatus status = sound();
    status.store.slots.slots = slots;
    EXPECT_EQ(assess_health(status).state, HealthState::healthy) << slots;
    status.store.slots.used = slots - 1;
    EXPECT_NE(assess_health(status).state, HealthState::failed) << slots;
    status.store.slots.used = slots;
    EXPECT_EQ(assess_health(status).state, HealthState::failed) << slots;
  }
}

TEST(Health, every_state_has_its_word) {
  EXPECT_EQ(health_state_name(HealthState::healthy), "healthy");
  EXPECT_EQ(health_state_name(HealthState::degraded), "degraded");
  EXPECT_EQ(health_state_name(HealthState::failed), "failed");
  EXPECT_EQ(health_state_name(HealthState::stopping), "stopping");
}

}  // namespace
}  // namespace nbd_remap
