#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// RemapctlTest: a folder with a MAIN and a SPARE, the real nbd-remapctl and
// nbd-remap-spare, and a server that answers what the test wants.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/unique_fd.hpp"
#include "plugins/remap/remap_store.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

inline constexpr int kBoundMs = 30'000;

inline std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

struct Ended {
  int status = -1;
  std::string out;
  std::string err;
};

class RemapctlTest : public testing::Test {
 protected:
  RemapctlTest() {
    std::string name = fs::temp_directory_path() / "remapctl-XXXXXX";
    dir_ = ::mkdtemp(name.data());
    main_ = dir_ + "/main.img";
    spare_ = dir_ + "/spare.img";
    socket_ = dir_ + "/control";
    make(main_, 8 << 20);
    make(spare_, 4 << 20);
  }
  ~RemapctlTest() override {
    server_.reset();
    fs::remove_all(dir_);
  }

  static void make(const std::string& path, std::uintmax_t bytes) {
    std::ofstream(path).close();
    fs::resize_file(path, bytes);
  }

  Ended run_program(const std::string& program, const Words& words,
                    const std::string& out_to = "") const {
    std::vector<std::string> all{program};
    all.insert(all.end(), words.begin(), words.end());
    std::vector<char*> argv;
    for (std::string& word : all) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string out = out_to.empty() ? dir_ + "/out" : out_to;
    const std::string err = dir_ + "/err";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), flags, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), flags, 0600);
    pid_t pid = -1;
    const int rc = ::posix_spawn(&pid, program.c_str(), &actions, nullptr,
                                 argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    EXPECT_EQ(rc, 0) << std::strerror(rc);
    if (rc != 0) return {};
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    pollfd p{pidfd.get(), POLLIN, 0};
    if (::poll(&p, 1, kBoundMs) != 1) {
      ADD_FAILURE() << program << " did not end";
      ::kill(pid, SIGKILL);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status)) << "killed by a signal";
    Ended ended{WEXITSTATUS(status), "", content(err)};
    if (out_to.empty()) ended.out = content(out);
    return ended;
  }
  Ended run(const Words& words) const {
    return run_program(NBD_REMAPCTL, words);
  }
  Words format_words() const {
    return {"spare", "format", "--main=" + main_, "--spare=" + spare_};
  }
  Ended format(const Words& more = {}) const {
    Words words = format_words();
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }
  Ended ask(Words words) const {
    words.push_back("--socket=" + socket_);
    return run(words);
  }

  // A complaint: this exit status, nothing on standard output, one line with
  // these words on standard error; and with --json the same as an object.
  void expect_complaint(Words words, int status, const std::string& part) {
    Ended ended = run(words);
    const std::string what = ::testing::PrintToString(words);
    EXPECT_EQ(ended.status, status) << what << ended.err;
    EXPECT_EQ(ended.out, "") << what;
    EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1)
        << what << ended.err;
    EXPECT_NE(ended.err.find(part), std::string::npos) << what << ended.err;
    EXPECT_EQ(ended.err.rfind("nbd-remapctl", 0), 0U) << ended.err;
    words.push_back("--json");
    ended = run(words);
    EXPECT_EQ(ended.status, status) << what << ended.err;
    EXPECT_EQ(ended.out, "") << what;
    const json error = json::parse(ended.err, nullptr, false);
    ASSERT_TRUE(error.is_object()) << what << ended.err;
    EXPECT_EQ(error["exit_status"], status);
    EXPECT_NE(error["message"].get<std::string>().find(part), std::string::npos)
        << what << ended.err;
  }
  // The same, and nothing has changed.
  void expect_refusal(const Words& words, int status, const std::string& part) {
    const std::string main_before = content(main_);
    const std::string spare_before = content(spare_);
    expect_complaint(words, status, part);
    EXPECT_TRUE(content(main_) == main_before) << "MAIN has changed";
    EXPECT_TRUE(content(spare_) == spare_before) << "SPARE has changed";
  }

  std::unique_ptr<Backend> open(const std::string& path) const {
    auto backend = open_backend(path, {});
    EXPECT_TRUE(backend) << backend.error().text();
    return std::move(*backend);
  }
  MetadataSurvey survey() const {
    const auto spare = open(spare_);
    auto found = survey_metadata(*spare);
    EXPECT_TRUE(found) << found.error().text();
    return std::move(*found);
  }
  // Ruins one sector.
  void damage(DeviceOffset at) const {
    std::fstream file(spare_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(at.value));
    file << std::string(kSectorBytes, 'x');
    ASSERT_TRUE(file.flush());
  }
  // A map with something in it, as a server that stopped in order leaves it.
  void use_spare(bool stop_in_order) const {
    const auto main = open(main_);
    const auto spare = open(spare_);
    Binding binding;
    binding.main_bytes = main->info().size_bytes;
    binding.main_identity = main->info().identity;
    auto store = RemapStore::open(*spare, binding, false,
                                  [](LogLevel, std::string_view) {});
    ASSERT_TRUE(store) << store.error().text();
    const SlotNo first = *(*store)->take_slot();
    const SlotNo second = *(*store)->take_slot();
    const SlotNo bad = *(*store)->take_slot();
    ASSERT_TRUE((*store)->commit({{BlockNo{0}, first.value, 0xff},
                                  {BlockNo{2047}, second.value, 0x0f},
                                  {BlockNo{5}, RemapEntry::kNoSlot, 0xfd}},
                                 {bad}));
    if (!stop_in_order) return;
    ASSERT_TRUE((*store)->close());
  }

  void serve(std::map<std::string, HttpResponse> answers) {
    auto server = HttpServer::start(
        socket_,
        [answers = std::move(answers)](const HttpRequest& request) {
          const auto it = answers.find(request.method + " " + request.path);
          if (it == answers.end())
            return http_problem(404, "Not found", "no such path\x1b[2J");
          return it->second;
        },
        [](LogLevel, std::string_view) {});
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
  }

  std::string dir_;
  std::string main_;
  std::string spare_;
  std::string socket_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace nbd_remap
