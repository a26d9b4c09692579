// SPDX-License-Identifier: BSD-3-Clause
// A file backend over a file that nbdfuse serves from a real nbdkit: the
// errors of its disk, and its durability, come through.

#include <gtest/gtest.h>

#include <filesystem>

#include "plugins/backend/file_backend.hpp"
#include "tests/unit/fuse_file.hpp"
#include "tests/unit/nbdkit_server.hpp"
#include "tests/unit/syscall_fault.hpp"

namespace nbd_remap {
namespace {

std::unique_ptr<Backend> open(const FuseFile& file, DirectIo direct) {
  OpenOptions options;
  options.direct = direct;
  auto disk = open_file_backend(file.path(), options);
  EXPECT_TRUE(disk.ok()) << disk.error().text();
  return disk.ok() ? std::move(*disk) : nullptr;
}

TEST(FuseBackend, a_bad_medium_under_fuse_is_a_bad_medium) {
  const NbdkitServer server({"--filter=error", "memory", "1M",
                             "error-pread=EIO", "error-pread-rate=100%",
                             "error-pread-file=@DIR@/bad"});
  const FuseFile file(server.uri());
  if (!file.mounted()) GTEST_SKIP() << "nbdfuse cannot mount here";
  const auto disk = open(file, DirectIo::on);
  ASSERT_TRUE(disk);
  EXPECT_TRUE(disk->info().direct);
  std::vector<std::byte> data(4096, std::byte{5});
  ASSERT_TRUE(disk->write({8192}, data, Durability::fua).ok());
  ASSERT_TRUE(disk->read({8192}, data).ok());
  EXPECT_EQ(data, std::vector<std::byte>(4096, std::byte{5}));
  std::filesystem::copy_file("/proc/self/comm", server.file("bad"));
  const Status s = disk->read({8192}, data);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().error_class, ErrorClass::medium) << s.error().text();
  std::filesystem::remove(server.file("bad"));
  EXPECT_TRUE(disk->read({8192}, data).ok());
}

TEST(FuseBackend, a_fua_write_reaches_the_disk_under_fuse_with_a_flush) {
  for (DirectIo direct : {DirectIo::on, DirectIo::off}) {
    const NbdkitServer server(
        {"--filter=log", "memory", "1M", "logfile=@DIR@/log"});
    const FuseFile file(server.uri());
    if (!file.mounted()) GTEST_SKIP() << "nbdfuse cannot mount here";
    const auto disk = open(file, direct);
    ASSERT_TRUE(disk);
    const std::vector<std::byte> data(4096, std::byte{5});
    ASSERT_TRUE(disk->write({0}, data, Durability::cached).ok());
    const int before = server.logged(" Flush ");
    ASSERT_TRUE(disk->write({0}, data, Durability::fua).ok());
    EXPECT_GT(server.logged(" Flush ") + server.logged("fua=1"), before)
        << server.log();
    // RWF_DSYNC is a flag that a FUSE server may ignore: not relied on.
    run_in_child([&] {
      ASSERT_TRUE(fail_syscall({SYS_pwritev2, EIO}));
      EXPECT_TRUE(disk->write({0}, data, Durability::fua).ok());
    });
  }
}

}  // namespace
}  // namespace nbd_remap
