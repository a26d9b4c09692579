// SPDX-License-Identifier: BSD-3-Clause
// nbd-remapctl: one command, a few questions to a server's control socket, one
// answer on standard output. Complaints are one line on standard error.

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/base/build_id.hpp"
#include "plugins/base/tool_text.hpp"
#include "server/ctl_client.hpp"
#include "server/ctl_map_words.hpp"
#include "server/ctl_render.hpp"
#include "server/ctl_render_health.hpp"
#include "server/ctl_replace.hpp"
#include "server/ctl_scan.hpp"
#include "server/ctl_seed_words.hpp"
#include "server/ctl_spare.hpp"

namespace nbd_remap {
namespace {

constexpr const char* kName = "nbd-remapctl";

int complain(bool as_json, ExitStatus status, const std::string& message) {
  const int number = static_cast<int>(status);
  const std::string line =
      as_json ? nlohmann::ordered_json{{"error", exit_word(status)},
                                       {"message", message},
                                       {"exit_status", number}}
                    .dump(-1, ' ', true,
                          nlohmann::ordered_json::error_handler_t::replace)
              : fmt::format("{}: {}", kName, printable(message));
  (void)std::fprintf(stderr, "%s\n", line.c_str());
  return number;
}

// One line on a terminal that is written anew a few times a second, and is
// gone at the end.
class ProgressLine {
 public:
  explicit ProgressLine(bool shown) : state_(std::make_shared<State>()) {
    state_->shown = shown;
  }
  void operator()(const std::string& line) const {
    const auto now = std::chrono::steady_clock::now();
    if (!state_->shown || now < state_->next) return;
    state_->next = now + std::chrono::milliseconds(200);
    state_->wrote = true;
    (void)std::fprintf(stderr, "\r\x1b[K%s", printable(line).c_str());
  }

 private:
  struct State {
    State() = default;
    State(const State&) = delete;
    ~State() {
      if (wrote) (void)std::fputs("\r\x1b[K", stderr);
    }
    bool shown = false;
    bool wrote = false;
    std::chrono::steady_clock::time_point next{};
  };
  std::shared_ptr<State> state_;
};

class Ctl {
 public:
  Ctl(int argc, const char* const* argv) : words_(argv + 1, argv + argc) {
    app_.require_subcommand(1);
    app_.fallthrough();
    app_.set_version_flag("--version", std::string(build_id()));
    app_.add_option("--socket", socket_, "The volume's control socket");
    app_.add_option("--timeout", timeout_s_,
                    "Seconds to wait for each answer (default 5)")
        ->check(CLI::Range(1, 3600));
    app_.add_flag("--json", json_, "Answer, and complain, in JSON");
    app_.add_subcommand("health", "Exit 0 if all is well, 1 if not");
    volume_ = add_noun("volume", "What a server serves");
    volume_->add_subcommand("list", "All volumes on the socket");
    add_name(volume_->add_subcommand("show", "All about one volume"));
    acknowledge_ = volume_->add_subcommand(
        "acknowledge", "Be told of what is worse than now only");
    add_name(acknowledge_);
    add_name(volume_->add_subcommand("stop", "Stop its server in order"));
    grow_ = volume_->add_subcommand("grow",
                                    "Use what was added to MAIN, or to SPARE");
    add_name(grow_);
    grow_
        ->add_option("--disk", disk_,
                     "The one that was enlarged (default main)")
        ->check(CLI::IsMember({"main", "spare"}));
    quiesce_ = volume_->add_subcommand(
        "quiesce", "Make all durable and let requests wait, for a snapshot");
    add_name(quiesce_);
    quiesce_
        ->add_option("--seconds", seconds_,
                     "Resume by itself after so many (default 20)")
        ->check(CLI::Range(1, 600));
    add_name(volume_->add_subcommand("resume", "End a quiesce"));
    replace_ = volume_->add_subcommand(
        "replace",
        "Put another disk in MAIN's or SPARE's place while clients use it");
    replace_->fallthrough();
    replace_
        ->add_option("NEW_DISK", disks_,
                     "The new disk; NAME may stand before it")
        ->expected(0, 2);
    replace_->add_flag("--spare", replace_spare_, "In SPARE's place");
    CLI::Option* status =
        replace_->add_flag("--status", status_, "How far it is");
    replace_->add_flag("--abort", abort_, "End it; the old disk stays")
        ->excludes(status);
    replace_->add_flag("--force", force_, "Overwrite what NEW_DISK holds");
    map_ = add_noun("map", "Which blocks do not live whole on MAIN");
    CLI::App* show =
        map_->add_subcommand("show", "Remapped and pending blocks");
    add_name(show);
    show->add_option("--from", from_, "Begin at this byte of the volume");
    show->add_option("--limit", limit_, "At most so many blocks (default 1000)")
        ->check(CLI::Range(std::uint64_t{1}, kMaxLimit));
    map_words_.add_to(*map_);
    CLI::App* scan = add_noun("scan", "Look for what is going bad");
    scan_words_.add_to(*scan, *map_);
    seed_words_.add_to(*scan);
    // Never parsed: run() hands it over.
    app_.add_subcommand("spare", "Format, check, mend or save a SPARE offline");
  }

