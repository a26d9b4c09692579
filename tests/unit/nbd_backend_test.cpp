// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend against a real nbdkit: what it can do.
#include "plugins/backend/nbd_backend.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>

#include "tests/unit/nbd_test_tools.hpp"
#include "tests/unit/nbdkit_server.hpp"

namespace nbd_remap {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

TEST(NbdBackend, reads_what_it_wrote_at_any_offset_and_length) {
  const NbdkitServer server({"memory", "4M"});
  const auto disk = open_nbd(server.uri());
  EXPECT_EQ(disk->info().size_bytes, 4U << 20);
  EXPECT_EQ(disk->info().logical_block_bytes, 512U);
  EXPECT_TRUE(disk->info().can_flush);
  EXPECT_FALSE(disk->info().read_only);
  const auto data = pattern(4U << 20, 1);
  EXPECT_TRUE(disk->write({0}, data, Durability::cached).ok());
  EXPECT_TRUE(disk->flush().ok());
  const std::uint64_t lengths[] = {1, 511, 512, 513, 5000, 70000, 200001};
  const std::uint64_t offsets[] = {0, 1, 511, 512, 4097, 1000003};
  for (const std::uint64_t offset : offsets)
    for (const std::uint64_t length : lengths)
      EXPECT_TRUE(
          reads_as(*disk, offset, ConstBytes(data).subspan(offset, length)))
          << offset << " " << length;
  EXPECT_TRUE(reads_as(*disk, (4U << 20) - 1, ConstBytes(data).last(1)));
}

TEST(NbdBackend, what_does_not_fit_is_refused_before_the_wire) {
  const NbdkitServer server(
      {"--filter=log", "memory", "1M", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  std::vector<std::byte> buffer(1024);
  const std::uint64_t size = disk->info().size_bytes;
  EXPECT_EQ(disk->read({size - 1023}, buffer).error().error_class,
            ErrorClass::bug);
  EXPECT_EQ(disk->read({~0ULL - 100}, buffer).error().error_class,
            ErrorClass::bug);
  EXPECT_EQ(disk->write({1}, Bytes(buffer).first(512), Durability::cached)
                .error()
                .errnum,
            EINVAL);
  EXPECT_EQ(disk->zero({0}, 100, ZeroMode::may_punch, Durability::cached)
                .error()
                .errnum,
            EINVAL);
  EXPECT_TRUE(disk->read({size}, {}).ok());
  EXPECT_EQ(server.logged(" Read ") + server.logged(" Write "), 0);
  // The log does work.
  EXPECT_TRUE(disk->read({0}, buffer).ok());
  EXPECT_EQ(server.logged(" Read "), 1);
}

TEST(NbdBackend, fua_is_the_flag_where_it_is_offered) {
  const NbdkitServer server(
      {"--filter=log", "memory", "1M", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  const auto data = pattern(4096, 2);
  ASSERT_TRUE(disk->write({0}, data, Durability::fua).ok());
  EXPECT_EQ(server.logged("fua=1 "), 1) << server.log();
  ASSERT_TRUE(
      disk->zero({4096}, 4096, ZeroMode::may_punch, Durability::fua).ok());
  EXPECT_EQ(server.logged("fua=1 "), 2) << server.log();
  ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
  EXPECT_EQ(server.logged("fua=1 "), 2) << server.log();
  EXPECT_EQ(server.logged(" Flush "), 0) << server.log();
}

TEST(NbdBackend, fua_is_a_flush_after_the_write_where_it_is_not) {
  const NbdkitServer server(
      {"--filter=log", "--filter=fua", "memory", "1M", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  const auto data = pattern(4096, 3);
  ASSERT_TRUE(disk->write({0}, data, Durability::fua).ok());
  const std::string log = server.log();
  EXPECT_EQ(server.logged(" Flush id="), 1) << log;
  EXPECT_LT(log.find("...Write"), log.find(" Flush id=")) << log;
  ASSERT_TRUE(disk->zero({0}, 4096, ZeroMode::may_punch, Durability::fua).ok());
  EXPECT_EQ(server.logged(" Flush id="), 2) << server.log();
}

TEST(NbdBackend, zero_trim_and_extents_reach_the_server) {
  const NbdkitServer server(
      {"--filter=log", "memory", "1M", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  EXPECT_TRUE(disk->info().fast_zero);
  const auto data = pattern(1U << 20, 4);
  ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
  for (const ZeroMode mode :
       {ZeroMode::keep_allocated, ZeroMode::may_punch, ZeroMode::fast_only}) {
    ASSERT_TRUE(
        disk->write({65536}, pattern(131072, 9), Durability::cached).ok());
    ASSERT_TRUE(disk->zero({65536}, 65536, mode, Durability::cached).ok());
    EXPECT_TRUE(reads_as(*disk, 65536, std::vector<std::byte>(65536)));
  }
  EXPECT_EQ(server.logged(" Zero id="), 3);
  EXPECT_EQ(server.logged("trim=0 fua"), 1) << server.log();
  EXPECT_EQ(server.logged("fast=1"), 1) << server.log();
  EXPECT_TRUE(reads_as(*disk, 0, ConstBytes(data).first(65536)));
  ASSERT_TRUE(disk->trim({0}, 65536).ok());
  EXPECT_EQ(server.logged(" Trim id="), 1);
  ASSERT_TRUE(disk->cache({1}, 100).ok());

  bool zeroes = true;  // trimmed; what follows is not
  std::uint64_t kinds = 0;
  for (std::uint64_t at = 100; at < 300100; ++kinds) {
    const auto extent = disk->extent({at}, 300100 - at);
    ASSERT_TRUE(extent.ok()) << extent.error().text();
    EXPECT_EQ(extent->zeroes, zeroes) << at;
    ASSERT_GE(extent->length, 1U);
    ASSERT_LE(extent->length, 300100 - at);
    at += extent->length;
    zeroes = !zeroes;
  }
  EXPECT_EQ(kinds, 2U);
}

TEST(NbdBackend, a_server_without_write_zeroes_is_sent_zeroes) {
  const NbdkitServer server(
      {"--filter=log", "--filter=nozero", "memory", "4M", "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  EXPECT_FALSE(disk->info().fast_zero);
  const auto data = pattern(4U << 20, 5);
  ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
  EXPECT_EQ(disk->zero({0}, 4096, ZeroMode::fast_only, Durability::cached)
                .error()
                .errnum,
            ENOTSUP);
  EXPECT_TRUE(reads_as(*disk, 0, ConstBytes(data).first(4096)));
  ASSERT_TRUE(
      disk->zero({512}, 3U << 20, ZeroMode::keep_allocated, Durability::fua)
          .ok());
  EXPECT_TRUE(reads_as(*disk, 512, std::vector<std::byte>(3U << 20)));
  EXPECT_TRUE(reads_as(*disk, 0, ConstBytes(data).first(512)));
  EXPECT_TRUE(reads_as(*disk, (3U << 20) + 512,
                       ConstBytes(data).subspan((3U << 20) + 512)));
  EXPECT_EQ(server.logged(" Zero id="), 0);
}

TEST(NbdBackend, large_requests_are_split_at_the_servers_maximum) {
  const NbdkitServer server({"--filter=log", "--filter=blocksize-policy",
                             "memory", "40M", "blocksize-maximum=1M",
                             "blocksize-error-policy=error",
                             "logfile=@DIR@/log"});
  const auto disk = open_nbd(server.uri());
  const auto data = pattern(40U << 20, 6);
  ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
  EXPECT_EQ(server.logged(" Write id="), 40);
  EXPECT_TRUE(reads_as(*disk, 0, data));
  EXPECT_TRUE(reads_as(*disk, 3, ConstBytes(data).subspan(3, 10U << 20)));
}

TEST(NbdBackend, the_servers_minimum_is_the_logical_block) {
  const NbdkitServer server(
      {"--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096",
       "blocksize-preferred=8192", "blocksize-error-policy=error"});
  const auto disk = open_nbd(server.uri());
  EXPECT_EQ(disk->info().logical_block_bytes, 4096U);
  EXPECT_EQ(disk->info().physical_block_bytes, 8192U);
  const auto data = pattern(1U << 20, 7);
  ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
  for (const std::uint64_t offset : {1, 4095, 4096, 70001})
    EXPECT_TRUE(
        reads_as(*disk, offset, ConstBytes(data).subspan(offset, 300001)));
  EXPECT_TRUE(reads_as(*disk, 5, ConstBytes(data).subspan(5, 1)));
  const auto extent = disk->extent({5000}, 10);
  ASSERT_TRUE(extent.ok()) << extent.error().text();
  EXPECT_EQ(extent->length, 10U);
  EXPECT_EQ(disk->write({512}, Bytes(), Durability::cached).ok(), true);
  EXPECT_FALSE(
      disk->write({512}, ConstBytes(data).first(512), Durability::cached).ok());
}

TEST(NbdBackend, a_read_only_export_says_so) {
  const NbdkitServer server({"-r", "memory", "1M"});
  const auto disk = open_nbd(server.uri());
  EXPECT_TRUE(disk->info().read_only);
  const auto data = pattern(512, 8);
  EXPECT_EQ(disk->write({0}, data, Durability::cached).error().errnum, EROFS);
  EXPECT_EQ(disk->trim({0}, 512).error().errnum, EROFS);
  EXPECT_TRUE(reads_as(*disk, 0, std::vector<std::byte>(512)));
}

TEST(NbdBackend, a_server_without_flush_says_so) {
  const NbdkitServer server({"eval", "get_size=echo 1M", "can_write=true",
                             "pread=head -c $3 /dev/zero",
                             "pwrite=cat >/dev/null"});
  const auto disk = open_nbd(server.uri());
  EXPECT_FALSE(disk->info().can_flush);
  EXPECT_EQ(disk->flush().error().errnum, ENOTSUP);
  const auto data = pattern(512, 8);
  EXPECT_EQ(disk->write({0}, data, Durability::fua).error().errnum, ENOTSUP);
  EXPECT_TRUE(disk->write({0}, data, Durability::cached).ok());
  EXPECT_TRUE(disk->trim({0}, 512).ok());
  EXPECT_EQ(disk->extent({0}, 512)->length, 512U);
}

TEST(NbdBackend, a_named_export_is_the_one_that_is_opened) {
  const ScratchDir dir;
  for (const char name : {'a', 'b'})
    std::ofstream(dir.file(std::string(1, name))) << std::string(8192, name);
  const NbdkitServer server({"file", "dir=" + dir.file("")});
  for (const char name : {'a', 'b'}) {
    const auto disk = open_nbd(server.uri(std::string(1, name)));
    EXPECT_TRUE(
        reads_as(*disk, 0, std::vector<std::byte>(8192, std::byte(name))));
  }
  EXPECT_EQ(try_open(server.uri("c")).error().error_class,
            ErrorClass::transport);
}

TEST(NbdBackend, sixty_four_threads_share_it_and_keep_their_data_apart) {
  const NbdkitServer server({"memory", "64M"});
  const auto disk = open_nbd(server.uri());
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < 64; ++t)
      threads.emplace_back([&, t] {
        for (unsigned round = 0; round < 20; ++round) {
          const std::uint64_t offset = (t << 20) + round * 16384;
          const auto data = pattern(16384, t * 100 + round);
          if (disk->write({offset}, data, Durability::cached).ok() &&
              reads_as(*disk, offset, data))
            ++right;
        }
      });
  }
  EXPECT_EQ(right, 64 * 20);
}

TEST(NbdBackend, requests_of_many_threads_are_in_flight_at_once) {
  // One connection, so that it is not the connections that overlap.
  const NbdkitServer server({"-t", "16", "--filter=multi-conn",
                             "--filter=delay", "memory", "1M", "rdelay=100ms",
                             "multi-conn-mode=disable"});
  const auto disk = open_nbd(server.uri());
  std::atomic<int> right{0};
  const auto start = steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < 16; ++t)
      threads.emplace_back([&, t] {
        if (reads_as(*disk, t * 4096UL, std::vector<std::byte>(4096))) ++right;
      });
  }
  const auto took = steady_clock::now() - start;
  EXPECT_EQ(right, 16);
  EXPECT_GE(took, milliseconds(100));  // the delay was there
  EXPECT_LT(took, milliseconds(800));  // one by one: 1600
}

// Mistake 32
TEST(NbdBackend, closing_leaves_no_thread_and_no_descriptor) {
  const NbdkitServer server({"memory", "1M"});
  { const auto warm_up = open_nbd(server.uri()); }
  const int files = count_entries("/proc/self/fd");
  const int tasks = count_entries("/proc/self/task");
  for (int i = 0; i < 20; ++i) {
    const auto disk = open_nbd(server.uri());
    EXPECT_GT(count_entries("/proc/self/fd"), files);
    EXPECT_GT(count_entries("/proc/self/task"), tasks);
    EXPECT_TRUE(disk->flush().ok());
  }
  EXPECT_EQ(count_entries("/proc/self/fd"), files);
  // The kernel takes a joined thread off the list a moment later.
  EXPECT_TRUE(
      eventually([&] { return count_entries("/proc/self/task") == tasks; }));
}

}  // namespace
}  // namespace nbd_remap
