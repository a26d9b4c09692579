// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend against servers that lie: an error or a clamped answer, never
// an abort, never bytes that nobody sent.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <random>

#include "tests/unit/fake_nbd_server.hpp"
#include "tests/unit/nbd_test_tools.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint16_t kNone = 0;
constexpr std::uint16_t kData = 1;
constexpr std::uint16_t kStatus = 5;
constexpr std::uint16_t kReqOne = 1 << 3;  // NBD_CMD_FLAG_REQ_ONE

Status read_block(Backend& disk) {
  std::vector<std::byte> buffer(4096);
  return disk.read({0}, buffer);
}

// A reply to BLOCK_STATUS with these (length, flags) pairs.
std::string status_reply(
    const FakeRequest& request,
    const std::vector<std::pair<std::uint32_t, std::uint32_t>>& entries) {
  WireBytes payload;
  payload.u32(1);
  for (const auto& [length, flags] : entries) payload.u32(length).u32(flags);
  return structured_reply(request, kStatus, payload.bytes);
}

TEST(NbdHostile, the_fake_server_is_good_when_it_does_not_lie) {
  const FakeNbdServer server({}, [](const FakeRequest& request) {
    return structured_reply(request, kData,
                            WireBytes()
                                .u64(request.offset)
                                .text(std::string(request.length, 'x'))
                                .bytes);
  });
  const auto disk = open_nbd(server.uri());
  EXPECT_TRUE(
      reads_as(*disk, 512, std::vector<std::byte>(4096, std::byte('x'))));
  EXPECT_EQ(server.requests(), 1);
}

TEST(NbdHostile, a_read_that_is_answered_without_all_its_data_fails) {
  for (const std::uint32_t missing : {1U, 512U, 4096U}) {
    const FakeNbdServer server({}, [&](const FakeRequest& request) {
      if (missing == request.length)
        return structured_reply(request, kNone, "");
      return structured_reply(
          request, kData,
          WireBytes()
              .u64(request.offset)
              .text(std::string(request.length - missing, 'x'))
              .bytes);
    });
    const auto disk = open_nbd(server.uri(), milliseconds(200));
    const Status result = read_block(*disk);
    EXPECT_GE(server.requests(), 2);  // it was given another chance
    ASSERT_FALSE(result.ok()) << missing;
    // Not medium: nothing is known of the disk (contract C10).
    EXPECT_EQ(result.error().error_class, ErrorClass::transport) << missing;
  }
}

TEST(NbdHostile, data_outside_the_request_ends_the_connection) {
  for (const std::uint64_t offset : {0ULL, 4096ULL, 8192ULL, ~0ULL - 100}) {
    const FakeNbdServer server({}, [&](const FakeRequest& request) {
      return structured_reply(
          request, kData,
          WireBytes().u64(offset).text(std::string(8192, 'x')).bytes);
    });
    const auto disk = open_nbd(server.uri(), milliseconds(200));
    const Status result = read_block(*disk);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().error_class, ErrorClass::transport);
  }
}

TEST(NbdHostile, an_answer_to_a_question_never_asked_ends_the_connection) {
  const FakeNbdServer server({}, [&](FakeRequest request) {
    request.cookie += 77;
    return simple_reply(request, 0);
  });
  const auto disk = open_nbd(server.uri(), milliseconds(200));
  EXPECT_EQ(disk->flush().error().error_class, ErrorClass::transport);
  EXPECT_GE(server.requests(), 2);
}

TEST(NbdHostile, extents_are_clamped_to_what_was_asked) {
  std::atomic<bool> begins_with_data{true};
  std::atomic<int> asked_for_one{0};
  const FakeNbdServer server({}, [&](const FakeRequest& request) {
    if (request.flags & kReqOne) ++asked_for_one;
    return begins_with_data
               ? status_reply(request, {{0, 3}, {512, 0}, {0, 1}, {512, 3}})
               : status_reply(request, {{0xFFFFFE00, 3}, {512, 0}});
  });
  const auto disk = open_nbd(server.uri());
  const auto extent = disk->extent({1024}, 4096);
  ASSERT_TRUE(extent.ok()) << extent.error().text();
  EXPECT_EQ(extent->length, 512U);
  EXPECT_FALSE(extent->zeroes || extent->hole);
  // The first 100 bytes of the server's first block are not ours.
  EXPECT_EQ(disk->extent({1124}, 500)->length, 412U);
  begins_with_data = false;
  const auto far = disk->extent({1024}, 4096);
  ASSERT_TRUE(far.ok());
  EXPECT_EQ(far->length, 4096U);
  EXPECT_TRUE(far->zeroes && far->hole);
  EXPECT_EQ(disk->extent({1124}, 500)->length, 500U);
  EXPECT_EQ(asked_for_one, 4);  // a server that looks for more does it in vain
}

// A server that has smaller units than ours: what it says ends before the
// question begins.
TEST(NbdHostile, an_extent_that_ends_within_a_sector_is_of_no_use_behind_it) {
  const FakeNbdServer server({}, [&](const FakeRequest& request) {
    return status_reply(request, {{100, 3}, {412, 0}});
  });
  const auto disk = open_nbd(server.uri());
  const auto hole = disk->extent({1024}, 4096);
  ASSERT_TRUE(hole.ok()) << hole.error().text();
  EXPECT_EQ(hole->length, 100U);
  EXPECT_TRUE(hole->hole);
  for (const std::uint64_t skip : {100U, 511U}) {
    const auto extent = disk->extent({1024 + skip}, 4096);
    ASSERT_TRUE(extent.ok()) << extent.error().text();
    EXPECT_EQ(extent->length, 512 - skip);
    EXPECT_FALSE(extent->zeroes || extent->hole);
  }
  EXPECT_EQ(disk->extent({1124}, 7)->length, 7U);
}

