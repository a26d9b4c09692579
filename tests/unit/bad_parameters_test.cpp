// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "plugins/baddisk/parameters.hpp"

namespace nbd_remap {
namespace {

using Words = std::vector<std::pair<std::string, std::string>>;

Result<BadDiskParameters> read(const Words& words) {
  BadDiskParameterReader reader;
  for (const auto& [key, value] : words)
    if (auto ok = reader.set(key, value); !ok) return std::move(ok).error();
  return reader.complete();
}

TEST(BadParameters, the_defaults_are_those_of_the_man_page) {
  const auto p = read({{"file", "/d"}});
  ASSERT_TRUE(p);
  EXPECT_EQ(p->file, "/d");
  EXPECT_TRUE(p->bad.empty());
  EXPECT_FALSE(p->bad_count);
  EXPECT_FALSE(p->bad_percent);
  EXPECT_EQ(p->mode, BadMode::both);
  EXPECT_EQ(p->transient, 0U);
  EXPECT_FALSE(p->heal_on_write);
  EXPECT_EQ(p->seed, 1U);
  EXPECT_EQ(p->errnum, EIO);
  EXPECT_TRUE(p->slow.empty());
  EXPECT_FALSE(p->slow_ms);
  EXPECT_TRUE(p->rot.empty());
  EXPECT_EQ(p->rot_bits, 1U);
  EXPECT_FALSE(p->die_after);
  EXPECT_EQ(p->die_errnum, EIO);
  EXPECT_EQ(p->write_cache_bytes, 0U);
  EXPECT_EQ(p->control, "");
}

TEST(BadParameters, every_word_arrives) {
  const auto p = read({{"bad", "7,9-10:read"},
                       {"bad-percent", "0.5"},
                       {"mode", "write"},
                       {"transient", "4294967295"},
                       {"heal-on-write", "yes"},
                       {"seed", "18446744073709551615"},
                       {"errno", "ENOSPC"},
                       {"slow", "5-6:read"},
                       {"slow-ms", "600000"},
                       {"rot", "1,2"},
                       {"rot-bits", "64"},
                       {"die-after", "0"},
                       {"die-errno", "EPERM"},
                       {"write-cache", "1G"},
                       {"control", "/s"},
                       {"file", "/d"}});
  ASSERT_TRUE(p) << p.error().place;
  EXPECT_EQ(p->bad.size(), 2U);
  EXPECT_EQ(p->bad_percent, 0.5);
  EXPECT_EQ(p->mode, BadMode::write);
  EXPECT_EQ(p->transient, UINT32_MAX);
  EXPECT_TRUE(p->heal_on_write);
  EXPECT_EQ(p->seed, UINT64_MAX);
  EXPECT_EQ(p->errnum, ENOSPC);
  EXPECT_EQ(p->slow.size(), 1U);
  EXPECT_EQ(p->slow_ms, 600'000U);
  EXPECT_EQ(p->rot.size(), 2U);
  EXPECT_EQ(p->rot_bits, 64U);
  EXPECT_EQ(p->die_after, 0U);
  EXPECT_EQ(p->die_errnum, EPERM);
  EXPECT_EQ(p->write_cache_bytes, 1U << 30);
  EXPECT_EQ(p->control, "/s");
  EXPECT_EQ(read({{"file", "/d"}, {"bad-count", "12"}})->bad_count, 12U);
}

TEST(BadParameters, a_wrong_word_is_named_in_one_line_with_an_example) {
  struct Case {
    Words words;
    std::string named;
  };
  const std::string long_path(108, 'p');
  for (const Case& c : {
           Case{{}, "file= is missing"},
           Case{{{"file", ""}}, "file=: "},
           Case{{{"file", "/d"}, {"file", "/d"}}, "file=/d: file was given"},
           Case{{{"bad", "1"}, {"bad", "2"}}, "bad=2: bad was given"},
           Case{{{"bad", "5-3"}}, "bad=5-3: "},
           Case{{{"bad", ""}}, "bad=: "},
           Case{{{"bad-count", "-1"}}, "bad-count=-1: "},
           Case{{{"bad-count", "x"}}, "bad-count=x: "},
           Case{{{"bad-percent", "0"}}, "bad-percent=0: "},
           Case{{{"bad-percent", "100.1"}}, "bad-percent=100.1: "},
           Case{{{"bad-percent", "nan"}}, "bad-percent=nan: "},
           Case{{{"bad-percent", "5%"}}, "bad-percent=5%: "},
           Case{{{"mode", "readwrite"}}, "mode=readwrite: "},
           Case{{{"transient", "4294967296"}}, "transient=4294967296: "},
           Case{{{"heal-on-write", "true"}}, "heal-on-write=true: "},
           Case{{{"seed", "random"}}, "seed=random: "},
           Case{{{"errno", "5"}}, "errno=5: "},
           Case{{{"errno", "EAGAIN"}}, "errno=EAGAIN: "},
           Case{{{"slow", "x"}}, "slow=x: "},
           Case{{{"slow-ms", "0"}}, "slow-ms=0: "},
           Case{{{"slow-ms", "600001"}}, "slow-ms=600001: "},
           Case{{{"file", "/d"}, {"slow", "1"}}, "slow= and slow-ms=: "},
           Case{{{"file", "/d"}, {"slow-ms", "1"}}, "slow= and slow-ms=: "},
           Case{{{"rot", "5-3"}}, "rot=5-3: "},
           Case{{{"rot-bits", "0"}}, "rot-bits=0: "},
           Case{{{"rot-bits", "65"}}, "rot-bits=65: "},
           Case{{{"die-after", "-1"}}, "die-after=-1: "},
           Case{{{"die-errno", "EAGAIN"}}, "die-errno=EAGAIN: "},
           Case{{{"write-cache", "0"}}, "write-cache=0: "},
           Case{{{"write-cache", "2G"}}, "write-cache=2G: "},
           Case{{{"control", ""}}, "control=: "},
           Case{{{"control", long_path}}, "control=" + long_path + ": "},
           Case{{{"size", "1M"}}, "size=1M: unknown"},
           Case{{{"file", "/d"}, {"bad-count", "1"}, {"bad-percent", "1"}},
                "bad-count= and bad-percent="},
       }) {
    const auto p = read(c.words);
    ASSERT_FALSE(p) << c.named;
    const std::string& line = p.error().place;
    EXPECT_EQ(line.find(c.named), 0U) << line;
    EXPECT_NE(line.find("expected"), std::string::npos) << line;
    EXPECT_NE(line.find("for example"), std::string::npos) << line;
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
  }
}

}  // namespace
}  // namespace nbd_remap
