// SPDX-License-Identifier: BSD-3-Clause
// What the protocol document says of the handshake, case by case, and what a
// server must do when a client does not keep to it.

#include "tests/wire_hostile/wire_fixture.hpp"

namespace nbd_remap {
namespace {

class WireHandshake : public HostileWire {
 protected:
  static constexpr std::uint64_t kSize = 16 << 20;
  static void SetUpTestSuite() { world_ = make_world(kSize); }
  static void TearDownTestSuite() { end_world(world_); }
  void TearDown() override { check_world(*world_); }

  static WireClient connect() { return WireClient(world_->volume->socket()); }
  // A client past the greeting, with structured replies agreed if wanted.
  static WireClient greeted(bool structured = false) {
    WireClient c = connect();
    c.greet();
    if (structured) {
      EXPECT_EQ(c.option(wire::kStructuredReply).type, wire::kAck);
    }
    return c;
  }
  // It still negotiates, and gets through.
  static void goes_on(WireClient& c) {
    const auto replies = c.all_replies(wire::kGo, go_data(""));
    EXPECT_EQ(replies.back().type, wire::kAck);
    EXPECT_TRUE(c.serves());
  }
  static void refused(std::uint32_t option, const std::string& data,
                      std::uint32_t type, bool structured = false) {
    WireClient c = greeted(structured);
    EXPECT_EQ(c.option(option, data).type, type);
    goes_on(c);
  }

