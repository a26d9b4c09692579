#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A client of the NBD protocol that says what it likes, message by message, and
// takes replies apart, checking of each what every reply must fulfil.
//
// Errors   What the protocol forbids in any reply (a magic number, an error
//          value that is not in its list, chunks outside of the request or over
//          one another) is an exception, as is a reply that does not come.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/e2e/raw_client.hpp"

namespace nbd_remap {

// Big endian, as many bytes as the type has.
std::string be16(std::uint16_t value);
std::string be32(std::uint32_t value);
std::string be64(std::uint64_t value);

namespace wire {
enum Option : std::uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMeta = 9,
  kSetMeta = 10,
};
enum OptionAnswer : std::uint32_t {
  kAck = 1,
  kServer = 2,
  kInfoReply = 3,
  kMetaContext = 4,
  kErrUnsup = 0x8000'0001,
  kErrPolicy = 0x8000'0002,
  kErrInvalid = 0x8000'0003,
  kErrTlsReqd = 0x8000'0005,
  kErrUnknown = 0x8000'0006,
  kErrTooBig = 0x8000'0009,
};
enum Command : std::uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisc = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};
enum CommandFlag : std::uint16_t {
  kFua = 1,
  kNoHole = 2,
  kDf = 4,
  kReqOne = 8,
  kFastZero = 16,
};
enum TransmissionFlag : std::uint16_t {
  kHasFlags = 1,
  kReadOnly = 2,
  kSendFlush = 4,
  kSendFua = 8,
  kSendTrim = 32,
  kSendWriteZeroes = 64,
  kSendDf = 128,
  kCanMultiConn = 256,
  kSendFastZero = 2048,
};
}  // namespace wire

std::string option_text(std::uint32_t option, const std::string& data = "");
std::string request_text(std::uint16_t flags, std::uint16_t type,
                         std::uint64_t cookie, std::uint64_t offset,
                         std::uint32_t length, const std::string& data = "");
// The data of INFO and GO, and of the two about metadata contexts.
std::string go_data(const std::string& name,
                    const std::vector<std::uint16_t>& infos = {});
std::string meta_data(const std::vector<std::string>& queries);

struct OptionReply {
  std::uint32_t type = 0;
  std::string data;
};

struct Reply {
  std::uint32_t error = 0;
  bool structured = false;
  std::uint64_t cookie = 0;
  unsigned content_chunks = 0;
  std::string data;  // of a read
  // Of a block status: length and flags of each descriptor.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> extents;
};

class WireClient : public RawClient {
 public:
  explicit WireClient(const std::string& socket) : RawClient(socket) {}

  // Greeting and client flags: fixed newstyle, no zeroes. Answers with the
  // server's flags.
  std::uint16_t greet(std::uint32_t client_flags = 3);
  OptionReply option(std::uint32_t option, const std::string& data = "");
  // The reply after one that is not the last.
  OptionReply next_reply(std::uint32_t option);
  // All of them, up to and with the last one.
  std::vector<OptionReply> all_replies(std::uint32_t option,
                                       const std::string& data = "");
  // Through the handshake. What GO told: size and transmission flags.
  void go(bool structured, bool contexts = false);
  std::uint64_t size() const { return size_; }
  std::uint16_t flags() const { return flags_; }

  // One request and its reply.
  Reply ask(std::uint16_t flags, std::uint16_t type, std::uint64_t offset,
            std::uint32_t length, const std::string& data = "");
  // A reply to such a request, sent by send(request_text(...)).
  Reply reply(std::uint16_t flags, std::uint16_t type, std::uint64_t offset,
              std::uint32_t length);
  // Nothing more comes but the end of the connection, within 30 s.
  bool ends();
  // Still there, and answers.
  bool serves();

 private:
  std::string exactly(std::size_t length);
  void chunk(Reply& reply, std::uint16_t type, const std::string& payload,
             std::uint64_t offset, std::uint32_t length);

  bool structured_ = false;
  std::uint64_t size_ = 0;
  std::uint16_t flags_ = 0;
  std::uint64_t cookie_ = 0xFEDC'BA98'7654'3210;
};

}  // namespace nbd_remap
