// SPDX-License-Identifier: BSD-3-Clause
// The judge is judged: histories made by hand that it must refuse, or must not,
// and thousands of small ones on which every order was tried.

#include "tests/history/word_history.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

namespace nbd_remap {
namespace {

using Kind = Operation::Kind;
using Time = Operation::Time;
using History = std::vector<Operation>;

Operation write(Tag tag, Time start, Time end) {
  return {Kind::write, true, 0, 1, start, end, tag, {}};
}
Operation read(Tag tag, Time start, Time end) {
  return {Kind::read, true, 0, 1, start, end, kZeroes, {{0, 1, tag}}};
}
Operation zero(Time start, Time end) {
  return {Kind::zero, true, 0, 1, start, end, kZeroes, {}};
}
Operation trim(Time start, Time end) {
  return {Kind::trim, true, 0, 1, start, end, kZeroes, {}};
}
Operation failed(Operation o) {
  o.acked = false;
  return o;
}
// The one finding, or nothing.
std::string wrong(const History& history, Tag initial = kZeroes) {
  const auto found = anomalies(history, {initial});
  return found.empty() ? "" : found[0];
}
bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(WordHistory, what_is_in_order_passes) {
  EXPECT_EQ(wrong({}), "");
  EXPECT_EQ(wrong({read(kZeroes, 1, 2), write(7, 3, 4), read(7, 5, 6)}), "");
  EXPECT_EQ(wrong({write(7, 1, 2), zero(3, 4), read(kZeroes, 5, 6)}), "");
  EXPECT_EQ(wrong({read(9, 1, 2), write(7, 3, 4), read(7, 5, 6)}, 9), "");
}

TEST(WordHistory, requests_that_overlap_may_take_any_order) {
  EXPECT_EQ(wrong({write(1, 1, 10), write(2, 2, 9), read(1, 11, 12)}), "");
  EXPECT_EQ(wrong({write(1, 1, 10), write(2, 2, 9), read(2, 11, 12)}), "");
  // Seen before it is acknowledged, and the old one beside it.
  EXPECT_EQ(wrong({write(1, 1, 10), read(1, 2, 3), read(1, 4, 5)}), "");
  EXPECT_EQ(wrong({write(1, 1, 10), read(kZeroes, 2, 5), read(1, 3, 4)}), "");
  // What ends when the other begins has no order with it.
  EXPECT_EQ(wrong({write(1, 1, 2), write(2, 2, 3), read(1, 4, 5)}), "");
}

TEST(WordHistory, a_stale_read_is_refused) {
  EXPECT_TRUE(
      says(wrong({write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)}), "no order"));
  EXPECT_TRUE(says(wrong({write(1, 1, 2), read(9, 3, 4)}, 9), "no order"));
}

TEST(WordHistory, a_lost_write_is_refused) {
  EXPECT_TRUE(
      says(wrong({write(1, 1, 2), read(kZeroes, 3, 4)}), "can have left"));
  EXPECT_TRUE(says(
      wrong({write(1, 1, 4), write(2, 2, 3), write(3, 5, 6), read(2, 7, 8)}),
      "no order"));
  EXPECT_TRUE(
      says(wrong({write(1, 1, 2), zero(3, 4), read(1, 5, 6)}), "no order"));
}

TEST(WordHistory, a_read_from_the_future_is_refused) {
  EXPECT_TRUE(says(wrong({read(1, 1, 2), write(1, 3, 4)}), "future"));
  EXPECT_TRUE(
      says(wrong({read(kZeroes, 1, 2), zero(3, 4)}, 9), "can have left"));
}

TEST(WordHistory, a_value_that_nobody_wrote_is_refused) {
  EXPECT_TRUE(says(wrong({read(5, 1, 2)}), "nobody wrote"));
  EXPECT_TRUE(says(wrong({read(kNobody, 1, 2)}), "nobody wrote"));
  EXPECT_TRUE(says(wrong({read(kZeroes, 1, 2)}, 9), "can have left"));
}

// Once the newer one was seen the older one does not come back, though both
// writes still run.
TEST(WordHistory, a_flip_flop_is_refused) {
  EXPECT_TRUE(says(wrong({write(1, 1, 20), write(2, 2, 19), read(1, 3, 4),
                          read(2, 5, 6), read(1, 7, 8)}),
                   "no order"));
  EXPECT_TRUE(says(wrong({write(1, 1, 20), read(1, 2, 3), read(9, 4, 5)}, 9),
                   "no order"));
}

TEST(WordHistory, a_failed_write_may_come_late_or_never_but_not_twice) {
  EXPECT_EQ(wrong({failed(write(1, 1, 2)), read(kZeroes, 3, 4)}), "");
  EXPECT_EQ(wrong({failed(write(1, 1, 2)), write(2, 3, 4), read(1, 5, 6)}), "");
  EXPECT_EQ(wrong({failed(zero(1, 2)), write(2, 3, 4), read(kZeroes, 5, 6)}),
            "");
  EXPECT_TRUE(says(wrong({failed(write(1, 1, 2)), read(1, 3, 4), write(2, 5, 6),
                          read(1, 7, 8)}),
                   "no order"));
}

TEST(WordHistory, a_trim_leaves_what_was_there_or_zeroes) {
  EXPECT_EQ(wrong({write(1, 1, 2), trim(3, 4), read(1, 5, 6)}), "");
  EXPECT_EQ(wrong({write(1, 1, 2), trim(3, 4), read(kZeroes, 5, 6)}), "");
  EXPECT_TRUE(says(wrong({trim(1, 2), write(1, 3, 4), read(kZeroes, 5, 6)}, 9),
                   "can have left"));
}

// Mistake 5: each word of a request is looked at, with its own neighbours.
TEST(WordHistory, only_the_word_that_is_wrong_is_named) {
  History h{
      {Kind::write, true, 0, 8, 1, 2, 1, {}},
      {Kind::write, true, 2, 3, 3, 4, 2, {}},
      {Kind::read, true, 0, 8, 5, 6, 0, {{0, 2, 1}, {2, 3, 2}, {5, 3, 1}}}};
  const std::vector<Tag> before(8, kZeroes);
  EXPECT_TRUE(anomalies(h, before).empty());
  h[2].seen = {{0, 2, 1}, {2, 2, 2}, {4, 4, 1}};
  const auto found = anomalies(h, before);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].substr(0, 8), "word 4: ");
}

