// SPDX-License-Identifier: BSD-3-Clause
// The bash completion of nbd-remapctl, sourced in bash and held against what
// --help of every command lists.

#include <algorithm>
#include <cctype>
#include <functional>
#include <set>
#include <sstream>

#include "tests/e2e/remapctl_fixture.hpp"

namespace nbd_remap {
namespace {

using WordSet = std::set<std::string>;

class RemapctlCompletion : public RemapctlTest {
 protected:
  // What bash offers for the last word, which may be empty.
  WordSet complete(const Words& words) const {
    Words all{"-c",
              "source \"$1\"; shift; COMP_WORDS=(\"$@\"); "
              "COMP_CWORD=$(($# - 1)); _nbd_remapctl \"$1\" \"${!#}\"; "
              "printf '%s\\n' \"${COMPREPLY[@]}\"",
              "bash", NBD_REMAPCTL_COMPLETION, NBD_REMAPCTL};
    all.insert(all.end(), words.begin(), words.end());
    const Ended ended = run_program("/bin/bash", all);
    EXPECT_EQ(ended.status, 0);
    EXPECT_EQ(ended.err, "");
    std::istringstream lines(ended.out);
    WordSet offered;
    for (std::string line; std::getline(lines, line);)
      if (!line.empty()) offered.insert(line);
    return offered;
  }
  struct Help {
    WordSet commands;
    WordSet options;
  };
  // The first words of the indented lines: commands, or long options.
  Help help(Words words) const {
    words.push_back("--help");
    const Ended ended = run(words);
    EXPECT_EQ(ended.status, 0) << ended.err;
    std::istringstream lines(ended.out);
    Help help;
    for (std::string line; std::getline(lines, line);) {
      if (line.size() < 3 || line[0] != ' ' || line[2] == ' ') continue;
      std::istringstream in(line);
      std::string word;
      in >> word;
      if (const auto at = word.find("--"); at != std::string::npos)
        help.options.insert(word.substr(at));
      else if (std::islower(static_cast<unsigned char>(word[0])) != 0)
        help.commands.insert(word);
    }
    return help;
  }
  static Words with(Words words, const std::string& last) {
    words.push_back(last);
    return words;
  }
};

TEST_F(RemapctlCompletion, every_command_and_option_of_the_help_is_offered) {
  std::size_t commands = 0;
  const std::function<void(const Words&)> walk = [&](const Words& path) {
    SCOPED_TRACE(testing::PrintToString(path));
    const Help known = help(path);
    EXPECT_EQ(complete(with(path, "")), known.commands);
    const WordSet options = complete(with(path, "--"));
    EXPECT_TRUE(std::includes(options.begin(), options.end(),
                              known.options.begin(), known.options.end()))
        << testing::PrintToString(options);
    EXPECT_FALSE(known.options.empty());
    commands += known.commands.size();
    ASSERT_LT(path.size(), 4U);
    for (const std::string& command : known.commands) walk(with(path, command));
  };
  walk({});
  // The help was understood, and not found empty.
  EXPECT_GE(commands, 11U);
  for (const std::string command : {"health", "volume", "map", "spare"})
    EXPECT_EQ(help({}).commands.count(command), 1U) << command;
  EXPECT_EQ(help({"spare"}).commands.count("format"), 1U);
}

TEST_F(RemapctlCompletion, only_what_fits_the_word_is_offered) {
  EXPECT_EQ(complete({"vol"}), WordSet{"volume"});
  EXPECT_EQ(complete({"--sock"}), WordSet{"--socket"});
  EXPECT_EQ(complete({"volume", "sto"}), WordSet{"stop"});
  EXPECT_EQ(complete({"spare", "format", "--mai"}), WordSet{"--main"});
  EXPECT_EQ(complete({"xyz"}), WordSet{});
}

TEST_F(RemapctlCompletion, the_value_of_an_option_is_no_command) {
  // Empty: bash then offers names of files.
  EXPECT_EQ(complete({"--socket", ""}), WordSet{});
  EXPECT_EQ(complete({"--socket", "=", ""}), WordSet{});
  EXPECT_EQ(complete({"--socket", "="}), WordSet{});
  EXPECT_EQ(complete({"--socket", "map", "vol"}), WordSet{"volume"});
  EXPECT_EQ(complete({"--socket", "=", "map", "vol"}), WordSet{"volume"});
  EXPECT_EQ(complete({"--json", "vol"}), WordSet{"volume"});
  // The part for a SPARE refuses the options of the others.
  EXPECT_EQ(complete({"spare", "format", "--socket"}), WordSet{});
  EXPECT_EQ(complete({"volume", "show", "--socket"}), WordSet{"--socket"});
}

TEST_F(RemapctlCompletion, hostile_words_are_not_run) {
  const std::string mark = dir_ + "/mark";
  for (const std::string& word :
       {"$(touch " + mark + ")", "`touch " + mark + "`", "; touch " + mark,
        "a[$(touch " + mark + ")]"}) {
    complete({word});
    complete({"--socket", word, ""});
    complete({word, ""});
    EXPECT_FALSE(fs::exists(mark)) << word;
  }
}

}  // namespace
}  // namespace nbd_remap
