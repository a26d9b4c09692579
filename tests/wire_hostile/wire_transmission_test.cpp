// SPDX-License-Identifier: BSD-3-Clause
// What the protocol document says of the transmission phase, case by case, and
// what a server must do when a client does not keep to it.

#include "tests/wire_hostile/wire_transmission.hpp"

namespace nbd_remap {
namespace {

class WireRequests : public WireTransmission {};

TEST_F(WireRequests, what_is_advertised_is_there_and_no_more) {
  using namespace wire;
  constexpr std::uint16_t kAll = kHasFlags | kSendFlush | kSendFua | kSendTrim |
                                 kSendWriteZeroes | kCanMultiConn;
  EXPECT_EQ(client(true).size(), kSize);
  EXPECT_EQ(client(true).flags() & (kAll | kReadOnly | kSendDf),
            kAll | kSendDf);
  EXPECT_EQ(client(false).flags() & (kAll | kReadOnly | kSendDf), kAll)
      << "DF has no meaning without structured replies";
}

TEST_F(WireRequests, a_read_has_one_form_whatever_its_error) {
  for (const bool structured : {false, true}) {
    WireClient c = client(structured);
    const auto is_so = [&](const Reply& r, std::uint32_t error) {
      EXPECT_EQ(r.structured, structured);
      EXPECT_EQ(r.error, error);
    };
    is_so(c.ask(0, wire::kRead, 0, 4096), 0);
    is_so(c.ask(0, wire::kRead, kSize, 1), kEinval);
    is_so(c.ask(0x8000, wire::kRead, 0, 512), kEinval);
    is_so(c.ask(0, wire::kRead, 0, 512), 0);
  }
}

TEST_F(WireRequests, what_was_written_is_read_in_either_form) {
  const std::string data = pattern(5, 70'001);
  for (const bool structured : {false, true}) {
    WireClient c = client(structured);
    EXPECT_EQ(c.ask(wire::kFua, wire::kWrite, 123'457, 70'001, data).error, 0U);
    EXPECT_TRUE(c.ask(0, wire::kRead, 123'457, 70'001).data == data);
  }
}

TEST_F(WireRequests, an_unfragmented_read_of_64_kib_is_one_chunk) {
  WireClient c = client();
  for (const std::uint32_t length : {1U, 512U, 65'536U})
    for (const std::uint64_t offset : {0ULL, 1ULL, 1ULL << 20}) {
      const Reply r = c.ask(wire::kDf, wire::kRead, offset, length);
      EXPECT_EQ(r.error, 0U);
      EXPECT_EQ(r.content_chunks, 1U);
    }
}

TEST_F(WireRequests, a_read_of_32_mib_is_whole) {
  WireClient c = client(false);
  EXPECT_EQ(c.ask(0, wire::kRead, 512, 32 << 20).data.size(), 32U << 20);
}

TEST_F(WireRequests, a_write_of_32_mib_is_taken) {
  WireClient c = client();
  const std::string data = pattern(6, 32 << 20);
  // RawClient gives up on a server that takes nothing for 200 ms.
  for (std::size_t at = 0; at < data.size(); at += 1 << 20)
    ASSERT_EQ(c.ask(0, wire::kWrite, (1 << 20) + at, 1 << 20,
                    data.substr(at, 1 << 20))
                  .error,
              0U);
  EXPECT_TRUE(c.ask(0, wire::kRead, 1 << 20, 32 << 20).data == data);
}

TEST_F(WireRequests, a_block_status_without_a_context_is_invalid) {
  WireClient c = client(true, false);
  EXPECT_EQ(c.ask(0, wire::kBlockStatus, 0, 512).error, kEinval);
  EXPECT_TRUE(c.serves());
  WireClient simple = client(false);
  EXPECT_EQ(simple.ask(0, wire::kBlockStatus, 0, 512).error, kEinval);
  EXPECT_TRUE(simple.serves());
}

TEST_F(WireRequests, fua_is_taken_with_every_command) {
  WireClient c = client(true, true);
  for (const std::uint16_t type :
       {wire::kRead, wire::kFlush, wire::kTrim, wire::kCache,
        wire::kWriteZeroes, wire::kBlockStatus})
    EXPECT_EQ(c.ask(wire::kFua, type, 0, type == wire::kFlush ? 0 : 512).error,
              0U)
        << type;
  EXPECT_EQ(
      c.ask(wire::kFua, wire::kWrite, 0, 512, std::string(512, 'x')).error, 0U);
}

TEST_F(WireRequests, an_unknown_command_is_invalid_and_ends_nothing) {
  for (const bool structured : {false, true}) {
    WireClient c = client(structured);
    for (const std::uint16_t type : {8, 9, 77, 0x8000, 0xFFFF})
      EXPECT_EQ(c.ask(0, type, 0, 512).error, kEinval) << type;
    EXPECT_TRUE(c.serves());
  }
}

TEST_F(WireRequests, an_unknown_flag_is_invalid_and_ends_nothing) {
  WireClient c = client(true, true);
  for (const std::uint16_t flag : {0x20, 0x40, 0x100, 0x8000, 0xFFE0})
    for (const std::uint16_t type :
         {wire::kRead, wire::kFlush, wire::kTrim, wire::kCache,
          wire::kWriteZeroes, wire::kBlockStatus})
      EXPECT_EQ(c.ask(flag, type, 0, type == wire::kFlush ? 0 : 512).error,
                kEinval)
          << flag << " " << type;
  EXPECT_EQ(c.ask(0x20, wire::kWrite, 0, 512, std::string(512, 'x')).error,
            kEinval);
  EXPECT_TRUE(c.serves());
}

TEST_F(WireRequests, a_flag_of_another_command_is_invalid) {
  using namespace wire;
  WireClient c = client(true, true);
  const auto error = [&](std::uint16_t flag, std::uint16_t type) {
    return c.ask(flag, type, 0, type == kFlush ? 0 : 512).error;
  };
  EXPECT_EQ(error(kNoHole, kRead), kEinval);
  EXPECT_EQ(error(kReqOne, kRead), kEinval);
  EXPECT_EQ(error(kFastZero, kTrim), kEinval);
  EXPECT_EQ(error(kNoHole, kTrim), kEinval);
  EXPECT_EQ(error(kDf, kFlush), kEinval);
  EXPECT_EQ(error(kDf, kWriteZeroes), kEinval);
  EXPECT_EQ(error(kNoHole, kBlockStatus), kEinval);
  EXPECT_EQ(client(false).ask(kDf, kRead, 0, 512).error, kEinval);
  EXPECT_TRUE(c.serves());
}

TEST_F(WireRequests, a_wrong_magic_of_a_request_ends_its_connection) {
  WireClient c = client();
  std::string text = request_text(0, wire::kRead, 1, 0, 512);
  text[0] = '\x26';
  c.send(text);
  EXPECT_TRUE(c.ends());
}

TEST_F(WireRequests, a_cookie_of_any_value_comes_back) {
  WireClient c = client();
  for (const std::uint64_t cookie :
       {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    c.send(request_text(0, wire::kRead, cookie, 0, 512));
    EXPECT_EQ(c.reply(0, wire::kRead, 0, 512).cookie, cookie);
  }
}

TEST_F(WireRequests, each_of_many_requests_at_once_has_one_reply) {
  WireClient c = client();
  std::string all;
  for (std::uint64_t i = 0; i < 200; ++i)
    all += request_text(0, wire::kRead, i, i * 512, 512);
  c.send(all);
  std::vector<int> seen(200, 0);
  for (int i = 0; i < 200; ++i) {
    // Their offsets differ, and that of the reply is not known before.
    const std::string head = c.receive(20);
    ASSERT_EQ(head.size(), 20U);
    std::uint64_t cookie = 0;
    for (std::size_t b = 8; b < 16; ++b)
      cookie = cookie << 8 | static_cast<unsigned char>(head[b]);
    ASSERT_LT(cookie, 200U);
    EXPECT_EQ(head.substr(6, 2), be16(1));
    EXPECT_EQ(head.substr(16, 4), be32(520));
    EXPECT_EQ(c.receive(8), be64(cookie * 512));
    ASSERT_EQ(c.receive(512).size(), 512U);
    ++seen[cookie];
    if (!(head[5] & 1)) {
      ASSERT_EQ(c.receive(20).size(), 20U);
    }
  }
  EXPECT_EQ(seen, std::vector<int>(200, 1));
  EXPECT_TRUE(c.serves());
}

TEST_F(WireRequests, what_was_asked_before_a_disconnect_is_done) {
  const std::string data = pattern(77, 4'096);
  WireClient c = client();
  std::string all;
  for (std::uint64_t i = 0; i < 50; ++i)
    all += request_text(0, wire::kWrite, i, (1 << 20) + i * 4'096, 4'096, data);
  c.send(all + request_text(0, wire::kDisc, 99, 0, 0));
  std::size_t replies = 0;
  while (c.receive(16).size() == 16) ++replies;
  EXPECT_EQ(replies, 50U) << "and none to the disconnect";
  EXPECT_TRUE(c.ends());
  WireClient other = client();
  for (std::uint64_t i = 0; i < 50; ++i)
    EXPECT_TRUE(other.ask(0, wire::kRead, (1 << 20) + i * 4'096, 4'096).data ==
                data);
}

TEST_F(WireRequests, a_disconnect_with_anything_in_it_is_one) {
  for (const std::uint16_t flags : {0, 0xFFFF}) {
    WireClient c = client();
    c.send(request_text(flags, wire::kDisc, 1, ~0ULL, kMost));
    // nbdkit answers EINVAL to unknown flags and stays; the document leaves
    // both to the server.
    if (flags == 0) {
      EXPECT_TRUE(c.ends());
    }
  }
}

// Transmission flags bit 8, contract C2.
TEST_F(WireRequests, a_flush_on_one_connection_covers_the_others) {
  WireClient a = client();
  WireClient b = client();
  WireClient d = client(false);
  const std::string data = pattern(8, 512);
  EXPECT_EQ(a.ask(0, wire::kWrite, 2 << 20, 512, data).error, 0U);
  EXPECT_TRUE(d.ask(0, wire::kRead, 2 << 20, 512).data == data);
  EXPECT_EQ(b.ask(0, wire::kFlush, 0, 0).error, 0U);
  EXPECT_TRUE(d.ask(0, wire::kRead, 2 << 20, 512).data == data);
}

TEST_F(WireRequests, requests_byte_by_byte_are_answered) {
  WireClient c = client();
  for (const char byte :
       request_text(0, wire::kWrite, 1, 0, 64, std::string(64, 'y')))
    ASSERT_TRUE(c.send(std::string(1, byte)));
  EXPECT_EQ(c.reply(0, wire::kWrite, 0, 64).error, 0U);
  EXPECT_EQ(c.ask(0, wire::kRead, 0, 64).data, std::string(64, 'y'));
}

// A client that stands still in each place of a request delays nobody.
TEST_F(WireRequests, clients_that_stop_in_a_request_delay_nobody) {
  const std::string write =
      request_text(0, wire::kWrite, 1, 0, 4'096, std::string(4'096, 'z'));
  std::vector<WireClient> stuck;
  for (const std::size_t n : {0, 1, 4, 8, 16, 24, 27, 28, 29, 1'000, 4'123}) {
    stuck.push_back(client());
    EXPECT_TRUE(stuck.back().send(write.substr(0, n)));
  }
  for (int i = 0; i < 5; ++i) {  // and who does not read what it asked for
    stuck.push_back(client());
    while (stuck.back().ask_read(0, 1 << 20)) {
    }
  }
  WireClient c = client();
  EXPECT_TRUE(c.serves());
  check_old(world());
}

}  // namespace
}  // namespace nbd_remap