TEST(WordHistory, a_stamp_of_another_place_is_nobodys) {
  std::vector<std::uint64_t> words{stamp(tag_of(3, 9), 100),
                                   stamp(tag_of(3, 9), 101), 0,
                                   stamp(tag_of(3, 9), 102), 77};
  const auto runs =
      runs_of(std::as_bytes(std::span<const std::uint64_t>(words)), 100);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[0].tag, tag_of(3, 9));
  EXPECT_EQ(runs[0].words, 2U);
  EXPECT_EQ(runs[1].tag, kZeroes);
  EXPECT_EQ(runs[2].tag, kNobody);
  EXPECT_EQ(runs[2].words, 2U);
}

// Every order of all requests, one after the other.
bool some_order(const History& history, Tag initial) {
  std::vector<std::size_t> order(history.size());
  std::iota(order.begin(), order.end(), 0);
  do {
    bool legal = true;
    Tag value = initial;
    for (std::size_t i = 0; i < order.size() && legal; ++i) {
      const Operation& o = history[order[i]];
      for (std::size_t later = i + 1; later < order.size(); ++later)
        legal = legal && history[order[later]].end >= o.start;
      if (o.kind == Kind::read)
        legal = legal && o.seen[0].tag == value;
      else
        value = o.tag;
    }
    if (legal) return true;
  } while (std::next_permutation(order.begin(), order.end()));
  return false;
}