  int run() {
    const std::size_t noun = first_noun();
    if (noun < words_.size() && words_[noun] == "spare") {
      if (!grows_in_use(noun)) return spare(noun);
      words_[noun] = "volume";
      words_.push_back("--disk=spare");
    }
    if (noun < words_.size() && !is_noun(words_[noun]))
      return usage(
          fmt::format("there is no command \"{}\"; expected health, "
                      "volume, map, scan or spare",
                      words_[noun]));
    for (const std::string& word : words_)
      if (lacks_value(word)) return usage(word + " lacks its value");
    try {
      // The parser takes them from the back.
      app_.parse(std::vector<std::string>(words_.rbegin(), words_.rend()));
    } catch (const CLI::Success& e) {
      return app_.exit(e);
    } catch (const CLI::RequiredError& e) {
      const std::string_view missing = e.what();
      if (missing.find("subcommand") == std::string_view::npos)
        return usage(std::string(missing));
      return usage(fmt::format("expected one of: {}", expected_after(noun)));
    } catch (const CLI::ParseError& e) {
      return usage(e.what());
    }
    if (socket_.empty())
      return usage(
          "--socket is missing; expected the path that the server has "
          "as control=, such as --socket=/run/disk.sock");
    const auto exit = answer();
    if (exit) return static_cast<int>(*exit);
    return complain(json_, exit_status(exit.error()),
                    error_words(exit.error()));
  }

  int broken(const char* what) const {
    return complain(wants_json(), ExitStatus::failed, what);
  }

 private:
  static constexpr std::uint64_t kMaxLimit = 100'000;

  CLI::App* add_noun(const char* name, const char* words) {
    CLI::App* noun = app_.add_subcommand(name, words);
    noun->require_subcommand(1);
    noun->fallthrough();
    return noun;
  }
  void add_name(CLI::App* verb) {
    verb->fallthrough();
    verb->add_option("NAME", name_, "May be left out if there is only one");
  }
  // Known before the line is parsed: what follows `spare` is another's.
  std::size_t first_noun() const {
    std::size_t i = 0;
    for (; i < words_.size() && words_[i].starts_with("-"); ++i)
      if (words_[i] == "--socket" || words_[i] == "--timeout") ++i;
    return std::min(i, words_.size());
  }
  bool is_noun(const std::string& word) {
    return !app_.get_subcommands(
                    [&](CLI::App* noun) { return noun->get_name() == word; })
                .empty();
  }
  // `--socket=S spare grow` is for the server that has SPARE.
  bool grows_in_use(std::size_t noun) const {
    const auto is_socket = [](const std::string& word) {
      return word == "--socket" || word.starts_with("--socket=");
    };
    return noun + 1 < words_.size() && words_[noun + 1] == "grow" &&
           std::any_of(words_.begin(), words_.end(), is_socket);
  }
  // Commands that may stand after the noun, or at the start.
  std::string expected_after(std::size_t noun) {
    CLI::App* app = &app_;
    if (noun < words_.size()) app = app_.get_subcommand(words_[noun]);
    std::string out;
    for (const CLI::App* verb :
         app->get_subcommands([](const CLI::App*) { return true; }))
      out += fmt::format("{}{}{}{}", out.empty() ? "" : ", ",
                         app == &app_ ? "" : words_[noun],
                         app == &app_ ? "" : " ", verb->get_name());
    return out;
  }
  bool wants_json() const {
    return std::find(words_.begin(), words_.end(), "--json") != words_.end();
  }
  int usage(const std::string& what) const {
    return complain(wants_json(), ExitStatus::usage,
                    fmt::format("{}; see {} --help", what, kName));
  }

  // What stands before the word is for this program; only --json means
  // anything there.
  int spare(std::size_t noun) const {
    std::vector<std::string> arguments;
    for (std::size_t i = 0; i < words_.size(); ++i) {
      if (i < noun && words_[i] != "--json")
        return usage(fmt::format("{} means nothing before spare", words_[i]));
      if (i != noun) arguments.push_back(words_[i]);
    }
    const Error error = exec_spare_tool(arguments);
    return complain(wants_json(), ExitStatus::not_found, error_words(error));
  }

  Result<ExitStatus> replace(const ControlClient& client) const {
    const bool begins = !status_ && !abort_;
    const auto bad = [](const char* words) {
      return make_error(ErrorClass::caller, EDESTADDRREQ, words);
    };
    if (begins && disks_.empty())
      return bad(
          "volume replace: expected the path or NBD URI of the new "
          "disk, or --status, or --abort");
    if (!begins && (disks_.size() > 1 || force_))
      return bad("volume replace: --status and --abort take a NAME at most");
    const std::size_t names = begins ? disks_.size() - 1 : disks_.size();
    const auto name = client.volume_name(names == 0 ? "" : disks_.front());
    if (!name) return name.error();
    if (begins) {
      const auto disk = new_disk_word(disks_.back());
      if (!disk) return disk.error();
      const auto begun = client.replace(*name, *disk, replace_spare_, force_);
      if (!begun) return begun.error();
    } else if (abort_) {
      const auto ended = client.abort_replace(*name, replace_spare_);
      if (!ended) return ended.error();
    }
    const auto answer = client.replace_status(*name, replace_spare_);
    if (!answer) return answer.error();
    return print(*answer, render_replace(*name, *answer),
                 status_ ? replace_exit(*answer) : ExitStatus::fine);
  }