TEST(NbdHostile, no_extents_of_use_mean_data) {
  for (const bool empty_entries : {false, true}) {
    const FakeNbdServer server({}, [&](const FakeRequest& request) {
      return empty_entries ? status_reply(request, {{0, 3}, {0, 3}})
                           : structured_reply(request, kNone, "");
    });
    const auto disk = open_nbd(server.uri(), milliseconds(200));
    const auto extent = disk->extent({0}, 4096);
    if (!extent.ok()) {  // libnbd may call it a broken protocol
      EXPECT_EQ(extent.error().error_class, ErrorClass::transport);
      continue;
    }
    EXPECT_EQ(extent->length, 4096U);
    EXPECT_FALSE(extent->zeroes || extent->hole);
  }
}

TEST(NbdHostile, of_a_million_extents_one_is_kept) {
  FakeNbdExport exported;
  exported.size = 1ULL << 40;
  const FakeNbdServer server(exported, [&](const FakeRequest& request) {
    return status_reply(request,
                        std::vector<std::pair<std::uint32_t, std::uint32_t>>(
                            1 << 20, {512, 0}));
  });
  const auto disk = open_nbd(server.uri());
  const auto extent = disk->extent({0}, 1ULL << 40);
  ASSERT_TRUE(extent.ok()) << extent.error().text();
  EXPECT_EQ(extent->length, 512U);
}

TEST(NbdHostile, an_unknown_errno_is_an_error_that_does_not_remap) {
  const FakeNbdServer server({}, [&](const FakeRequest& request) {
    return simple_reply(request, 0x7FFFFFFF);
  });
  const auto disk = open_nbd(server.uri());
  const Status result = disk->flush();
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().error_class, ErrorClass::medium);
}

TEST(NbdHostile, nonsense_sizes_are_refused) {
  for (const std::uint64_t size :
       {0ULL, 1ULL, 511ULL, ~0ULL, 1ULL << 63, (1ULL << 63) + 512}) {
    FakeNbdExport exported;
    exported.size = size;
    const FakeNbdServer server(exported, [](const FakeRequest&) { return ""; });
    const auto disk = try_open(server.uri());
    ASSERT_FALSE(disk.ok()) << size;
    EXPECT_EQ(server.connections(), 1);
  }
}

TEST(NbdHostile, nonsense_block_sizes_never_become_ours) {
  for (const std::uint32_t n : {0U, 3U, 1U << 16, 1U << 31, ~0U})
    for (const std::uint32_t m : {0U, 100U, 4096U, ~0U}) {
      FakeNbdExport exported;
      exported.minimum = n;
      exported.preferred = m;
      exported.maximum = n;
      const FakeNbdServer server(exported,
                                 [](const FakeRequest&) { return ""; });
      const auto disk = try_open(server.uri(), seconds(5));
      if (!disk.ok()) continue;
      const BackendInfo& info = (*disk)->info();
      EXPECT_TRUE(is_power_of_two(info.logical_block_bytes));
      EXPECT_TRUE(is_power_of_two(info.physical_block_bytes));
      EXPECT_GE(info.logical_block_bytes, 512U);
      EXPECT_GE(info.physical_block_bytes, info.logical_block_bytes);
      EXPECT_LE(info.physical_block_bytes, 32768U);
    }
}

TEST(NbdHostile, rubbish_instead_of_a_handshake_fails_to_open) {
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) {
    std::string rubbish = i % 2 ? "NBDMAGICIHAVEOPT" : "";
    for (int n = 0; n < 300; ++n) rubbish += static_cast<char>(random());
    const FakeNbdServer server(rubbish);
    const auto disk = try_open(server.uri(), milliseconds(200));
    ASSERT_FALSE(disk.ok()) << "seed 1, round " << i;
    // Full: some rubbish is a handshake, with a size that cannot be used.
    EXPECT_TRUE(disk.error().error_class == ErrorClass::transport ||
                disk.error().error_class == ErrorClass::full)
        << disk.error().text();
    EXPECT_EQ(disk.error().text().find('\n'), std::string::npos);
  }
}

TEST(NbdHostile, rubbish_instead_of_replies_never_succeeds_or_aborts) {
  std::mt19937 random(2);
  for (int i = 0; i < 50; ++i) {
    const FakeNbdServer server({}, [&](const FakeRequest& request) {
      // A reply with a valid head and anything after it.
      std::string reply =
          i % 2
              ? structured_reply(request, static_cast<std::uint16_t>(random()),
                                 std::string(random() % 64, 'x'))
              : std::string();
      for (int n = 0; n < 300; ++n) reply += static_cast<char>(random());
      return reply;
    });
    const auto disk = open_nbd(server.uri(), milliseconds(50));
    EXPECT_FALSE(read_block(*disk).ok()) << "seed 2, round " << i;
    EXPECT_GE(server.requests(), 1);
  }
}

TEST(NbdHostile, two_connections_to_different_exports_are_refused) {
  // Sends a size of its own to every connection that comes.
  FakeNbdExport exported;
  exported.flags = 1 | 4 | 256;  // multi-conn
  exported.grows = true;
  const FakeNbdServer server(exported, [](const FakeRequest&) { return ""; });
  const auto disk = try_open(server.uri());
  ASSERT_FALSE(disk.ok());
  EXPECT_NE(disk.error().place.find("different exports"), std::string::npos);
  EXPECT_EQ(server.connections(), 2);
}

}  // namespace
}  // namespace nbd_remap
