// SPDX-License-Identifier: BSD-3-Clause
#include "server/smart_run.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "plugins/base/unique_fd.hpp"
#include "server/smart_report.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kEndBound{2};

Error run_error(int errnum, const std::string& words) {
  return make_error(ErrorClass::caller, errnum, words);
}
std::string reason(int errnum) {
  return std::generic_category().message(errnum);
}

// Debian has it in /usr/sbin, which is not on everybody's path.
std::string find_smartctl() {
  const char* path = std::getenv("PATH");  // NOLINT: nobody sets it meanwhile
  std::string places = path == nullptr ? "" : path;
  places += ":/usr/sbin:/sbin";
  for (std::size_t at = 0; at <= places.size();) {
    const std::size_t end = std::min(places.find(':', at), places.size());
    const std::string program = places.substr(at, end - at) + "/smartctl";
    if (program[0] == '/' && ::access(program.c_str(), X_OK) == 0)
      return program;
    at = end + 1;
  }
  return {};
}

// Ended and waited for when it goes out of scope. One that a disk holds in the
// kernel does not end: it is left to be waited for by init.
class Program {
 public:
  Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (pid <= 0) return;
    (void)::kill(pid, SIGKILL);
    const auto until = steady_clock::now() + kEndBound;
    while (::waitpid(pid, nullptr, WNOHANG) == 0 && steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_t pid = -1;
};

}  // namespace

Result<std::string> run_smartctl(const std::string& device,
                                 std::chrono::milliseconds bound) {
  struct stat st {};
  if (::stat(device.c_str(), &st) != 0)
    return run_error(errno, fmt::format("{}: {}", device, reason(errno)));
  // NVMe controllers are character devices.
  if (!S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))
    return run_error(
        ENOTBLK, fmt::format("{}: is no disk; expected one such as /dev/sdb, "
                             "or --smart-json=FILE",
                             device));
  const std::string program = find_smartctl();
  if (program.empty())
    return run_error(
        ENOENT,
        "smartctl is not installed; install smartmontools, or save "
        "its output elsewhere and give it as --smart-json=FILE");
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return run_error(errno, fmt::format("smartctl: {}", reason(errno)));
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  // A path is never taken for an option.
  std::vector<std::string> words{program,         "--json", "-x",  "-l",
                                 "defects,65535", "--",     device};
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  (void)::posix_spawn_file_actions_init(&actions);
  (void)::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY,
                                           0);
  (void)::posix_spawn_file_actions_adddup2(&actions, in.get(), 1);
  (void)::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY,
                                           0);
  Program child;
  const int failed = ::posix_spawn(&child.pid, program.c_str(), &actions,
                                   nullptr, argv.data(), environ);
  (void)::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    child.pid = -1;
    return run_error(failed, fmt::format("{}: {}", program, reason(failed)));
  }
  in.reset();
  const auto until = steady_clock::now() + bound;
  std::string text;
  std::vector<char> buffer(64 << 10);
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - steady_clock::now());
    pollfd wait{out.get(), POLLIN, 0};
    const int ready = left.count() <= 0
                          ? 0
                          : ::poll(&wait, 1, static_cast<int>(left.count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0)
      return run_error(
          ETIMEDOUT,
          fmt::format("smartctl has not answered for {} within {} s; "
                      "the disk hangs",
                      device, bound.count() / 1000));
    const ssize_t n = ::read(out.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return run_error(errno, fmt::format("smartctl: {}", reason(errno)));
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(n));
    if (text.size() > kMaxSmartBytes)
      return run_error(EMSGSIZE, "smartctl does not end to print");
  }
}

Result<std::string> read_smart_file(const std::string& path) {
  const auto failed = [&](int errnum) {
    return run_error(errnum, fmt::format("{}: {}", path, reason(errnum)));
  };
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return failed(errno);
  std::string text;
  std::vector<char> buffer(64 << 10);
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(errno);
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(n));
    if (text.size() > kMaxSmartBytes)
      return run_error(EFBIG,
                       fmt::format("{}: too large; expected what smartctl "
                                   "--json -x prints",
                                   path));
  }
}

}  // namespace nbd_remap