  // The text is made for --json too: an answer that is not understood is one
  // in either form.
  Result<ExitStatus> print(const nlohmann::json& answer,
                           const Result<std::string>& text,
                           ExitStatus exit = ExitStatus::fine) const {
    if (!text) return text.error();
    const std::string out = json_ ? render_json(answer) : *text;
    if (std::fwrite(out.data(), 1, out.size(), stdout) == out.size() &&
        std::fflush(stdout) == 0)
      return exit;
    return make_error(ErrorClass::caller, EIO,
                      "standard output: cannot be written");
  }

  Result<ExitStatus> answer() const {
    const ControlClient client(socket_, std::chrono::seconds(timeout_s_));
    if (app_.got_subcommand("health")) {
      const auto health = client.health();
      if (!health) return health.error();
      return print(*health, render_health(*health),
                   is_quiet(*health) ? ExitStatus::fine : ExitStatus::failed);
    }
    if (volume_->got_subcommand("list")) {
      const auto volumes = client.volumes();
      if (!volumes) return volumes.error();
      return print(*volumes, render_volumes(*volumes));
    }
    if (map_words_.parsed()) {
      const bool shown = !json_ && ::isatty(STDERR_FILENO) == 1;
      const auto answer = map_words_.run(client, ProgressLine(shown));
      if (!answer) return answer.error();
      return print(answer->json, answer->text, answer->status);
    }
    if (scan_words_.parsed()) {
      const auto answer = scan_words_.run(client);
      if (!answer) return answer.error();
      return print(answer->json, answer->text, answer->status);
    }
    if (seed_words_.parsed()) {
      const bool shown = !json_ && ::isatty(STDERR_FILENO) == 1;
      const auto answer = seed_words_.run(client, ProgressLine(shown));
      if (!answer) return answer.error();
      return print(answer->json, answer->text, answer->status);
    }
    if (replace_->parsed()) return replace(client);
    const auto from = parse_bytes(from_);
    if (!from)
      return make_error(ErrorClass::caller, EDESTADDRREQ,
                        fmt::format("--from={}: expected a number of bytes, "
                                    "such as 1048576 or 1M",
                                    from_));
    const auto name = client.volume_name(name_);
    if (!name) return name.error();
    if (map_->parsed()) {
      const auto map = client.map(*name, *from, limit_);
      if (!map) return map.error();
      return print(*map, render_map(*map));
    }
    if (grow_->parsed()) {
      const auto grown = client.grow(*name, disk_);
      if (!grown) return grown.error();
      return print(*grown, render_grow(*name, disk_, *grown));
    }
    if (quiesce_->parsed()) {
      const auto quiesced = client.quiesce(*name, seconds_);
      if (!quiesced) return quiesced.error();
      return print(*quiesced, render_quiesce(*name, seconds_));
    }
    if (volume_->got_subcommand("resume")) {
      const auto resumed = client.resume(*name);
      if (!resumed) return resumed.error();
      return print(*resumed, render_resume(*name));
    }
    if (acknowledge_->parsed()) {
      const auto known = client.acknowledge(*name);
      if (!known) return known.error();
      return print(*known, render_acknowledge(*name, *known));
    }
    if (volume_->got_subcommand("stop")) {
      const auto stopping = client.stop(*name);
      if (!stopping) return stopping.error();
      return print(*stopping, render_stop(*name, *stopping));
    }
    const auto volume = client.volume(*name);
    if (!volume) return volume.error();
    return print(*volume, render_volume(*volume));
  }

  std::vector<std::string> words_;
  CLI::App app_{"Asks and steers nbd-remap.", kName};
  CLI::App* volume_ = nullptr;
  CLI::App* grow_ = nullptr;
  CLI::App* quiesce_ = nullptr;
  CLI::App* acknowledge_ = nullptr;
  CLI::App* replace_ = nullptr;
  CLI::App* map_ = nullptr;
  MapWords map_words_;
  SeedWords seed_words_;
  ScanWords scan_words_;
  bool json_ = false;
  std::string socket_;
  int timeout_s_ = 5;
  std::string name_;
  std::string disk_ = "main";
  std::vector<std::string> disks_;
  bool status_ = false;
  bool abort_ = false;
  bool force_ = false;
  bool replace_spare_ = false;
  std::uint64_t seconds_ = 20;
  std::string from_ = "0";
  std::uint64_t limit_ = 1000;
};

}  // namespace
}  // namespace nbd_remap

int main(int argc, char** argv) {
  try {
    nbd_remap::Ctl ctl(argc, argv);
    try {
      return ctl.run();
    } catch (const std::exception& e) {
      return ctl.broken(e.what());
    }
  } catch (const std::exception& e) {
    (void)std::fprintf(stderr, "nbd-remapctl: %s\n", e.what());
    return 1;
  }
}
