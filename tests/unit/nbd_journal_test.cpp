// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_journal.hpp"

#include <gtest/gtest.h>

#include <random>

namespace nbd_remap {
namespace {

NbdJournal::Copy copy_of(std::size_t size, char c) {
  return std::make_shared<const std::vector<std::byte>>(size, std::byte(c));
}

// What a replay would make of a disk that lost all of it ('.').
std::string replayed(const NbdJournal& journal, std::size_t size) {
  std::string disk(size, '.');
  for (const NbdJournal::Piece& piece : journal.pieces())
    for (std::uint64_t i = 0; i < piece.length; ++i) {
      char& c = disk.at(piece.offset + i);
      EXPECT_EQ(c, '.') << "two pieces overlap";
      c = piece.copy ? static_cast<char>(piece.copy->at(piece.from + i)) : '0';
    }
  return disk;
}

TEST(NbdJournal, holds_the_newest_version_of_each_byte) {
  NbdJournal journal;
  journal.wrote(2, 6, copy_of(6, 'a'), 0);
  journal.wrote(4, 2, copy_of(2, 'b'), 0);
  EXPECT_EQ(replayed(journal, 10), "..aabbaa..");
  journal.wrote(0, 3, nullptr, 0);
  EXPECT_EQ(replayed(journal, 10), "000abbaa..");
  journal.made_durable(5, 2);
  EXPECT_EQ(replayed(journal, 10), "000ab..a..");
  journal.wrote(0, 10, copy_of(10, 'c'), 0);
  EXPECT_EQ(replayed(journal, 10), "cccccccccc");
}

TEST(NbdJournal, a_flush_releases_what_was_acked_before_it_was_sent) {
  NbdJournal journal;
  journal.wrote(0, 4, copy_of(4, 'a'), 0);
  const std::uint64_t mark = journal.mark();
  journal.wrote(2, 4, copy_of(4, 'b'), 0);
  EXPECT_EQ(journal.bytes(), 8U);
  journal.flushed(mark);
  EXPECT_EQ(replayed(journal, 8), "..bbbb..");
  EXPECT_EQ(journal.bytes(), 4U);
  journal.flushed(journal.mark());
  EXPECT_TRUE(journal.empty());
  EXPECT_EQ(journal.bytes(), 0U);
}

TEST(NbdJournal, a_bad_place_is_known_until_it_is_written_or_flushed) {
  NbdJournal journal;
  journal.failed(4096, 4096);
  EXPECT_TRUE(journal.known_bad(8191, 1));
  EXPECT_FALSE(journal.known_bad(8192, 4096));
  EXPECT_FALSE(journal.known_bad(0, 4096));
  journal.wrote(0, 16384, nullptr, 0);
  EXPECT_FALSE(journal.known_bad(4096, 4096));
  journal.failed(0, 512);
  journal.flushed(journal.mark());
  EXPECT_FALSE(journal.known_bad(0, 512));
}

TEST(NbdJournal, agrees_with_a_model_after_any_sequence) {
  constexpr std::size_t kSize = 64;
  for (unsigned seed = 1; seed <= 300; ++seed) {
    std::mt19937 random(seed);
    NbdJournal journal;
    std::string model(kSize, '.');
    std::vector<std::uint64_t> age(kSize);
    for (int step = 0; step < 60; ++step) {
      const std::size_t at = random() % kSize;
      const std::size_t length = random() % (kSize - at) + 1;
      const char c = static_cast<char>('a' + random() % 26);
      const auto set = [&](char value) {
        for (std::size_t i = at; i < at + length; ++i) {
          model[i] = value;
          age[i] = journal.mark();
        }
      };
      switch (random() % 6) {
        case 0:
          journal.wrote(at, length, nullptr, 0);
          set('0');
          break;
        case 1:
          journal.made_durable(at, length);
          set('.');
          break;
        case 2: {
          const std::uint64_t mark = random() % (journal.mark() + 1);
          journal.flushed(mark);
          for (std::size_t i = 0; i < kSize; ++i)
            if (age[i] <= mark) model[i] = '.';
          break;
        }
        default:
          journal.wrote(at, length, copy_of(length, c), 0);
          set(c);
      }
      ASSERT_EQ(replayed(journal, kSize), model)
          << "seed " << seed << ", step " << step;
    }
    journal.flushed(journal.mark());
    EXPECT_EQ(journal.bytes(), 0U) << "seed " << seed;
  }
}

}  // namespace
}  // namespace nbd_remap
