// SPDX-License-Identifier: BSD-3-Clause
#include "tests/wire_hostile/wire_client.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace nbd_remap {
namespace {

constexpr std::uint32_t kSimpleMagic = 0x67446698;
constexpr std::uint32_t kChunkMagic = 0x668e33ef;
constexpr std::uint64_t kOptionReplyMagic = 0x3e889045565a9;

std::string big_endian(std::uint64_t value, unsigned bytes) {
  std::string out;
  for (unsigned i = bytes; i-- > 0;)
    out += static_cast<char>(value >> (8 * i) & 0xFF);
  return out;
}

std::uint64_t number(const std::string& text, std::size_t at, unsigned bytes) {
  if (at + bytes > text.size()) throw std::runtime_error("reply too short");
  std::uint64_t value = 0;
  for (unsigned i = 0; i < bytes; ++i)
    value = value << 8 | static_cast<unsigned char>(text[at + i]);
  return value;
}

void require(bool condition, const std::string& words) {
  if (!condition)
    throw std::runtime_error("the server breaks a MUST: " + words);
}

// EPERM EIO ENOMEM EINVAL ENOSPC EOVERFLOW ENOTSUP ESHUTDOWN
void require_known(std::uint64_t error) {
  constexpr std::array kKnown{0, 1, 5, 12, 22, 28, 75, 95, 108};
  require(std::find(kKnown.begin(), kKnown.end(), static_cast<int>(error)) !=
              kKnown.end(),
          fmt::format("error value {}", error));
}

}  // namespace

std::string be16(std::uint16_t value) { return big_endian(value, 2); }
std::string be32(std::uint32_t value) { return big_endian(value, 4); }
std::string be64(std::uint64_t value) { return big_endian(value, 8); }

std::string option_text(std::uint32_t option, const std::string& data) {
  return "IHAVEOPT" + be32(option) +
         be32(static_cast<std::uint32_t>(data.size())) + data;
}

std::string request_text(std::uint16_t flags, std::uint16_t type,
                         std::uint64_t cookie, std::uint64_t offset,
                         std::uint32_t length, const std::string& data) {
  return be32(0x25609513) + be16(flags) + be16(type) + be64(cookie) +
         be64(offset) + be32(length) + data;
}

std::string go_data(const std::string& name,
                    const std::vector<std::uint16_t>& infos) {
  std::string text = be32(static_cast<std::uint32_t>(name.size())) + name +
                     be16(static_cast<std::uint16_t>(infos.size()));
  for (std::uint16_t info : infos) text += be16(info);
  return text;
}

std::string meta_data(const std::vector<std::string>& queries) {
  std::string text = be32(0) + be32(static_cast<std::uint32_t>(queries.size()));
  for (const std::string& query : queries)
    text += be32(static_cast<std::uint32_t>(query.size())) + query;
  return text;
}

std::string WireClient::exactly(std::size_t length) {
  std::string got = receive(length);
  if (got.size() != length)
    throw std::runtime_error(
        fmt::format("{} of {} bytes came", got.size(), length));
  return got;
}

std::uint16_t WireClient::greet(std::uint32_t client_flags) {
  const std::string greeting = exactly(18);
  require(greeting.substr(0, 16) == "NBDMAGICIHAVEOPT", "greeting");
  send(be32(client_flags));
  return static_cast<std::uint16_t>(number(greeting, 16, 2));
}

OptionReply WireClient::next_reply(std::uint32_t option) {
  const std::string header = exactly(20);
  require(number(header, 0, 8) == kOptionReplyMagic,
          "magic of an option reply");
  require(number(header, 8, 4) == option, "reply to another option");
  OptionReply reply;
  reply.type = static_cast<std::uint32_t>(number(header, 12, 4));
  require(reply.type != wire::kErrTlsReqd, "wants TLS that it does not have");
  reply.data = exactly(number(header, 16, 4));
  if (option == wire::kStructuredReply && reply.type == wire::kAck)
    structured_ = true;
  return reply;
}

OptionReply WireClient::option(std::uint32_t option, const std::string& data) {
  send(option_text(option, data));
  return next_reply(option);
}

std::vector<OptionReply> WireClient::all_replies(std::uint32_t option,
                                                 const std::string& data) {
  std::vector<OptionReply> all{this->option(option, data)};
  while (all.back().type != wire::kAck && !(all.back().type >> 31))
    all.push_back(next_reply(option));
  return all;
}

void WireClient::go(bool structured, bool contexts) {
  greet();
  if (structured)
    require(option(wire::kStructuredReply).type == wire::kAck, "structured");
  if (contexts)
    require(
        all_replies(wire::kSetMeta, meta_data({"base:allocation"})).size() == 2,
        "one context");
  for (const OptionReply& r : all_replies(wire::kGo, go_data("")))
    if (r.type == wire::kInfoReply && number(r.data, 0, 2) == 0) {
      size_ = number(r.data, 2, 8);
      flags_ = static_cast<std::uint16_t>(number(r.data, 10, 2));
    }
  require(flags_ & wire::kHasFlags, "HAS_FLAGS");
}

