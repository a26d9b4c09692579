// SPDX-License-Identifier: BSD-3-Clause
// The plugin as a file: what it exports, what it says of itself, and whether
// its man page says the same.

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "plugins/base/build_id.hpp"
#include "plugins/nbdkit/parameters.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

std::string pod() {
  std::ifstream in(REMAP_POD);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string help() { return run_nbdkit({REMAP_PLUGIN, "--help"}).out; }

// Mistake 39.
TEST(RemapPlugin, exports_plugin_init_alone) {
  const Ended ended = run({"nm", "-D", "--defined-only", REMAP_PLUGIN});
  ASSERT_EQ(ended.code, 0) << ended.err;
  std::set<std::string> names;
  std::istringstream lines(ended.out);
  for (std::string line; std::getline(lines, line);)
    names.insert(line.substr(line.rfind(' ') + 1));
  EXPECT_EQ(names, std::set<std::string>{"plugin_init"});
}

TEST(RemapPlugin, says_which_build_it_is) {
  const std::string build(build_id());
  ASSERT_FALSE(build.empty());
  EXPECT_EQ(run_nbdkit({REMAP_PLUGIN, "--version"})
                    .out.find("remap " + build + "\n") == std::string::npos,
            false);
  const std::string dump = run_nbdkit({"--dump-plugin", REMAP_PLUGIN}).out;
  EXPECT_NE(dump.find("\nversion=" + build + "\n"), std::string::npos) << dump;
  EXPECT_NE(dump.find("\nmagic_config_key=main\n"), std::string::npos);
  const ScratchDir dir;
  const std::string main = dir.make_file("main", 1 << 20);
  const std::string spare = dir.make_file("spare", 2 << 20);
  format(main, spare);
  RemapServer volume(dir, "v", main, spare);
  volume.start();
  EXPECT_EQ(volume.show()["build"], build);
  EXPECT_EQ(volume.stop().code, 0);
  EXPECT_NE(volume.log().find("nbd-remap " + build), std::string::npos);
}

// The words of --help, each with its default ("" without one).
std::map<std::string, std::string> words_of_help() {
  std::map<std::string, std::string> words;
  const std::string text = help();
  std::string word;
  std::istringstream lines(text.substr(text.find("[main=]")));
  for (std::string line; std::getline(lines, line);) {
    std::smatch m;
    if (std::regex_search(line, m, std::regex("^\\[?([a-z-]+)=")))
      words[word = m[1]];
    if (std::regex_search(line, m, std::regex("default ([a-z0-9-]+)\\)")))
      words[word] = m[1];
    else if (std::regex_search(line, m, std::regex("\\(default$")))
      words[word] = "?";
    else if (words[word] == "?")
      words[word] = std::regex_replace(line, std::regex("[ )]"), "");
  }
  return words;
}

// The =item sections of PARAMETERS.
std::map<std::string, std::string> items_of_pod() {
  const std::string text = pod();
  const std::size_t begin = text.find("=head1 PARAMETERS");
  const std::size_t end = text.find("\n=head1", begin);
  std::map<std::string, std::string> items;
  std::string word;
  std::istringstream lines(text.substr(begin, end - begin));
  for (std::string line; std::getline(lines, line);) {
    std::smatch m;
    if (std::regex_search(line, m, std::regex("^=item \\[?B<([a-z-]+)=")))
      word = m[1];
    if (!word.empty()) items[word] += line + "\n";
  }
  return items;
}

std::string default_in(const std::string& item) {
  const std::string flat = std::regex_replace(item, std::regex("\n"), " ");
  std::smatch m;
  if (std::regex_search(flat, m, std::regex("Default: ([0-9]+)\\.")))
    return m[1];
  if (std::regex_search(flat, m, std::regex("B<([a-z-]+)>, the\\s+default")))
    return m[1];
  return "";
}

// Mistake 37.
TEST(RemapPlugin, the_man_page_has_the_words_and_defaults_of_the_binary) {
  const auto words = words_of_help();
  const auto items = items_of_pod();
  ASSERT_EQ(words.size(), 16U) << help();
  for (const auto& [word, otherwise] : words) {
    ASSERT_TRUE(items.count(word)) << word;
    EXPECT_EQ(default_in(items.at(word)), otherwise) << word;
  }
  EXPECT_EQ(items.size(), words.size());

  const Parameters p;
  EXPECT_EQ(words.at("direct"), "auto");
  EXPECT_EQ(p.direct, DirectIo::automatic);
  EXPECT_EQ(words.at("on-pending-write"), "main-first");
  EXPECT_EQ(p.volume.on_pending_write, PendingWrite::main_first);
  EXPECT_EQ(words.at("missing-spare"), "refuse");
  EXPECT_EQ(p.missing_spare, MissingSpare::refuse);
  EXPECT_EQ(words.at("main-connections"), std::to_string(p.main_connections));
  EXPECT_EQ(words.at("main-timeout"), std::to_string(p.main_timeout.count()));
  EXPECT_EQ(words.at("spare-timeout"), std::to_string(p.spare_timeout.count()));
  EXPECT_LT(p.main_timeout + p.spare_timeout, 30s);
  EXPECT_EQ(words.at("retries"), std::to_string(p.volume.retries));
  EXPECT_EQ(words.at("scan"), "manual");
  EXPECT_EQ(p.scan.every.count(), 0);
  EXPECT_EQ(words.at("scan-rate"), scan_rate_text(p.scan.rate));
  EXPECT_EQ(words.at("rescue"), "suspect");
  EXPECT_EQ(p.scan.rescue, Rescue::suspect);
  EXPECT_EQ(words.at("breaker"), std::to_string(p.volume.breaker));
  for (const char* word :
       {"main", "spare", "control", "block-size", "spare-uuid"})
    EXPECT_EQ(words.at(word), "") << word;
  EXPECT_TRUE(p.control.empty());
  EXPECT_FALSE(p.block_bytes);
  EXPECT_FALSE(p.spare_uuid);
}

// The binary obeys what the page says: retries= is how often a sector is read
// again.
TEST(RemapPlugin, retries_more_times_and_no_more) {
  std::uint64_t without = 0;
  for (const unsigned retries : {0U, 2U, 7U}) {
    const ScratchDir dir;
    const std::string image = dir.make_file("main", 1 << 20);
    const std::string spare = dir.make_file("spare", 2 << 20);
    const BadDisk disk(dir, "disk", image, {"bad=100:read"});
    format(disk.uri(), spare);
    RemapServer volume(dir, "v", disk.uri(), spare,
                       {"retries=" + std::to_string(retries)});
    volume.start();
    EXPECT_EQ(Client(volume.uri()).read(100 * 512, 512, nullptr), EIO);
    if (retries == 0) without = disk.fired("read");
    EXPECT_GE(without, 1U);
    EXPECT_EQ(disk.fired("read"), without + retries);
    EXPECT_EQ(volume.stop().code, 0);
  }
}

}  // namespace
}  // namespace nbd_remap
