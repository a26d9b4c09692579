#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// One volume for all tests of a suite, with a connection that is older than all
// hostile ones: after each test it must answer, and correctly, from the same
// process, which must have no more threads and descriptors than before.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/e2e/harness.hpp"
#include "tests/wire_hostile/wire_client.hpp"

namespace nbd_remap {

class HostileWire : public testing::Test {
 protected:
  struct World {
    ScratchDir dir;
    std::unique_ptr<BadDisk> disk;
    std::unique_ptr<RemapServer> volume;
    std::unique_ptr<Client> old;
    std::uint64_t size = 0;
    std::uint64_t checks = 0;
    pid_t pid = 0;
    std::size_t threads = 0;
    std::size_t descriptors = 0;
  };
  // bad: as the disk takes it; without, MAIN is a plain file.
  static std::unique_ptr<World> make_world(std::uint64_t size,
                                           const std::string& bad = "",
                                           const Words& more = {}) {
    auto w = std::make_unique<World>();
    std::string main = w->dir.make_file("main.img", size);
    const std::string spare = w->dir.make_file("spare.img", 4 << 20);
    if (!bad.empty()) {
      w->disk = std::make_unique<BadDisk>(w->dir, "disk", main, Words{bad});
      main = w->disk->uri();
    }
    format(main, spare);
    w->volume =
        std::make_unique<RemapServer>(w->dir, "volume", main, spare, more);
    w->volume->verbose = false;
    w->volume->start();
    w->size = size;
    w->old = std::make_unique<Client>(w->volume->uri());
    w->pid = w->volume->child().pid();
    // Those that stay once they have been used.
    check_old(*w);
    EXPECT_TRUE(eventually([&] {
      w->threads = in_proc(*w, "task");
      w->descriptors = in_proc(*w, "fd");
      return w->volume->show()["in_flight"] == 0;
    }));
    return w;
  }
  static void end_world(std::unique_ptr<World>& w) {
    w->old.reset();
    const Ended ended = w->volume->stop();
    EXPECT_EQ(ended.code, 0) << ended.err;
    w.reset();
  }
  // Writes what was never there before and reads it, at the end of the volume.
  static void check_old(World& w) {
    const std::string data = pattern(++w.checks * 7919, 8192);
    std::string back;
    ASSERT_EQ(w.old->write(w.size - 8192, data, LIBNBD_CMD_FLAG_FUA), 0);
    ASSERT_EQ(w.old->read(w.size - 8192, 8192, &back), 0);
    ASSERT_TRUE(back == data);
    ASSERT_TRUE(w.volume->child().running()) << w.volume->log();
    ASSERT_EQ(w.volume->show()["pid"], w.pid);
  }
  static std::size_t in_proc(const World& w, const char* what) {
    return count_entries("/proc/" + std::to_string(w.pid) + "/" + what);
  }
  // Contract C14, L5.
  static void check_world(World& w) {
    check_old(w);
    EXPECT_TRUE(eventually(
        [&] {
          return in_proc(w, "task") <= w.threads &&
                 in_proc(w, "fd") <= w.descriptors;
        },
        30s))
        << in_proc(w, "task") << " threads, " << in_proc(w, "fd")
        << " descriptors; before " << w.threads << " and " << w.descriptors;
  }
};

}  // namespace nbd_remap
