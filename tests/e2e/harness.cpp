// SPDX-License-Identifier: BSD-3-Clause
#include "tests/e2e/harness.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <thread>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/crc32c.hpp"

namespace nbd_remap {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

namespace {

// One that refuses ends; the others may be valgrind's.
constexpr auto kStartBound = 180s;

const char* variable(const char* name) {
  return std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
}

std::string content(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return {};
  std::string text(static_cast<std::size_t>(st.st_size), '\0');
  const ssize_t n = ::pread(fd, text.data(), text.size(), 0);
  text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  return text;
}

UniqueFd memory_file(const char* name) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd) throw std::runtime_error("memfd_create");
  return fd;
}

std::vector<char*> pointers(const Words& words) {
  std::vector<char*> out;
  for (const std::string& word : words)
    out.push_back(const_cast<char*>(word.c_str()));
  out.push_back(nullptr);
  return out;
}

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

}  // namespace

bool long_form() {
  const char* value = variable("NBD_REMAP_LONG");
  return value != nullptr && std::string_view(value) == "1";
}

bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds bound) {
  const auto until = steady_clock::now() + bound;
  while (!condition()) {
    if (steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

Child::Child(const Words& words, const Words& environment)
    : out_(memory_file("out")), err_(memory_file("err")) {
  Words all = environment;
  for (char** e = environ; *e != nullptr; ++e) all.emplace_back(*e);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out_.get(), 1);
  ::posix_spawn_file_actions_adddup2(&actions, err_.get(), 2);
  const int error =
      ::posix_spawnp(&pid_, words[0].c_str(), &actions, nullptr,
                     pointers(words).data(), pointers(all).data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw std::runtime_error(words[0] + ": " + std::strerror(error));
}

Child::~Child() {
  if (!running()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Child::running() {
  if (status_) return false;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
  status_ = status;
  return false;
}

void Child::send(int signal_number) const {
  if (!status_) ::kill(pid_, signal_number);
}

void Child::hang() const {
  send(SIGSTOP);
  siginfo_t ignored;
  if (!status_) ::waitid(P_PID, pid_, &ignored, WSTOPPED | WEXITED | WNOWAIT);
}

Ended Child::wait(std::chrono::milliseconds bound) {
  const auto began = steady_clock::now();
  Ended ended;
  if (eventually([&] { return !running(); }, bound)) {
    ended.code =
        WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 128 + WTERMSIG(*status_);
  } else {
    ::kill(pid_, SIGKILL);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    status_ = status;
  }
  ended.took = std::chrono::duration_cast<std::chrono::milliseconds>(
      steady_clock::now() - began);
  ended.out = out();
  ended.err = err();
  return ended;
}

std::string Child::out() const { return content(out_.get()); }
std::string Child::err() const { return content(err_.get()); }

Ended run(const Words& words, std::chrono::milliseconds bound) {
  return Child(words).wait(bound);
}

bool have_program(const std::string& name) {
  return run({"sh", "-c", "command -v \"$0\"", name}).code == 0;
}

std::string nbdkit_program() {
  const char* chosen = variable("NBDKIT");
  return chosen != nullptr && *chosen != '\0' ? chosen : NBDKIT;
}

Words nbdkit_environment() {
#ifdef LIBASAN
  return {"LD_PRELOAD=" LIBASAN, "ASAN_OPTIONS=detect_leaks=0"};
#else
  return {};
#endif
}

// ASan is slower than what is promised.
std::chrono::milliseconds promised_stop() {
#ifdef LIBASAN
  return 5s;
#else
  return 1s;
#endif
}

Ended run_nbdkit(const Words& words, std::chrono::milliseconds bound) {
  Words all{nbdkit_program()};
  all.insert(all.end(), words.begin(), words.end());
  return Child(all, nbdkit_environment()).wait(bound);
}

Server::Server(const ScratchDir& dir, std::string name, Words server_words)
    : words(std::move(server_words)),
      pid_file_(dir.file(name + ".pid")),
      socket_(dir.file(name + ".sock")) {}

bool Server::try_start() {
  child_.reset();
  std::error_code ignored;
  fs::remove(pid_file_, ignored);
  fs::remove(socket_, ignored);
  Words all{nbdkit_program(), "-f", "--exit-with-parent", "-U", socket_, "-P",
            pid_file_};
  if (verbose) all.emplace_back("-v");
  all.insert(all.end(), words.begin(), words.end());
  child_ = std::make_unique<Child>(all, nbdkit_environment());
  // The pid is written before the plugin starts, so that does not tell; a
  // connection is answered once it has.
  eventually(
      [&] {
        return !child_->running() ||
               (fs::exists(pid_file_) && fs::exists(socket_));
      },
      kStartBound);
  if (!child_->running()) return false;
  nbd_handle* nbd = nbd_create();
  const bool answered = nbd_connect_unix(nbd, socket_.c_str()) == 0;
  nbd_close(nbd);
  return answered && child_->running();
}

void Server::start() {
  if (!try_start()) throw std::runtime_error("nbdkit did not start: " + log());
}

Ended Server::stop(std::chrono::milliseconds bound) {
  child_->send(SIGTERM);
  return child_->wait(bound);
}

Ended Server::wait(std::chrono::milliseconds bound) {
  return child_->wait(bound);
}

void Server::kill() {
  child_->send(SIGKILL);
  child_->wait(10s);
}

Superblock format(const std::string& main, const std::string& spare,
                  const FormatRequest& request) {
  const auto main_disk = must(open_backend(main, {}));
  const auto spare_disk = must(open_backend(spare, {}));
  return must(format_spare(*spare_disk, *main_disk, request));
}

MetadataSurvey survey(const std::string& spare) {
  OpenOptions options;
  options.read_only = true;
  const auto disk = must(open_backend(spare, options));
  return must(survey_metadata(*disk));
}

std::string pattern(std::uint64_t seed, std::size_t size) {
  std::string out(size, '\0');
  std::uint64_t x = seed * 0x9E3779B97F4A7C15U + 1;
  for (std::size_t at = 0; at < size; at += 8) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    const std::uint64_t word = x ^ (x >> 29);
    std::memcpy(out.data() + at, &word, std::min<std::size_t>(8, size - at));
  }
  return out;
}

std::uint32_t checksum(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::vector<std::byte> buffer(1 << 20);
  std::uint32_t crc = 0;
  for (ssize_t n = 0; (n = ::read(fd.get(), buffer.data(), buffer.size())) > 0;)
    crc = std::rotl(crc, 1) ^
          crc32c(ConstBytes(buffer).first(static_cast<std::size_t>(n)));
  return crc;
}

std::string fingerprint(const std::string& folder) {
  std::map<std::string, std::string> all;
  for (const fs::directory_entry& e : fs::directory_iterator(folder)) {
    std::string& line = all[e.path().filename()];
    line = e.path().filename().string();
    if (e.is_regular_file())
      line += fmt::format(" {} bytes {:08x}", e.file_size(),
                          checksum(e.path().string()));
  }
  std::string text;
  for (const auto& [name, line] : all) text += line + "\n";
  return text;
}

std::size_t count_entries(const std::string& folder) {
  const fs::directory_iterator all(folder);
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos;
       at += what.size())
    ++n;
  return n;
}

}  // namespace nbd_remap