History random_history(std::mt19937_64& random, bool zeroes) {
  History h;
  Tag written = 0;
  for (std::uint64_t i = 0, n = 2 + random() % 5; i < n; ++i) {
    const Time start = 1 + random() % 12;
    const Time end = start + random() % 6;
    const auto kind = random() % 5;
    if (kind < 2)
      h.push_back(write(++written, start, end));
    else if (kind == 2 && zeroes)
      h.push_back(zero(start, end));
    else
      h.push_back(read(0, start, end));
  }
  for (Operation& o : h)
    if (o.kind == Kind::read) {
      const Tag tag = random() % (written + 1);
      o.seen[0].tag = tag == 0 && !zeroes ? 99 : tag;
    }
  return h;
}

// Where values differ the judge is exact.
TEST(WordHistory, it_agrees_with_trying_every_order) {
  std::mt19937_64 random(1);
  int legal = 0;
  for (int i = 0; i < 20'000; ++i) {
    const History h = random_history(random, false);
    const bool expected = some_order(h, 99);
    legal += expected;
    ASSERT_EQ(wrong(h, 99) == "", expected) << "history " << i << " of seed 1";
  }
  EXPECT_GT(legal, 2'000);
  EXPECT_LT(legal, 18'000);
}

// With zeroes, which look alike, it may miss something, but accuses nobody
// falsely, and misses little.
TEST(WordHistory, it_never_accuses_what_has_an_order) {
  std::mt19937_64 random(2);
  int illegal = 0;
  int missed = 0;
  for (int i = 0; i < 20'000; ++i) {
    const History h = random_history(random, true);
    const bool expected = some_order(h, kZeroes);
    const bool passed = wrong(h) == "";
    illegal += !expected;
    missed += !expected && passed;
    ASSERT_TRUE(passed || !expected) << "history " << i << " of seed 2";
  }
  EXPECT_GT(illegal, 2'000);
  EXPECT_LT(missed, illegal / 20) << missed << " of " << illegal;
}

Operation on_sectors(Operation o, std::uint64_t first, std::uint64_t sectors) {
  o.first = first * kWordsPerSector;
  o.words = sectors * kWordsPerSector;
  return o;
}

TEST(WordHistory, an_error_needs_a_bad_sector_that_was_not_written_since) {
  const Operation lost = failed(on_sectors(read(0, 50, 60), 3, 4));
  const Operation cure = on_sectors(write(1, 30, 40), 5, 1);
  const BadSectors bad{5, 1, 10, 20};
  EXPECT_EQ(unexcused_errors(History{lost}, {}).size(), 1U);
  EXPECT_TRUE(unexcused_errors(History{lost}, std::span(&bad, 1)).empty());
  EXPECT_EQ(unexcused_errors(History{cure, lost}, std::span(&bad, 1)).size(),
            1U);
  // Written while it became bad, or with no success, or as a part only.
  Operation part = cure;
  --part.words;
  const auto accused = [&](const Operation& no_cure) {
    const auto found =
        unexcused_errors(History{no_cure, lost}, std::span(&bad, 1));
    return std::find(found.begin(), found.end(), describe(lost)) != found.end();
  };
  EXPECT_TRUE(accused(cure));
  EXPECT_FALSE(accused(on_sectors(write(1, 15, 40), 5, 1)));
  EXPECT_FALSE(accused(failed(cure)));
  EXPECT_FALSE(accused(part));
  const BadSectors elsewhere{7, 9, 10, 20};
  EXPECT_EQ(unexcused_errors(History{lost}, std::span(&elsewhere, 1)).size(),
            1U);
  const BadSectors later{5, 1, 61, 70};
  EXPECT_EQ(unexcused_errors(History{lost}, std::span(&later, 1)).size(), 1U);
}

// Contract C6: a write has to read only what it writes in part.
TEST(WordHistory, a_write_of_whole_sectors_has_no_excuse) {
  const BadSectors bad{5, 1, 10, 20};
  Operation o = failed(on_sectors(write(1, 30, 40), 5, 1));
  EXPECT_EQ(unexcused_errors(History{o}, std::span(&bad, 1)).size(), 1U);
  o.words -= 3;
  EXPECT_TRUE(unexcused_errors(History{o}, std::span(&bad, 1)).empty());
}

}  // namespace
}  // namespace nbd_remap
