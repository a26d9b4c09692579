// SPDX-License-Identifier: BSD-3-Clause
// Stopping: in order, in time, with whatever clients and disks there are, and
// nothing left behind (contract L2, L3, L5).

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "plugins/backend/open_backend.hpp"
#include "plugins/remap/remap_log.hpp"
#include "tests/e2e/harness.hpp"
#include "tests/e2e/raw_client.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kStep = 7;

// For so many scattered mappings, at least.
std::uint64_t main_bytes_for(std::uint64_t mappings) {
  return std::max<std::uint64_t>(16 << 20, (mappings * kStep + 1) * 4096);
}

// A SPARE with so many mappings of MAIN, which is a file or a URI.
void make_spare(const std::string& main, const std::string& spare,
                std::uint64_t mappings) {
  fs::resize_file(spare, fresh_bytes_for(mappings + 1000, 4096));
  format(main, spare);
  if (mappings == 0) return;
  auto disk = open_backend(spare, {});
  ASSERT_TRUE(disk);
  const auto found = survey_metadata(**disk);
  ASSERT_TRUE(found);
  auto log = RemapLog::take_over(**disk, *found, [](LogLevel, auto) {});
  ASSERT_TRUE(log);
  MapState state;
  const Layout& layout = found->superblock.layout;
  SlotNo slot{0};
  for (std::uint64_t i = 0; i < mappings; ++i, ++slot.value) {
    while (!layout.has_slot(slot)) ++slot.value;
    state.entries.push_back({BlockNo{i * kStep + 1}, slot.value, 0xFF});
  }
  ASSERT_TRUE((*log)->checkpoint(state));
  ASSERT_TRUE((*log)->append(RecordType::closed, {}));
}

// Mistake 38: what belongs below is closed after what stands on it.
void expect_ordered_stop(const std::string& log) {
  std::size_t at = 0;
  for (const char* step :
       {"stop: requests ended in ", "client sockets shut in ",
        "stop: control socket closed in ",
        "stop: checkpoint written, marked clean in ",
        "stop: disks closed in "}) {
    const std::size_t found = log.find(step, at);
    ASSERT_NE(found, std::string::npos) << step << "\n" << log;
    EXPECT_NE(log.find(" ms\n", found), std::string::npos);
    at = found;
  }
}

enum class Who { nobody, idle, handshake, unreading, load, all };
enum class How { sigterm, control };
struct StopCase {
  Who who;
  How how;
  bool mappings;
};

void print_to(std::string& out, const StopCase& c) {
  const char* who[] = {"nobody",    "idle", "handshake",
                       "unreading", "load", "all"};
  out = std::string(who[static_cast<int>(c.who)]) +
        (c.how == How::sigterm ? "_by_signal" : "_by_control") +
        (c.mappings ? "_with_mappings" : "");
}

class RemapStop : public testing::Test {
 protected:
  void start(std::uint64_t mappings) {
    main_ = dir_.make_file("main.img", 0);
    spare_ = dir_.make_file("spare.img", 0);
    fs::resize_file(main_, main_bytes_for(mappings));
    make_spare(main_, spare_, mappings);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main_, spare_);
    volume_->start();
    EXPECT_EQ(volume_->show()["blocks"]["remapped"], mappings);
  }
  ScratchDir dir_;
  std::string main_;
  std::string spare_;
  std::unique_ptr<RemapServer> volume_;
};

class RemapStopWith : public RemapStop,
                      public testing::WithParamInterface<StopCase> {};

