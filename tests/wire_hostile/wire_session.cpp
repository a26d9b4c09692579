// SPDX-License-Identifier: BSD-3-Clause
#include "tests/wire_hostile/wire_session.hpp"

#include <algorithm>

#include "tests/wire_hostile/wire_client.hpp"

namespace nbd_remap {
namespace {

using Random = std::mt19937_64;

Message option(std::uint32_t number, Message data) {
  std::uint32_t length = 0;
  for (const std::string& field : data)
    length += static_cast<std::uint32_t>(field.size());
  Message m{"IHAVEOPT", be32(number), be32(length)};
  m.insert(m.end(), data.begin(), data.end());
  return m;
}

Message request(Random& random, std::uint64_t size) {
  const auto type = static_cast<std::uint16_t>(
      std::vector<int>{0, 0, 1, 1, 3, 4, 5, 6, 7}[random() % 9]);
  const auto length = static_cast<std::uint32_t>(
      type == wire::kFlush ? 0 : 1 + random() % 20'000);
  const std::uint64_t offset =
      type == wire::kFlush ? 0 : random() % (size - length);
  const bool fua = random() % 8 == 0;
  Message m{be32(0x25609513), be16(fua ? wire::kFua : 0),
            be16(type),       be64(random()),
            be64(offset),     be32(length)};
  if (type == wire::kWrite) m.emplace_back(length, static_cast<char>(random()));
  return m;
}

void flip(char& byte, std::uint64_t bit) {
  byte = static_cast<char>(static_cast<unsigned char>(byte) ^ (1U << bit));
}

// A value of that many bytes where off-by-one and sign errors live.
std::string extreme(Random& random, std::size_t bytes) {
  static constexpr std::uint64_t kValues[] = {0,
                                              1,
                                              2,
                                              7,
                                              8,
                                              511,
                                              512,
                                              4095,
                                              4096,
                                              4097,
                                              0x7FFF,
                                              0x8000,
                                              0xFFFF,
                                              (16 << 20) - 1,
                                              16 << 20,
                                              (32 << 20) + 1,
                                              (64 << 20) + 1,
                                              0x7FFF'FFFF,
                                              0x8000'0000,
                                              0xFFFF'FFFF,
                                              0x1'0000'0000,
                                              0x7FFF'FFFF'FFFF'FFFF,
                                              0x8000'0000'0000'0000,
                                              ~std::uint64_t{0}};
  const std::string value = be64(kValues[random() % std::size(kValues)]);
  if (bytes <= 8) return value.substr(8 - bytes);
  return std::string(random() % (2 * bytes), static_cast<char>(random()));
}

}  // namespace

Session make_session(Random& random, std::uint64_t size) {
  Session s{{be32(random() % 4 == 0 ? 1 : 3)}};
  const bool structured = random() % 3 != 0;
  if (random() % 4 == 0) s.push_back(option(wire::kList, {}));
  if (structured) s.push_back(option(wire::kStructuredReply, {}));
  if (structured && random() % 2) {
    const std::string query = random() % 4 ? "base:allocation" : "base:";
    for (const std::uint32_t number : {wire::kListMeta, wire::kSetMeta})
      s.push_back(option(
          number, {be32(0), "", be32(1),
                   be32(static_cast<std::uint32_t>(query.size())), query}));
  }
  const std::string name = random() % 4 ? "" : "export";
  const Message go{be32(static_cast<std::uint32_t>(name.size())), name, be16(1),
                   be16(3)};
  if (random() % 4 == 0) s.push_back(option(wire::kInfo, go));
  if (random() % 3)
    s.push_back(option(wire::kGo, go));
  else
    s.push_back(option(wire::kExportName, {name}));
  for (std::uint64_t i = random() % 12; i > 0; --i)
    s.push_back(request(random, size));
  if (random() % 3)
    s.push_back({be32(0x25609513), be16(0), be16(wire::kDisc), be64(1), be64(0),
                 be32(0)});
  return s;
}

void mutate(Random& random, Session& session) {
  for (std::uint64_t n = 1 + random() % 4; n > 0 && !session.empty(); --n) {
    const std::size_t at = random() % session.size();
    Message& message = session[at];
    std::string& field = message[random() % message.size()];
    switch (random() % 9) {
      case 0:
      case 1:
      case 2:
        field = extreme(random, field.size());
        break;
      case 3:
        if (!field.empty()) flip(field[random() % field.size()], random() % 8);
        break;
      case 4:
        session.erase(session.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 5:
        session.insert(session.begin() + static_cast<std::ptrdiff_t>(at),
                       Message(message));
        break;
      case 6:
        std::swap(message, session[random() % session.size()]);
        break;
      case 7:
        message.resize(1 + random() % message.size());
        break;
      default: {
        std::string noise(1 + random() % 64, '\0');
        for (char& byte : noise) byte = static_cast<char>(random());
        field += noise;
      }
    }
  }
}

std::string bytes_of(const Session& session) {
  std::string all;
  for (const Message& message : session)
    for (const std::string& field : message) all += field;
  return all;
}

}  // namespace nbd_remap
