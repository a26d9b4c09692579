// SPDX-License-Identifier: BSD-3-Clause
// Offsets and lengths, up to the largest that a request can hold, with each
// command.

#include "plugins/wire/http_client.hpp"
#include "tests/wire_hostile/wire_transmission.hpp"

namespace nbd_remap {
namespace {

class WireRanges : public WireTransmission {};

TEST_F(WireRanges, requests_of_no_length_do_not_end_the_connection) {
  for (const bool structured : {false, true}) {
    WireClient c = client(structured, structured);
    for (const std::uint16_t type :
         {wire::kRead, wire::kWrite, wire::kTrim, wire::kCache,
          wire::kWriteZeroes, wire::kBlockStatus})
      for (const std::uint64_t offset :
           {std::uint64_t{0}, kSize - 1, kSize, kSize + 1}) {
        c.send(request_text(0, type, 1, offset, 0));
        c.reply(0, type, offset, 0);
      }
    EXPECT_TRUE(c.serves());
  }
}

struct Beyond {
  std::uint64_t offset;
  std::uint32_t length;
};
const Beyond kBeyond[] = {{5ULL << 30, 513},
                          {(5ULL << 30) + 512, 1},
                          {~0ULL, 1},
                          {~0ULL - 511, 512},
                          {~0ULL, kMost},
                          {1ULL << 63, 512},
                          {(1ULL << 63) - 1, 2},
                          {0xFFFF'FFFF'0000'0000, 512},
                          {(5ULL << 30), kMost},
                          {1ULL << 40, 0x8000'0000}};

TEST_F(WireRanges, reads_beyond_the_end_are_invalid) {
  for (const bool structured : {false, true})
    for (const Beyond& b : kBeyond) {
      WireClient c = client(structured);
      EXPECT_EQ(c.ask(0, wire::kRead, b.offset, b.length).error, kEinval);
      EXPECT_TRUE(c.serves());
    }
}

TEST_F(WireRanges, writes_beyond_the_end_have_no_space) {
  WireClient c = client();
  for (const Beyond& b : kBeyond) {
    if (b.length > 4096) continue;
    EXPECT_EQ(
        c.ask(0, wire::kWrite, b.offset, b.length, std::string(b.length, 'x'))
            .error,
        kEnospc);
    EXPECT_TRUE(c.serves()) << "and their data is not taken for a request";
  }
}

TEST_F(WireRanges, what_carries_no_data_is_refused_beyond_the_end) {
  WireClient c = client(true, true);
  for (const Beyond& b : kBeyond) {
    EXPECT_EQ(c.ask(0, wire::kTrim, b.offset, b.length).error, kEinval);
    EXPECT_EQ(c.ask(0, wire::kWriteZeroes, b.offset, b.length).error, kEnospc);
    EXPECT_EQ(c.ask(0, wire::kBlockStatus, b.offset, b.length).error, kEinval);
    EXPECT_EQ(c.ask(0, wire::kCache, b.offset, b.length).error, kEinval);
  }
  EXPECT_TRUE(c.serves());
}

TEST_F(WireRanges, a_read_of_4_gib_is_an_error_that_ends_nothing) {
  for (const bool structured : {false, true}) {
    WireClient c = client(structured);
    for (const std::uint32_t length : {kMost, 0x8000'0000U, (64U << 20) + 1})
      EXPECT_NE(c.ask(0, wire::kRead, 0, length).error, 0U);
    EXPECT_TRUE(c.serves());
  }
}

// It may end the connection, whose data nobody wants; no other one.
TEST_F(WireRanges, a_write_of_4_gib_costs_the_others_nothing) {
  for (const std::uint32_t length : {kMost, 0x8000'0000U, (64U << 20) + 1}) {
    WireClient c = client();
    c.send(request_text(0, wire::kWrite, 1, 0, length, "xyz"));
    check_old(world());
  }
}

TEST_F(WireRanges, a_trim_of_4_gib_is_done) {
  WireClient c = client();
  for (const std::uint16_t flags :
       {std::uint16_t{0}, std::uint16_t{wire::kFua}})
    for (const std::uint64_t offset : {0ULL, 1ULL, 512ULL})
      EXPECT_EQ(c.ask(flags, wire::kTrim, offset, kMost).error, 0U);
  EXPECT_TRUE(c.serves());
}

TEST_F(WireRanges, a_zero_of_4_gib_is_done_and_reads_as_zeroes) {
  WireClient c = client();
  EXPECT_EQ(c.ask(0, wire::kWrite, 3ULL << 30, 4096, pattern(1, 4096)).error,
            0U);
  EXPECT_EQ(c.ask(0, wire::kWriteZeroes, 1, kMost).error, 0U);
  EXPECT_EQ(c.ask(0, wire::kRead, 3ULL << 30, 4096).data,
            std::string(4096, '\0'));
}

// Contract C7, C8: to the byte.
TEST_F(WireRanges, zeroes_and_trims_leave_their_neighbours) {
  WireClient c = client();
  for (const std::uint16_t type : {wire::kWriteZeroes, wire::kTrim})
    for (const Beyond& part :
         {Beyond{1, 1}, {511, 2}, {100, 9'000}, {4'095, 4'098}, {512, 7'000}}) {
      const std::string data = pattern(part.length, 16'384);
      ASSERT_EQ(c.ask(0, wire::kWrite, 4'096, 16'384, data).error, 0U);
      ASSERT_EQ(c.ask(0, type, 4'096 + part.offset, part.length).error, 0U);
      const std::string back = c.ask(0, wire::kRead, 4'096, 16'384).data;
      const std::size_t end = part.offset + part.length;
      EXPECT_TRUE(back.substr(0, part.offset) == data.substr(0, part.offset));
      EXPECT_TRUE(back.substr(end) == data.substr(end));
      if (type == wire::kWriteZeroes) {
        EXPECT_EQ(back.substr(part.offset, part.length),
                  std::string(part.length, '\0'));
      }
    }
}

TEST_F(WireRanges, a_zero_without_a_hole_and_a_fast_one_are_zeroes) {
  for (const std::uint16_t flag : {wire::kNoHole, wire::kFastZero}) {
    WireClient c = client();
    const std::string data = pattern(flag, 8'192);
    ASSERT_EQ(c.ask(0, wire::kWrite, 8'192, 8'192, data).error, 0U);
    const std::uint32_t error =
        c.ask(flag, wire::kWriteZeroes, 8'192, 8'192).error;
    // ENOTSUP, and then nothing has changed; EINVAL where it is not advertised.
    const bool refused = flag == wire::kFastZero && error != 0;
    EXPECT_TRUE(error == 0 || (refused && (error == 95 || error == kEinval)));
    EXPECT_TRUE(c.ask(0, wire::kRead, 8'192, 8'192).data ==
                (refused ? data : std::string(8'192, '\0')));
  }
}

// A fast zero that is not faster than writing is refused and changes nothing.
TEST_F(WireRanges, a_fast_zero_of_parts_of_sectors_is_refused) {
  WireClient c = client();
  if (!(c.flags() & wire::kSendFastZero)) GTEST_SKIP() << "not advertised";
  const std::string data = pattern(4, 4'096);
  ASSERT_EQ(c.ask(0, wire::kWrite, 0, 4'096, data).error, 0U);
  EXPECT_EQ(c.ask(wire::kFastZero, wire::kWriteZeroes, 1, 1'000).error, 95U);
  EXPECT_TRUE(c.ask(0, wire::kRead, 0, 4'096).data == data);
}

// CVE-2025-47711: an answer beyond the request aborts nbdkit 1.32.5. That they
// are not empty and not beyond the request is checked of each reply.
TEST_F(WireRanges, a_block_status_of_any_length_is_clamped) {
  WireClient c = client(true, true);
  for (const std::uint64_t offset :
       {0ULL, 1ULL, 511ULL, 512ULL, 4'095ULL, 1ULL << 30})
    for (const std::uint32_t length : {1U, 511U, 513U, 0x8000'0000U, kMost}) {
      if (offset + length > kSize) continue;
      const Reply r = c.ask(0, wire::kBlockStatus, offset, length);
      EXPECT_EQ(r.error, 0U);
      EXPECT_TRUE(r.structured);
      EXPECT_EQ(c.ask(wire::kReqOne, wire::kBlockStatus, offset, length)
                    .extents.size(),
                1U);
    }
}

// nbdkit 1.32.5 aborts if a client leaves while a reply of several extents is
// being sent.
TEST_F(WireRanges, clients_leave_amid_the_replies_to_a_block_status) {
  constexpr std::uint64_t kAt = 2ULL << 30;
  constexpr std::uint32_t kStep = 128 << 10;
  WireClient c = client(true, true);
  for (std::uint32_t i = 0; i < 100; ++i)  // data, hole, data, …
    ASSERT_EQ(c.ask(0, wire::kWrite, kAt + std::uint64_t{i} * kStep, 4'096,
                    std::string(4'096, 'x'))
                  .error,
              0U);
  const auto two = [&](std::uint64_t at) {
    return c.ask(0, wire::kBlockStatus, at, 100 * kStep).extents.front().second;
  };
  ASSERT_EQ(two(kAt), 0U);
  ASSERT_EQ(two(kAt + 65'536), 3U);
  for (int i = 0; i < 8; ++i) {
    WireClient leaving = client(true, true);
    // Until it waits for a place for its replies.
    while (leaving.send(
        request_text(0, wire::kBlockStatus, 1, kAt, 100 * kStep))) {
    }
    leaving.leave();
    ASSERT_TRUE(c.serves());
    ASSERT_NO_FATAL_FAILURE(check_old(world()));
  }
}

// Contract C8: where MAIN has a hole and the block lives on SPARE.
TEST_F(WireRanges, a_block_status_calls_no_remapped_block_a_hole) {
  constexpr std::uint64_t kAt = 3ULL << 30;
  WireClient c = client(true, true);
  const auto holes = [&] {
    return c.ask(0, wire::kBlockStatus, kAt, 4096).extents[0].second;
  };
  ASSERT_EQ(c.ask(0, wire::kTrim, kAt, 1 << 20).error, 0U);
  ASSERT_EQ(holes(), 3U) << "a hole that reads as zeroes";
  const std::string socket = world().volume->control();
  const auto volumes = http_request(socket, "GET", "/v1/volumes", "");
  ASSERT_TRUE(volumes);
  const std::string name = json::parse(volumes->body)["volumes"][0]["name"];
  const auto moved =
      http_request(socket, "POST",
                   "/v1/volumes/" + percent_encode(name) +
                       "/remap?length=4096&offset=" + std::to_string(kAt),
                   "");
  ASSERT_TRUE(moved);
  EXPECT_TRUE(eventually(
      [&] { return world().volume->show()["blocks"]["remapped"] == 1; }));
  EXPECT_EQ(holes(), 0U);
}

}  // namespace
}  // namespace nbd_remap
