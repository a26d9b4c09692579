// SPDX-License-Identifier: BSD-3-Clause
// nbd-remap-spare: the part of nbd-remapctl that works on a SPARE itself.
// People reach it as `nbd-remapctl spare`, and so does its help text read.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/base/build_id.hpp"
#include "plugins/base/tool_text.hpp"
#include "plugins/spare_tool/check_command.hpp"
#include "plugins/spare_tool/dump_command.hpp"
#include "plugins/spare_tool/format_command.hpp"
#include "plugins/spare_tool/grow_command.hpp"
#include "plugins/spare_tool/repair_command.hpp"
#include "plugins/spare_tool/restore_command.hpp"
#include "plugins/spare_tool/scan_command.hpp"
#include "plugins/spare_tool/survey_json.hpp"

namespace nbd_remap {
namespace {

constexpr const char* kName = "nbd-remapctl spare";
constexpr int kNotChecked = static_cast<int>(Verdict::unknown);
constexpr std::string_view kCommands =
    "format, check, repair, dump, restore, scan or grow";

bool write_out(std::string_view text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

// One line, or with --json one object, on standard error.
void complain(bool json, std::string_view word, const std::string& message,
              int status) {
  const std::string line =
      json ? json_text({{"error", word},
                        {"message", message},
                        {"exit_status", status}},
                       -1)
           : fmt::format("{}: {}", kName, printable(message));
  (void)std::fprintf(stderr, "%s\n", line.c_str());
}

class Tool {
 public:
  Tool(int argc, const char* const* argv) : words_(argv + 1, argv + argc) {
    app_.require_subcommand(1);
    app_.fallthrough();
    app_.set_version_flag("--version", std::string(build_id()));
    app_.add_flag("--json", json_, "Answer, and complain, in JSON");
    add_format();
    add_check();
    add_dump();
    add_repair();
    add_restore();
    add_scan();
    add_grow();
  }

  int run() {
    if (const std::string noun = first_word(); !noun.empty() && !is_noun(noun))
      return usage(fmt::format("there is no command \"{}\"; expected {}", noun,
                               kCommands));
    for (const std::string& word : words_)
      if (lacks_value(word)) return usage(word + " lacks its value");
    try {
      // The parser takes them from the back.
      app_.parse(std::vector<std::string>(words_.rbegin(), words_.rend()));
    } catch (const CLI::Success& e) {
      return app_.exit(e);
    } catch (const CLI::ParseError& e) {
      return usage(first_word().empty() ? fmt::format("expected {}", kCommands)
                                        : e.what());
    }
    if (check_->parsed()) return check();
    if (repair_->parsed()) return repair();
    if (restore_->parsed()) return restore();
    if (scan_->parsed()) return scan();
    const Status status = format_->parsed() ? format()
                          : grow_->parsed() ? grow()
                                            : dump();
    if (status) return 0;
    const ExitStatus exit = exit_status(status.error());
    complain(json_, exit_word(exit), error_words(status.error()),
             static_cast<int>(exit));
    return static_cast<int>(exit);
  }

  // Of an exception that nothing foresaw.
  int broken(const char* what) {
    const int status =
        gives_verdict() ? kNotChecked : static_cast<int>(ExitStatus::failed);
    complain(wants_json(), "failed", what, status);
    return status;
  }

 private:
  void add_format() {
    format_ = app_.add_subcommand("format", "Make a disk the SPARE of a MAIN");
    format_->add_option("--main", main_, "The disk that holds the volume")
        ->required();
    format_->add_option("--spare", spare_, "The disk to format")->required();
    format_->add_option("--block-size", block_size_,
                        "Bytes remapped at once, 4K to 32K (default: what the "
                        "disks ask for)");
    format_
        ->add_option("--replace", replace_,
                     "UUID, or type, of what SPARE holds and may lose; may "
                     "be given again")
        ->allow_extra_args(false);
    format_->footer(
        "MAIN and SPARE are a regular file, a block device or an "
        "NBD URI.");
  }
  void add_check() {
    check_ = app_.add_subcommand(
        "check", "Exit 0: the map is sound, 1: repairable, 2: damaged");
    check_->add_option("SPARE", spare_, "The disk to read")->required();
    check_->add_option("--main", main_,
                       "Also check that SPARE belongs to this MAIN");
  }
  void add_dump() {
    dump_ = app_.add_subcommand("dump", "All that SPARE says, as JSON");
    dump_->add_option("SPARE", spare_, "The disk to read")->required();
    dump_
        ->add_option("--entries", entries_,
                     "no: leave out the entries of the map")
        ->check(CLI::IsMember({"yes", "no"}));
  }

  void add_repair() {
    repair_ = app_.add_subcommand("repair",
                                  "Mend the damaged copy from the other one");
    repair_->add_option("SPARE", spare_, "The disk to mend")->required();
    repair_->add_flag("-y,--yes", yes_,
                      "Do it; else only say what would be done");
  }
  void add_restore() {
    restore_ = app_.add_subcommand(
        "restore", "Put a saved dump back on a SPARE that lost its map");
    restore_->add_option("SPARE", spare_, "The disk to write")->required();
    restore_->add_option("--from", from_, "The file that dump wrote")
        ->required();
    restore_->add_option("--replace", restore_replace_,
                         "UUID of what SPARE is now and may lose");
    restore_->add_flag("--lose-newer-data", lose_newer_data_,
                       "Even if SPARE has, or had, a newer map");
  }
  void add_scan() {
    scan_ = app_.add_subcommand("scan",
                                "Find SPAREs, and which MAIN each belongs to");
    scan_->add_option("PATH", paths_, "Disks, images, folders")->required();
  }

  void add_grow() {
    grow_ = app_.add_subcommand(
        "grow",
        "Use what was added to SPARE, or to MAIN, while it is not used");
    grow_->add_option("SPARE", spare_, "The disk that was enlarged")
        ->required();
    grow_->add_option("--main", main_,
                      "It was MAIN that was enlarged: bind SPARE to it as it "
                      "is now");
  }

  // Of what cannot be parsed.
  std::string first_word() const {
    for (const std::string& word : words_)
      if (!word.starts_with("-")) return word;
    return {};
  }
  bool is_noun(const std::string& word) const {
    const auto nouns =
        app_.get_subcommands([](const CLI::App*) { return true; });
    return std::any_of(nouns.begin(), nouns.end(), [&](const CLI::App* noun) {
      return noun->get_name() == word;
    });
  }
  // Whether the exit status is one, see check_command.hpp.
  bool gives_verdict() const {
    const std::string noun = first_word();
    return noun == "check" || noun == "repair" || noun == "restore" ||
           noun == "scan";
  }
  bool wants_json() const {
    return std::find(words_.begin(), words_.end(), "--json") != words_.end();
  }

  int usage(const std::string& what) {
    const int status =
        gives_verdict() ? kNotChecked : static_cast<int>(ExitStatus::usage);
    complain(wants_json(), "usage",
             fmt::format("{}; see {} --help", what, kName), status);
    return status;
  }

  Status format() {
    FormatOptions options{main_, spare_, std::nullopt, replace_, json_};
    if (!block_size_.empty()) {
      const auto bytes = parse_bytes(block_size_);
      if (!bytes || *bytes < kMinBlockBytes || *bytes > kMaxBlockBytes ||
          !is_power_of_two(*bytes))
        return make_error(ErrorClass::caller, EDESTADDRREQ,
                          fmt::format("--block-size={}: expected a power of "
                                      "two from 4K to 32K, such as 8K",
                                      block_size_));
      options.block_bytes = static_cast<std::uint32_t>(*bytes);
    }
    const auto text = run_format(options);
    if (!text) return text.error();
    return print(*text);
  }

  Status dump() { return run_dump({spare_, entries_ != "no"}, write_out); }

  Status grow() {
    const auto text = run_grow({spare_, main_, json_});
    if (!text) return text.error();
    return print(*text);
  }

  int check() {
    const CheckReport report = run_check({spare_, main_, json_});
    if (report.verdict == Verdict::unknown)
      return refused("not-checked", report.reason);
    return answer(render_check(report, json_), report.verdict);
  }

  int repair() {
    const RepairReport report = run_repair({spare_, yes_, json_});
    if (report.before.verdict == Verdict::unknown)
      return refused("not-checked", report.before.reason);
    if (!report.failure.empty()) {
      complain(json_, "failed", report.failure,
               static_cast<int>(report.verdict));
      return static_cast<int>(report.verdict);
    }
    return answer(render_repair(report, json_), report.verdict);
  }

  int restore() {
    const RestoreReport report =
        run_restore({spare_, from_, restore_replace_, lose_newer_data_, json_});
    if (report.verdict == Verdict::unknown)
      return refused("refused", report.reason);
    if (report.verdict != Verdict::sound) {
      complain(json_, "failed", report.reason,
               static_cast<int>(report.verdict));
      return static_cast<int>(report.verdict);
    }
    return answer(render_restore(report, json_), report.verdict);
  }

  int scan() {
    const ScanReport report = run_scan({paths_, json_});
    return answer(render_scan(report, json_), scan_verdict(report));
  }

  int refused(std::string_view word, const std::string& reason) const {
    complain(json_, word, reason, kNotChecked);
    return kNotChecked;
  }

  int answer(const std::string& text, Verdict verdict) const {
    const Status status = print(text);
    if (!status) return refused("failed", status.error().place);
    return static_cast<int>(verdict);
  }

  static Status print(const std::string& text) {
    if (write_out(text)) return {};
    return make_error(ErrorClass::caller, EIO,
                      "standard output: cannot be written");
  }

  const std::vector<std::string> words_;
  CLI::App app_{"Works on a SPARE that no server is using.", kName};
  CLI::App* format_ = nullptr;
  CLI::App* check_ = nullptr;
  CLI::App* dump_ = nullptr;
  CLI::App* repair_ = nullptr;
  CLI::App* restore_ = nullptr;
  CLI::App* scan_ = nullptr;
  CLI::App* grow_ = nullptr;
  bool json_ = false;
  std::string main_;
  std::string spare_;
  std::string block_size_;
  std::string entries_ = "yes";
  std::vector<std::string> replace_;
  bool yes_ = false;
  std::string from_;
  std::string restore_replace_;
  bool lose_newer_data_ = false;
  std::vector<std::string> paths_;
};

}  // namespace
}  // namespace nbd_remap

int main(int argc, char** argv) {
  try {
    nbd_remap::Tool tool(argc, argv);
    try {
      return tool.run();
    } catch (const std::exception& e) {
      return tool.broken(e.what());
    }
  } catch (const std::exception& e) {
    // Before the command is known: not a status that is a verdict of check.
    (void)std::fprintf(stderr, "nbd-remapctl spare: %s\n", e.what());
    return nbd_remap::kNotChecked;
  }
}
