// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/crc32c.hpp"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace nbd_remap {
namespace {

std::uint32_t crc_of(std::string_view text) {
  return crc32c(std::as_bytes(std::span(text)));
}

std::vector<std::byte> counting(int first, int step) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < 32; ++i)
    bytes.push_back(static_cast<std::byte>(first + i * step));
  return bytes;
}

TEST(Crc32c, gives_the_check_value_of_its_definition) {
  EXPECT_EQ(crc_of("123456789"), 0xE3069283U);
  EXPECT_EQ(crc_of(""), 0U);
}

TEST(Crc32c, gives_the_values_of_rfc_3720_appendix_b_4) {
  EXPECT_EQ(crc32c(std::vector<std::byte>(32)), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0xff})), 0x62A8AB43U);
  EXPECT_EQ(crc32c(counting(0, 1)), 0x46DD794EU);
  EXPECT_EQ(crc32c(counting(31, -1)), 0x113FDB5CU);
  // An iSCSI SCSI Read (10) command PDU.
  const std::vector<unsigned char> pdu{
      0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
      0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
  EXPECT_EQ(crc32c(std::as_bytes(std::span(pdu))), 0xD9963A56U);
}

TEST(Crc32c, detects_every_single_flipped_bit) {
  auto bytes = counting(0, 7);
  const std::uint32_t sound = crc32c(bytes);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1U << (bit % 8));
    bytes[bit / 8] ^= mask;
    EXPECT_NE(crc32c(bytes), sound) << "bit " << bit;
    bytes[bit / 8] ^= mask;
  }
  EXPECT_EQ(crc32c(bytes), sound);
}

}  // namespace
}  // namespace nbd_remap