// Writes and reads as fast as it can until the connection or the object ends.
class Load {
 public:
  explicit Load(const std::string& uri) {
    for (int i = 0; i < 4; ++i)
      threads_.emplace_back([this, c = Client(uri)] {
        const std::string data = pattern(1, 65'536);
        for (std::uint64_t at = 0; !stop_; at ^= 1 << 20) {
          if (c.write(at, data) != 0) break;
          if (c.read(at, 65'536, nullptr) != 0) break;
          ++done;
        }
      });
  }
  ~Load() {
    stop_ = true;
    for (std::thread& t : threads_) t.join();
  }
  std::atomic<std::uint64_t> done{0};

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

TEST_P(RemapStopWith, ends_in_time_and_in_order) {
  const auto [who, how, mappings] = GetParam();
  start(mappings ? 100'000 : 0);
  const auto with = [w = who](Who kind) { return w == kind || w == Who::all; };
  std::unique_ptr<Client> idle;
  std::unique_ptr<RawClient> shaking;
  std::unique_ptr<RawClient> deaf;
  std::unique_ptr<Load> load;
  if (with(Who::idle)) idle = std::make_unique<Client>(volume_->uri());
  if (with(Who::handshake)) {
    shaking = std::make_unique<RawClient>(volume_->socket());
    ASSERT_EQ(shaking->receive(18).size(), 18U);
  }
  if (with(Who::unreading)) {
    deaf = std::make_unique<RawClient>(volume_->socket());
    deaf->shake_hands();
    while (deaf->ask_read(0, 1 << 20)) {
    }
  }
  if (with(Who::load)) {
    load = std::make_unique<Load>(volume_->uri());
    ASSERT_TRUE(eventually([&] { return load->done > 20; }));
  }
  const auto began = std::chrono::steady_clock::now();
  if (how == How::sigterm)
    volume_->child().send(SIGTERM);
  else
    EXPECT_EQ(volume_->post_stop(), 202);
  const Ended ended = volume_->wait(15s);
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_LT(took, promised_stop());
  expect_ordered_stop(ended.err);
  EXPECT_FALSE(fs::exists(volume_->control()));
  EXPECT_FALSE(fs::exists(volume_->socket()));
  const MetadataSurvey after = survey(spare_);
  EXPECT_TRUE(after.chosen().closed);
  EXPECT_EQ(after.chosen().state.entries.size(), mappings ? 100'000U : 0U);
  EXPECT_TRUE(after.copies_agree());
}

std::string stop_name(const testing::TestParamInfo<StopCase>& info) {
  std::string name;
  print_to(name, info.param);
  return name;
}
INSTANTIATE_TEST_SUITE_P(
    Clients, RemapStopWith,
    testing::Values(StopCase{Who::nobody, How::sigterm, false},
                    StopCase{Who::nobody, How::control, false},
                    StopCase{Who::idle, How::sigterm, false},
                    StopCase{Who::idle, How::control, false},
                    StopCase{Who::handshake, How::sigterm, false},
                    StopCase{Who::handshake, How::control, false},
                    StopCase{Who::unreading, How::sigterm, false},
                    StopCase{Who::unreading, How::control, false},
                    StopCase{Who::load, How::sigterm, false},
                    StopCase{Who::load, How::control, false},
                    StopCase{Who::all, How::sigterm, true},
                    StopCase{Who::all, How::control, true}),
    stop_name);

// Mistake 31.
TEST_F(RemapStop, a_million_mappings_load_and_stop_in_time) {
  start(1'000'000);
  {
    const Client c(volume_->uri());
    std::string data;
    EXPECT_EQ(c.read((kStep + 1) * 4096, 4096, &data), 0);
  }
  const Ended ended = volume_->stop();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_LT(ended.took, promised_stop());
  expect_ordered_stop(ended.err);
  EXPECT_TRUE(survey(spare_).chosen().closed);
}

// The checkpoint that a changed map needs, while clients do what they can.
TEST_F(RemapStop, a_changed_map_of_a_million_stops_in_time_under_load) {
  constexpr std::uint64_t kMappings = 1'000'000;
  const std::string image =
      dir_.make_file("main.img", main_bytes_for(kMappings));
  spare_ = dir_.make_file("spare.img", 0);
  BadDisk disk(dir_, "disk", image, {"bad=0+8:write"});
  make_spare(disk.uri(), spare_, kMappings);
  RemapServer volume(dir_, "volume", disk.uri(), spare_);
  volume.start();
  EXPECT_EQ(Client(volume.uri()).write(0, pattern(1, 4096)), 0);
  EXPECT_EQ(volume.show()["blocks"]["remapped"], kMappings + 1);
  {
    const Client idle(volume.uri());
    const Load load(volume.uri());
    ASSERT_TRUE(eventually([&] { return load.done > 20; }));
    volume.child().send(SIGTERM);
    const auto began = std::chrono::steady_clock::now();
    const Ended ended = volume.wait(15s);
    EXPECT_LT(std::chrono::steady_clock::now() - began, promised_stop());
    EXPECT_EQ(ended.code, 0) << ended.err;
    expect_ordered_stop(ended.err);
  }
  const MetadataSurvey after = survey(spare_);
  EXPECT_TRUE(after.chosen().closed);
  EXPECT_LE(after.chosen().log_length, 2U) << "no checkpoint was written";
  EXPECT_EQ(after.chosen().state.entries.size(), kMappings + 1);
}

TEST_F(RemapStop, in_the_middle_of_an_error_storm) {
  const std::string image = dir_.make_file("main.img", 32 << 20);
  spare_ = dir_.make_file("spare.img", 32 << 20);
  const BadDisk disk(dir_, "disk", image, {"bad=0+65536:write"});
  format(disk.uri(), spare_);
  RemapServer volume(dir_, "volume", disk.uri(), spare_);
  volume.start();
  std::atomic<std::uint64_t> acked{0};
  std::thread writer([&, c = Client(volume.uri())] {
    while (c.write(acked * 4096, pattern(acked, 4096)) == 0) ++acked;
  });
  EXPECT_TRUE(eventually([&] { return acked > 50; }));
  const Ended ended = volume.stop();
  writer.join();
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_LT(ended.took, promised_stop());
  expect_ordered_stop(ended.err);
  volume.start();
  EXPECT_GE(volume.show()["blocks"]["remapped"], acked.load());
  const Client c(volume.uri());
  for (std::uint64_t i = 0; i < acked; ++i) {
    std::string data;
    ASSERT_EQ(c.read(i * 4096, 4096, &data), 0);
    ASSERT_TRUE(data == pattern(i, 4096)) << i;
  }
  EXPECT_EQ(volume.stop().code, 0);
}

class RemapStopHung : public testing::TestWithParam<bool> {};

// A remote that hangs: bounded, and said so; an unclean end is an ordinary one.
TEST_P(RemapStopHung, with_a_remote_that_hangs_ends_within_the_bound) {
  const bool hang_main = GetParam();
  const ScratchDir dir;
  const std::string image = dir.make_file("image", 8 << 20);
  const std::string file = dir.make_file("file", 8 << 20);
  Server remote(dir, "remote", {"file", image});
  remote.start();
  const std::string main = hang_main ? remote.uri() : file;
  const std::string spare = hang_main ? file : remote.uri();
  format(main, spare);
  RemapServer volume(dir, "volume", main, spare);
  volume.start();
  std::thread reader;
  {
    Client c(volume.uri());
    EXPECT_EQ(c.write(0, pattern(1, 4096), LIBNBD_CMD_FLAG_FUA), 0);
    remote.child().hang();
    if (hang_main)
      reader = std::thread([client = std::move(c)] {
        EXPECT_NE(client.read(0, 4096, nullptr), 0);
      });
  }
  EXPECT_TRUE(eventually(
      [&] { return !hang_main || volume.show()["in_flight"] == 1; }));
  const Ended ended = volume.stop(25s);
  EXPECT_LT(ended.took, 15s);
  if (hang_main) {
    EXPECT_EQ(ended.code, 1) << ended.err;
    EXPECT_NE(ended.err.find("ending without a clean mark"), std::string::npos)
        << ended.err;
    EXPECT_NE(ended.err.find("hangs after"), std::string::npos) << ended.err;
  } else {  // spare-timeout= is shorter than the bound of the stop
    EXPECT_NE(ended.err.find("stop: not marked clean"), std::string::npos)
        << ended.err;
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_FALSE(survey(image).chosen().closed);
  }
  EXPECT_FALSE(fs::exists(volume.control()));
  EXPECT_FALSE(fs::exists(volume.socket()));
  if (reader.joinable()) reader.join();
  remote.child().send(SIGCONT);
  volume.start();
  std::string data;
  EXPECT_EQ(Client(volume.uri()).read(0, 4096, &data), 0);
  EXPECT_TRUE(data == pattern(1, 4096));
  EXPECT_EQ(volume.stop().code, 0);
}
INSTANTIATE_TEST_SUITE_P(Disks, RemapStopHung, testing::Bool(),
                         [](const auto& kind) {
                           return std::string(kind.param ? "main" : "spare");
                         });

TEST_F(RemapStop, a_start_with_a_remote_that_hangs_is_bounded) {
  if (!long_form()) GTEST_SKIP() << "30 s of waiting: NBD_REMAP_LONG=1";
  const std::string image = dir_.make_file("image", 8 << 20);
  const std::string spare = dir_.make_file("spare.img", 8 << 20);
  Server remote(dir_, "remote", {"file", image});
  remote.start();
  format(remote.uri(), spare);
  remote.child().hang();
  const Ended ended = run_nbdkit({"-f", "-U", dir_.file("s"), REMAP_PLUGIN,
                                  remote.uri(), "spare=" + spare},
                                 60s);
  EXPECT_EQ(ended.code, 1);
  EXPECT_EQ(count_of(ended.err, "\n"), 1U) << ended.err;
  EXPECT_NE(ended.err.find("main"), std::string::npos) << ended.err;
  remote.child().send(SIGCONT);
}

// Contract L5, mistake 32.
TEST_F(RemapStop, many_starts_and_stops_leave_nothing) {
  start(0);
  EXPECT_EQ(volume_->stop().code, 0);
  const std::string before = fingerprint(dir_.path());
  const auto names = [](const std::string& text) {
    std::string out;
    for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
      end = text.find('\n', at);
      out += text.substr(at, text.substr(at, end - at).find(' ')) + "\n";
    }
    return out;
  };
  const std::size_t descriptors = count_entries("/proc/self/fd");
  std::vector<std::size_t> threads;
  std::vector<std::size_t> open_files;
  for (int i = 0; i < in_long_form(500, 15); ++i) {
    volume_->start();
    EXPECT_EQ(Client(volume_->uri()).write(0, "x"), 0);
    const std::string proc =
        "/proc/" + std::to_string(volume_->child().pid()) + "/";
    EXPECT_TRUE(eventually([&] { return volume_->show()["in_flight"] == 0; }));
    EXPECT_EQ(run({"sh", "-c",
                   "ls /proc/$0/task/$0/children >/dev/null && "
                   "test -z \"$(cat /proc/$0/task/*/children)\"",
                   std::to_string(volume_->child().pid())})
                  .code,
              0);
    threads.push_back(count_entries(proc + "task"));
    open_files.push_back(count_entries(proc + "fd"));
    const pid_t pid = volume_->child().pid();
    EXPECT_EQ(volume_->stop().code, 0) << volume_->log();
    EXPECT_NE(::kill(pid, 0), 0);
    EXPECT_EQ(names(fingerprint(dir_.path())), names(before));
  }
  EXPECT_LE(threads.back(), threads.front() + 1);
  EXPECT_LE(open_files.back(), open_files.front() + 1);
  EXPECT_EQ(count_entries("/proc/self/fd"), descriptors);
}

}  // namespace
}  // namespace nbd_remap