 private:
  static inline std::unique_ptr<World> world_;
};

TEST_F(WireHandshake, the_greeting_sets_two_flags_and_no_other) {
  EXPECT_EQ(connect().greet(), 3);  // FIXED_NEWSTYLE, NO_ZEROES
}

TEST_F(WireHandshake, an_unknown_client_flag_ends_the_connection) {
  for (const std::uint32_t flags : {4U, 0x100U, 0x8000'0003U, 0xFFFF'FFFFU}) {
    WireClient c = connect();
    c.greet(flags);
    EXPECT_TRUE(c.ends()) << flags;
  }
}

TEST_F(WireHandshake, no_zeroes_are_sent_to_who_wants_none) {
  WireClient c = connect();
  c.greet(3);
  c.send(option_text(wire::kExportName));
  EXPECT_EQ(c.receive(10).substr(0, 8), be64(kSize));
  EXPECT_TRUE(c.serves()) << "or what follows were zeroes";
}

TEST_F(WireHandshake, zeroes_are_sent_to_who_did_not_refuse_them) {
  WireClient c = connect();
  c.greet(1);
  c.send(option_text(wire::kExportName));
  EXPECT_EQ(c.receive(134).substr(10), std::string(124, '\0'));
  EXPECT_TRUE(c.serves());
}

TEST_F(WireHandshake, a_client_without_fixed_newstyle_gets_its_export) {
  WireClient c = connect();
  c.greet(0);
  c.send(option_text(wire::kExportName));
  EXPECT_EQ(c.receive(134).size(), 134U);
  EXPECT_TRUE(c.serves());
}

TEST_F(WireHandshake, a_wrong_magic_of_an_option_ends_the_connection) {
  WireClient c = greeted();
  c.send("IHAVEOPS" + be32(wire::kList) + be32(0));
  EXPECT_TRUE(c.ends());
}

TEST_F(WireHandshake, an_unknown_option_is_refused_and_its_data_skipped) {
  for (const std::uint32_t option : {0U, 4U, 12U, 77U, 0xFFFF'FFFFU})
    for (const std::size_t length : {0U, 1U, 4096U})
      refused(option, std::string(length, 'x'), wire::kErrUnsup);
}

TEST_F(WireHandshake, an_option_of_any_length_costs_the_others_nothing) {
  for (const std::uint32_t length :
       {65'537U, 0x7FFF'FFFFU, 0x8000'0000U, 0xFFFF'FFFFU})
    for (std::uint32_t option = 0; option < 14; ++option) {
      WireClient c = greeted();
      c.send("IHAVEOPT" + be32(option) + be32(length) + std::string(512, 'x'));
    }
}

TEST_F(WireHandshake, an_abort_is_acknowledged) {
  WireClient c = greeted();
  EXPECT_EQ(c.option(wire::kAbort).type, wire::kAck);
  EXPECT_TRUE(c.ends());
}

TEST_F(WireHandshake, who_aborts_and_leaves_at_once_is_no_trouble) {
  for (int i = 0; i < 20; ++i) greeted().send(option_text(wire::kAbort));
}

TEST_F(WireHandshake, a_list_names_an_export_and_ends) {
  WireClient c = greeted();
  const auto replies = c.all_replies(wire::kList);
  ASSERT_EQ(replies.size(), 2U);
  EXPECT_EQ(replies[0].type, wire::kServer);
  EXPECT_EQ(replies[0].data.substr(0, 4), be32(0));
  EXPECT_EQ(replies[1].type, wire::kAck);
  goes_on(c);
}

TEST_F(WireHandshake, a_list_with_data_is_invalid) {
  refused(wire::kList, "x", wire::kErrInvalid);
}

TEST_F(WireHandshake, tls_that_is_not_there_is_refused_as_an_error) {
  WireClient c = greeted();
  const OptionReply r = c.option(wire::kStartTls);
  EXPECT_TRUE(r.type == wire::kErrPolicy || r.type == wire::kErrUnsup);
  goes_on(c);
}

TEST_F(WireHandshake, info_tells_what_go_tells_and_stays) {
  WireClient c = greeted();
  const auto info = c.all_replies(wire::kInfo, go_data(""));
  const auto again = c.all_replies(wire::kInfo, go_data(""));
  const auto go = c.all_replies(wire::kGo, go_data(""));
  ASSERT_EQ(info.size(), go.size());
  for (std::size_t i = 0; i < go.size(); ++i) {
    EXPECT_EQ(info[i].data, go[i].data);
    EXPECT_EQ(again[i].data, go[i].data);
  }
  EXPECT_EQ(go[0].data.substr(0, 10), be16(0) + be64(kSize));
  EXPECT_TRUE(c.serves());
}

TEST_F(WireHandshake, info_tells_the_block_sizes) {
  WireClient c = greeted();
  bool told = false;
  for (const OptionReply& r : c.all_replies(wire::kInfo, go_data("", {3})))
    told = told || r.data == be16(3) + be32(1) + be32(4096) + be32(32 << 20);
  EXPECT_TRUE(told);
  goes_on(c);
}

TEST_F(WireHandshake, info_of_an_unknown_kind_is_passed_over) {
  WireClient c = greeted();
  const auto replies =
      c.all_replies(wire::kInfo, go_data("", {9, 0xFFFF, 0, 3, 3}));
  EXPECT_EQ(replies.back().type, wire::kAck);
  goes_on(c);
}

TEST_F(WireHandshake, go_with_lengths_that_contradict_is_invalid) {
  for (const std::string& data :
       {std::string(), std::string("\0\0\0", 3), be32(0), be32(5) + be16(0),
        be32(0xFFFF'FFFF) + be16(0), be32(0x8000'0000) + be16(0),
        go_data("") + "x", be32(0) + be16(1), be32(0) + be16(0xFFFF) + "xx",
        be32(1) + be16(0)})
    for (const std::uint32_t option : {wire::kInfo, wire::kGo})
      refused(option, data, wire::kErrInvalid);
}

TEST_F(WireHandshake, a_name_of_4096_bytes_is_taken_and_a_longer_one_is_not) {
  WireClient c = greeted();
  EXPECT_EQ(
      c.all_replies(wire::kGo, go_data(std::string(4096, 'n'))).back().type,
      wire::kAck);
  EXPECT_TRUE(c.serves());
  WireClient longer = greeted();
  longer.send(option_text(wire::kGo, go_data(std::string(4097, 'n'))));
  EXPECT_TRUE(longer.next_reply(wire::kGo).type >> 31);
  WireClient old_way = greeted();
  old_way.send(option_text(wire::kExportName, std::string(4097, 'n')));
  EXPECT_TRUE(old_way.ends());
}

TEST_F(WireHandshake, a_name_with_any_bytes_is_no_trouble) {
  for (const std::string& name :
       {std::string(7, '\0'), std::string("\xFF\xFE%s%n\n\033[2J"),
        std::string("../../etc"), std::string(4096, '%')}) {
    WireClient c = greeted();
    c.send(option_text(wire::kGo, go_data(name)));
    c.next_reply(wire::kGo);
  }
}

TEST_F(WireHandshake, structured_replies_take_no_data) {
  refused(wire::kStructuredReply, "x", wire::kErrInvalid);
}

TEST_F(WireHandshake, structured_replies_may_be_asked_for_twice) {
  WireClient c = greeted(true);
  const std::uint32_t type = c.option(wire::kStructuredReply).type;
  EXPECT_TRUE(type == wire::kAck || type == wire::kErrInvalid);
}

// A server should call that invalid. nbdkit 1.32.5 lists the contexts, and
// refuses to set one; what counts is that no block status is answered then.
TEST_F(WireHandshake, contexts_without_structured_replies_are_of_no_use) {
  WireClient c = greeted();
  const auto listed =
      c.all_replies(wire::kListMeta, meta_data({"base:allocation"}));
  EXPECT_TRUE(listed.back().type == wire::kAck ||
              listed.back().type == wire::kErrInvalid);
  c.all_replies(wire::kSetMeta, meta_data({"base:allocation"}));
  goes_on(c);
  EXPECT_EQ(c.ask(0, wire::kBlockStatus, 0, 512).error, 22U);
}

TEST_F(WireHandshake, all_contexts_are_listed_to_who_asks_for_none) {
  for (const std::vector<std::string>& queries :
       {std::vector<std::string>{}, {"base:"}, {"base:allocation"}}) {
    WireClient c = greeted(true);
    const auto replies = c.all_replies(wire::kListMeta, meta_data(queries));
    ASSERT_EQ(replies.size(), 2U);
    EXPECT_EQ(replies[0].data.substr(4), "base:allocation");
    EXPECT_EQ(replies[1].type, wire::kAck);
  }
}

TEST_F(WireHandshake, a_context_that_is_not_known_is_no_error) {
  for (const std::uint32_t option : {wire::kListMeta, wire::kSetMeta}) {
    WireClient c = greeted(true);
    const auto replies =
        c.all_replies(option, meta_data({"x-none:", "base:none", ""}));
    EXPECT_EQ(replies.size(), 1U);
    EXPECT_EQ(replies[0].type, wire::kAck);
  }
}

// Bytes after the last query should be invalid too; nbdkit 1.32.5 passes over
// them.
TEST_F(WireHandshake, contexts_with_lengths_that_contradict_are_invalid) {
  for (const std::string& data :
       {std::string(), be32(0), be32(1) + be32(0), be32(0) + be32(1),
        be32(0xFFFF'FFFF) + be32(0), be32(0) + be32(0xFFFF'FFFF),
        be32(0) + be32(1) + be32(0xFFFF'FFFF) + "base:",
        be32(0) + be32(2) + be32(1) + "b"})
    for (const std::uint32_t option : {wire::kListMeta, wire::kSetMeta})
      refused(option, data, wire::kErrInvalid, true);
}

TEST_F(WireHandshake, bytes_after_the_last_query_are_no_trouble) {
  WireClient c = greeted(true);
  c.all_replies(wire::kListMeta, meta_data({"base:"}) + "x");
  goes_on(c);
}

TEST_F(WireHandshake, the_last_choice_of_contexts_counts) {
  WireClient c = connect();
  c.greet();
  c.option(wire::kStructuredReply);
  c.all_replies(wire::kSetMeta, meta_data({"base:allocation"}));
  c.all_replies(wire::kSetMeta, meta_data({}));
  c.all_replies(wire::kGo, go_data(""));
  c.send(request_text(0, wire::kBlockStatus, 1, 0, 512));
  const std::string reply = c.receive(16);
  // An error, simple or in a chunk; no descriptor (chunk type 5).
  EXPECT_NE(reply.substr(6, 2), be16(5));
}

TEST_F(WireHandshake, commands_before_the_end_of_the_handshake_do_nothing) {
  WireClient c = greeted();
  c.send(request_text(0, wire::kWrite, 1, 0, 512, std::string(512, 'x')));
  EXPECT_TRUE(c.ends());
}

TEST_F(WireHandshake, a_handshake_byte_by_byte_gets_through) {
  WireClient c = connect();
  c.receive(18);
  for (const char byte : be32(3) + option_text(wire::kGo, go_data("")))
    ASSERT_TRUE(c.send(std::string(1, byte)));
  EXPECT_EQ(c.next_reply(wire::kGo).type, wire::kInfoReply);
}

TEST_F(WireHandshake, hundreds_of_options_are_answered_one_by_one) {
  WireClient c = greeted();
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(c.option(77, "x").type, wire::kErrUnsup);
  // nbdkit ends a client that negotiates for ever; that is its right.
  for (int i = 0; i < 500; ++i)
    if (!c.send(option_text(77))) break;
}

// A client that stands still in each place of the handshake delays nobody.
TEST_F(WireHandshake, clients_that_stop_at_each_byte_delay_nobody) {
  const std::string all = be32(3) + option_text(wire::kStructuredReply) +
                          option_text(wire::kGo, go_data("", {3}));
  std::vector<WireClient> stuck;
  for (std::size_t n = 0; n < all.size(); n += 3) {
    stuck.push_back(connect());
    EXPECT_TRUE(stuck.back().send(all.substr(0, n)));
  }
  WireClient c = greeted();
  goes_on(c);
}

}  // namespace
}  // namespace nbd_remap
