#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What the end-to-end tests of the remap plugin stand on: programs that are
// always ended by their pid, real nbdkit servers, NBD clients, a SPARE made
// through the library.
//
// The nbdkit to use: environment variable NBDKIT, else the CMake variable.
// NBD_REMAP_LONG=1 chooses the long form of the tests that have one.
//
// Waits    every one is bounded; what is not there in time is an exception or
//          an answer that says so, never a hang.
// Threads  one; --exit-with-parent watches the thread that started a server.

#include <libnbd.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugins/base/unique_fd.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/spare_format.hpp"
#include "tests/fakes/scratch.hpp"

namespace nbd_remap {

using nlohmann::json;
using Words = std::vector<std::string>;
using namespace std::chrono_literals;

bool long_form();
// The first in the long form, the second otherwise.
template <class T>
T in_long_form(T yes, T no) {
  return long_form() ? yes : no;
}

// True as soon as the condition is, false when it was not within the bound.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds bound = 10s);

struct Ended {
  int code = -1;  // exit status; 128 + signal; -1: was killed by the bound
  std::string out;
  std::string err;
  std::chrono::milliseconds took{};
};

// A program with nothing to read, whose output is kept. Ends with the object.
class Child {
 public:
  explicit Child(const Words& words, const Words& environment = {});
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  pid_t pid() const { return pid_; }
  bool running();
  void send(int signal_number) const;
  // SIGSTOP, and waits until every thread stands: the signal alone returns
  // while some still run, and an answer could come out of a "hung" server.
  void hang() const;
  // Waits for its end; SIGKILL when the bound is over (code -1).
  Ended wait(std::chrono::milliseconds bound);
  std::string out() const;
  std::string err() const;

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
  UniqueFd out_;
  UniqueFd err_;
};

Ended run(const Words& words, std::chrono::milliseconds bound = 30s);
bool have_program(const std::string& name);

// nbdkit and what it needs in its environment (libasan, in such a build).
std::string nbdkit_program();
Words nbdkit_environment();
// How soon a server has ended after it was told to (contract L2).
std::chrono::milliseconds promised_stop();
Ended run_nbdkit(const Words& words, std::chrono::milliseconds bound = 20s);

// One nbdkit in the foreground on the Unix socket DIR/NAME.sock, with its log
// (-v). words: filters, plugin and parameters.
class Server {
 public:
  Server(const ScratchDir& dir, std::string name, Words words);
  virtual ~Server() = default;

  // Throws with its messages if it is not ready in time.
  void start();
  // Where a refusal is expected: until it listens or has ended.
  bool try_start();
  // SIGTERM, and waits.
  Ended stop(std::chrono::milliseconds bound = 15s);
  Ended wait(std::chrono::milliseconds bound);
  void kill();  // -9
  Child& child() { return *child_; }
  std::string log() const { return child_ ? child_->err() : ""; }
  const std::string& socket() const { return socket_; }
  std::string uri() const { return "nbd+unix:///?socket=" + socket_; }
  Words words;
  bool verbose = true;  // -v

 protected:
  const std::string pid_file_;
  const std::string socket_;
  std::unique_ptr<Child> child_;
};

// The volume over main and spare, with control socket DIR/NAME.ctl.
class RemapServer : public Server {
 public:
  RemapServer(const ScratchDir& dir, const std::string& name, std::string main,
              std::string spare, const Words& more = {});
  json show() const;  // GET /v1/volumes/NAME
  json health() const;
  int post_stop() const;  // the HTTP status
  const std::string& control() const { return control_; }
  const std::string main;
  const std::string spare;

 private:
  json get(const std::string& path) const;
  std::string volume_path() const;
  const std::string control_;
};

// nbdkit baddisk over a file, steered while it runs.
class BadDisk : public Server {
 public:
  BadDisk(const ScratchDir& dir, const std::string& name,
          const std::string& file, const Words& more = {});
  json state() const;
  json add_bad(const json& what) const;  // {"ranges": "8-15", "mode": "write"}
  json heal(const json& what) const;     // {"all": true}
  std::uint64_t fired(const std::string& kind) const;
  // An action of its control socket: post("cut", {{"kind", "torn"}}).
  json post(const std::string& action, const json& what = json::object()) const;

 private:
  json ask(const std::string& method, const std::string& path,
           const std::string& body) const;
  const std::string control_;
};

// A libnbd connection. Requests answer 0 or the errno the client sees.
class Client {
 public:
  explicit Client(const std::string& uri);  // throws
  ~Client();
  Client(Client&& other) noexcept : nbd_(std::exchange(other.nbd_, nullptr)) {}
  Client& operator=(Client&&) = delete;
  nbd_handle* get() const { return nbd_; }
  std::uint64_t size() const;
  int read(std::uint64_t offset, std::size_t length, std::string* out) const;
  int write(std::uint64_t offset, std::string_view data,
            std::uint32_t flags = 0) const;
  int zero(std::uint64_t offset, std::uint64_t length,
           std::uint32_t flags = 0) const;
  int flush() const;
  // Lengths and flags (LIBNBD_STATE_*), as one block status answers.
  std::vector<std::pair<std::uint64_t, std::uint32_t>> map(
      std::uint64_t offset, std::uint64_t length) const;

 private:
  nbd_handle* nbd_;
};

// Bytes that differ from place to place and from seed to seed.
std::string pattern(std::uint64_t seed, std::size_t size);

Superblock format(const std::string& main, const std::string& spare,
                  const FormatRequest& request = {});
MetadataSurvey survey(const std::string& spare);
// Of a whole file; another content has another one, nearly always.
std::uint32_t checksum(const std::string& path);
// Names, sizes and content of all that is in a folder.
std::string fingerprint(const std::string& folder);
std::size_t count_entries(const std::string& folder);
std::size_t count_of(const std::string& text, const std::string& what);

}  // namespace nbd_remap
