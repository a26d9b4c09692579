// SPDX-License-Identifier: BSD-3-Clause
// What a server answers nbd-remapctl. The first byte says who reads it: one of
// the renderers, which take a body, or a command over a socket, which gets the
// answers one after the other (zero bytes between them), each as a body or, if
// the byte says so, as all that the server sends. Whatever they are: what
// people see is lines that a terminal shows and does not act on, and an error
// says why.
#include <fmt/format.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "plugins/base/mutex.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/wire/unix_socket.hpp"
#include "server/ctl_client.hpp"
#include "server/ctl_map.hpp"
#include "server/ctl_map_text.hpp"
#include "server/ctl_render.hpp"
#include "server/ctl_render_health.hpp"
#include "server/ctl_replace.hpp"
#include "server/smart_report.hpp"
#include "tests/fuzz/fuzz_input.hpp"
#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

// A job that "runs" for ever costs a pause for each answer.
constexpr std::size_t kMostAnswers = 3;

void refused(const Error& error) {
  require(error.errnum != 0 && !error.place.empty(), "an error says why");
}

void check_text(std::string_view text) {
  while (!text.empty()) {
    const auto c = tool_text_detail::decode_utf8(text);
    require(c.has_value(), "what is shown is UTF-8");
    require(c->value == '\n' || !tool_text_detail::acts_on_terminal(c->value),
            "a terminal does not act on it");
    text.remove_prefix(c->length);
  }
}

void check(const Result<std::string>& text) {
  if (!text) return refused(text.error());
  require(text->empty() || text->back() == '\n', "lines end");
  check_text(*text);
}

void check_json(const json& answer) {
  const std::string text = render_json(answer);
  for (const char c : text)
    require(c == '\n' || (c >= ' ' && c < 0x7f), "JSON is shown in ASCII");
  // What is no UTF-8 was replaced, so not all comes back; but JSON it is.
  require(json::parse(text, nullptr, false).is_object(), "JSON stays JSON");
}

// Answers each connection with the next bytes; then closes each at once.
class HostileServer {
 public:
  HostileServer() {
    std::string name = std::filesystem::temp_directory_path() / "fuzz-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    auto listener = UnixListener::open(folder_ + "/control");
    require(listener.ok(), "a server can listen");
    thread_ = std::thread([this, l = std::move(*listener)] { serve(l.fd()); });
  }
  ~HostileServer() {
    ending_ = true;
    static_cast<void>(connect_unix(folder_ + "/control", bound()));
    thread_.join();
    std::filesystem::remove_all(folder_);
  }
  void set(std::vector<std::string> answers) {
    MutexLock lock(mu_);
    answers_ = std::move(answers);
    next_ = 0;
  }
  ControlClient client() const { return {folder_ + "/control", bound()}; }

 private:
  static std::chrono::milliseconds bound() { return std::chrono::minutes(1); }

  void serve(int listening) {
    std::array<char, 4096> request{};
    for (;;) {
      pollfd p{listening, POLLIN, 0};
      ::poll(&p, 1, -1);
      if (ending_) return;
      const UniqueFd fd(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC));
      if (!fd) continue;
      std::string answer;
      {
        MutexLock lock(mu_);
        if (next_ < answers_.size()) answer = answers_[next_++];
      }
      // The question first, or the client would see a broken pipe.
      static_cast<void>(::recv(fd.get(), request.data(), request.size(), 0));
      static_cast<void>(
          ::send(fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL));
    }
  }

  std::string folder_;
  std::atomic<bool> ending_{false};
  Mutex mu_;
  std::vector<std::string> answers_ GUARDED_BY(mu_);
  std::size_t next_ GUARDED_BY(mu_) = 0;
  std::thread thread_;
};

void check_command(const Result<MapAnswer>& answer) {
  if (!answer) return refused(answer.error());
  check_text(answer->text);
  check_json(answer->json);
}

void command(const ControlClient& client, std::uint64_t which) {
  const auto quiet = [](const std::string&) {};
  const auto plain = [](const Result<json>& answer) {
    answer ? check_json(*answer) : refused(answer.error());
  };
  switch (which % 12) {
    case 0:
      return plain(client.map("disk", 0, 2500));
    case 1:
      return plain(client.map("disk", 1 << 20, 10));
    case 2: {
      const auto name = client.volume_name("");
      if (!name) refused(name.error());
      return;
    }
    case 3:
      return check_command(map_explain(client, "disk", 4096));
    case 4:
      return check_command(
          map_act(client, "disk", "remap", 4096, std::nullopt, quiet));
    case 5:
      return check_command(map_retest_all(client, "disk", quiet));
    case 6:
      return check_command(map_export(client, "disk", {}));
    case 7:
      return check_command(
          map_export(client, "disk", {ListFormat::badblocks, 1024, true}));
    case 8:
      return plain(client.grow("disk", "main"));
    case 9:
      return plain(client.quiesce("disk", 5));
    case 10:
      return plain(client.stop("disk"));
    default:
      return check_command(map_act(client, "disk", "clear", 0, 1 << 20, quiet));
  }
}

void over_a_socket(FuzzInput& in, bool raw) {
  static HostileServer server;
  const auto which = in.number(1);
  std::vector<std::string> answers;
  while (!in.empty() && answers.size() < kMostAnswers) {
    const auto bytes = raw ? in.rest_text() : in.text_until('\0');
    answers.push_back(
        raw ? std::string(bytes)
            : fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
                          bytes.size(), bytes));
    if (raw) break;
  }
  server.set(std::move(answers));
  command(server.client(), which);
}

void render_one(FuzzInput& in, std::uint64_t who) {
  const std::string body(in.rest_text());
  const Error problem = problem_error("volume disk", 409, body);
  refused(problem);
  check_text(printable(error_words(problem)));
  const auto answer = parse_answer(body);
  if (!answer) return refused(answer.error());
  check_json(*answer);
  if (who >= 120) return check(render_replace("disk", *answer));
  if (who >= 112) return check(render_acknowledge("disk", *answer));
  switch (who % 7) {
    case 0:
      return check(render_health(*answer));
    case 1:
      return check(render_volumes(*answer));
    case 2:
      return check(render_volume(*answer));
    case 3:
      return check(render_map(*answer));
    case 4:
      return check(render_grow("disk", "main", *answer));
    case 5:
      return check(render_stop("disk", *answer));
    default:
      return check(render_explain(*answer));
  }
}

// What a drive says of itself, through smartctl, is no less hostile.
void drive_report(FuzzInput& in) {
  const auto report = parse_smart(in.rest_text(), "drive");
  if (!report) {
    refused(report.error());
    require(report.error().error_class == ErrorClass::caller,
            "the report is to blame");
    return;
  }
  require(report->lbas.size() <= kMaxSmartLbas, "places are bounded");
  for (const std::uint64_t lba : report->lbas)
    require(report->blocks == 0 || lba < report->blocks,
            "a place is on the disk");
  for (const auto& count : {report->pending, report->reallocated})
    require(!count || report->blocks == 0 || *count <= report->blocks,
            "no more bad places than places");
}

}  // namespace

void fuzz_answers(ConstBytes input) {
  FuzzInput in(input);
  const auto who = in.number(1);
  if (who >= 104 && who < 112) return drive_report(in);
  if (who < 128) return render_one(in, who);
  over_a_socket(in, who >= 192);
}

}  // namespace nbd_remap
