// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/open_backend.hpp"

#include <gtest/gtest.h>

#include "tests/fakes/scratch.hpp"

namespace nbd_remap {
namespace {

TEST(OpenBackend, tells_uris_from_paths) {
  for (const char* uri :
       {"nbd://host/export", "nbds://host", "nbd+unix:///x?socket=/s",
        "nbds+unix:///?socket=/s", "nbd+vsock://2/", "nbds+vsock://2/", "nbd:"})
    EXPECT_TRUE(is_nbd_uri(uri)) << uri;
  for (const char* path : {"/dev/sdb", "disk.img", "./nbd:x", "/nbd://host",
                           "nbd", "nbdkit", "nbd0", "", "http://host"})
    EXPECT_FALSE(is_nbd_uri(path)) << path;
}

TEST(OpenBackend, opens_a_path_as_a_file) {
  const ScratchDir dir;
  const std::string path = dir.make_file("disk", 8192);
  const auto disk = open_backend(path, {});
  ASSERT_TRUE(disk.ok()) << disk.error().text();
  EXPECT_EQ((*disk)->info().name, path);
  EXPECT_EQ((*disk)->info().size_bytes, 8192U);
}

TEST(OpenBackend, an_nbd_uri_without_a_server_is_an_error_not_a_file) {
  const ScratchDir dir;
  const std::string socket = dir.file("absent.sock");
  const auto disk = open_backend("nbd+unix:///?socket=" + socket, {});
  ASSERT_FALSE(disk.ok());
  EXPECT_EQ(disk.error().error_class, ErrorClass::transport)
      << disk.error().text();
}

TEST(OpenBackend, an_empty_name_is_refused) {
  const auto disk = open_backend("", {});
  ASSERT_FALSE(disk.ok());
  EXPECT_EQ(disk.error().error_class, ErrorClass::caller);
}

}  // namespace
}  // namespace nbd_remap