Reply WireClient::ask(std::uint16_t flags, std::uint16_t type,
                      std::uint64_t offset, std::uint32_t length,
                      const std::string& data) {
  send(request_text(flags, type, ++cookie_, offset, length, data));
  Reply r = reply(flags, type, offset, length);
  require(r.cookie == cookie_, "cookie");
  return r;
}

Reply WireClient::reply(std::uint16_t flags, std::uint16_t type,
                        std::uint64_t offset, std::uint32_t length) {
  Reply out;
  std::string magic = exactly(4);
  if (number(magic, 0, 4) == kSimpleMagic) {
    require(!(structured_ && type == wire::kRead),
            "simple reply to a read where structured ones were agreed");
    const std::string rest = exactly(12);
    out.error = static_cast<std::uint32_t>(number(rest, 0, 4));
    out.cookie = number(rest, 4, 8);
    require_known(out.error);
    if (type == wire::kRead && out.error == 0) out.data = exactly(length);
    return out;
  }
  out.structured = true;
  require(structured_, "structured reply that was not agreed");
  std::uint64_t covered = 0;
  for (bool first = true;; first = false) {
    if (!first) magic = exactly(4);
    require(number(magic, 0, 4) == kChunkMagic, "magic of a chunk");
    const std::string head = exactly(16);
    const auto chunk_flags = number(head, 0, 2);
    const auto chunk_type = static_cast<std::uint16_t>(number(head, 2, 2));
    require(first || out.cookie == number(head, 4, 8), "cookie of a chunk");
    require((chunk_flags & ~1U) == 0, "flags of a chunk");
    out.cookie = number(head, 4, 8);
    const std::string payload = exactly(number(head, 12, 4));
    chunk(out, chunk_type, payload, offset, length);
    if (chunk_type == 1) covered += payload.size() - 8;
    if (chunk_type == 2) covered += number(payload, 8, 4);
    if (chunk_flags & 1) break;
    require(chunk_type != 0, "NONE is not the last chunk");
  }
  if (type == wire::kRead && out.error == 0)
    require(covered == length, "a read that is not whole");
  if (type == wire::kBlockStatus && out.error == 0)
    require(!out.extents.empty(), "a block status without descriptors");
  if (flags & wire::kDf) require(out.content_chunks <= 1, "fragments");
  if (flags & wire::kReqOne) require(out.extents.size() <= 1, "more than one");
  return out;
}

void WireClient::chunk(Reply& reply, std::uint16_t type,
                       const std::string& payload, std::uint64_t offset,
                       std::uint32_t length) {
  if (type == 0) {
    require(payload.empty(), "NONE with a payload");
  } else if (type == 1 || type == 2) {
    require(type == 1 ? payload.size() > 8 : payload.size() == 12,
            "length of a content chunk");
    const std::uint64_t at = number(payload, 0, 8);
    const std::uint64_t size =
        type == 1 ? payload.size() - 8 : number(payload, 8, 4);
    require(size > 0 && at >= offset && size <= length &&
                at - offset <= length - size,
            "content outside of the request");
    // Not before: the length of a request that is refused means nothing.
    if (reply.data.empty()) reply.data.assign(length, '\0');
    if (type == 1) reply.data.replace(at - offset, size, payload, 8, size);
    ++reply.content_chunks;
  } else if (type == 5) {
    require(payload.size() >= 12 && payload.size() % 8 == 4,
            "length of a block status");
    std::uint64_t sum = 0;
    for (std::size_t i = 4; i < payload.size(); i += 8) {
      reply.extents.emplace_back(number(payload, i, 4),
                                 number(payload, i + 4, 4));
      require(reply.extents.back().first != 0, "an extent of 0 bytes");
      sum += reply.extents.back().first;
    }
    require(sum <= length, "extents beyond the request");
  } else {
    require(type >> 15, "type of a chunk");
    reply.error = static_cast<std::uint32_t>(number(payload, 0, 4));
    require(reply.error != 0, "an error that is none");
    require_known(reply.error);
    require(number(payload, 4, 2) <= payload.size() - 6, "length of a message");
  }
}

bool WireClient::ends() {
  pollfd p{fd(), POLLIN, 0};
  char byte = 0;
  return ::poll(&p, 1, 30'000) == 1 && ::recv(fd(), &byte, 1, 0) <= 0;
}

bool WireClient::serves() {
  return ask(0, wire::kRead, 0, 512).error == 0 &&
         ask(0, wire::kFlush, 0, 0).error == 0;
}

}  // namespace nbd_remap
