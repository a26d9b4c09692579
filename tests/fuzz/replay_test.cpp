// SPDX-License-Identifier: BSD-3-Clause
// The inputs that are kept, without libFuzzer: those that reach everything that
// fuzzing found a way to (corpus), and those that once broke something
// (regressions). Then what becomes of them when they are changed at random, for
// compilers that have no libFuzzer: 300 inputs, 200,000 with NBD_REMAP_LONG=1,
// from NBD_REMAP_SEED on. A target aborts where something is broken; the last
// line says which input it was.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_targets.hpp"

namespace nbd_remap {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  void (*run)(ConstBytes);
  std::size_t least;  // files in its corpus
};

class FuzzReplay : public testing::TestWithParam<Target> {};

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// Said when the process is about to die.
std::array<char, 400> current;  // NOLINT: a signal handler has nothing else

void say_current(int number) {
  static_cast<void>(!::write(STDERR_FILENO, current.data(),
                             std::char_traits<char>::length(current.data())));
  static_cast<void>(std::signal(number, SIG_DFL));
  static_cast<void>(std::raise(number));
}

void run(const Target& target, const std::string& name,
         const std::string& bytes) {
  *fmt::format_to_n(current.data(), current.size() - 1, "{}: {}\n", target.name,
                    name)
       .out = '\0';
  target.run(std::as_bytes(std::span(bytes)));
}

std::string content_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  EXPECT_TRUE(in) << file;
  return {std::istreambuf_iterator<char>(in), {}};
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// A few changes of a kind that parsers stumble over.
std::string changed(std::string a, const std::string& b,
                    std::mt19937_64& random) {
  const auto below = [&](std::size_t n) {
    return random() % std::max<std::size_t>(n, 1);
  };
  using namespace std::string_literals;
  static const std::string odd_bytes = "\0\xff\x7f\x80\n\r%=&,:-+ 09{}[]\"\\"s;
  for (auto n = 1 + below(4); n != 0; --n) {
    const std::size_t at = below(a.size() + 1);
    switch (below(6)) {
      case 0:
        a.insert(at, 1 + below(3), odd_bytes[below(odd_bytes.size())]);
        break;
      case 1:
        a.erase(at, 1 + below(8));
        break;
      case 2:
        if (at < a.size()) a[at] = static_cast<char>(random());
        break;
      case 3:
        if (at < a.size()) a[at] = odd_bytes[below(odd_bytes.size())];
        break;
      case 4:
        a.insert(at, a.substr(below(a.size()), below(32)));
        break;
      default:
        a = a.substr(0, at) + b.substr(below(b.size()));
    }
  }
  return a;
}

TEST_P(FuzzReplay, nothing_that_is_kept_breaks_anything) {
  const Target& target = GetParam();
  const auto corpus = files_in(fs::path(FUZZ_DIR) / "corpus" / target.name);
  EXPECT_GE(corpus.size(), target.least);
  const auto abort_before = std::signal(SIGABRT, say_current);
  const auto fault_before = std::signal(SIGSEGV, say_current);
  std::vector<std::string> kept;
  for (const char* folder : {"corpus", "regressions"})
    for (const fs::path& file :
         files_in(fs::path(FUZZ_DIR) / folder / target.name)) {
      kept.push_back(content_of(file));
      run(target, file.string(), kept.back());
    }
  run(target, "nothing", "");
  const bool is_long = std::getenv("NBD_REMAP_LONG") != nullptr;
  const auto first = from_environment("NBD_REMAP_SEED", 1);
  const auto count =
      from_environment("NBD_REMAP_FUZZ_CHANGED", is_long ? 200'000 : 300);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    std::mt19937_64 random(seed);
    const auto& a = kept[random() % kept.size()];
    const auto& b = kept[random() % kept.size()];
    run(target, fmt::format("NBD_REMAP_SEED={}", seed), changed(a, b, random));
  }
  EXPECT_NE(std::signal(SIGABRT, abort_before), SIG_ERR);
  EXPECT_NE(std::signal(SIGSEGV, fault_before), SIG_ERR);
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzReplay,
                         testing::Values(Target{"metadata", fuzz_metadata, 10},
                                         Target{"spare", fuzz_spare, 10},
                                         Target{"parameters", fuzz_parameters,
                                                10},
                                         Target{"import", fuzz_import, 10},
                                         Target{"http", fuzz_http, 10},
                                         Target{"control", fuzz_control, 10},
                                         Target{"answers", fuzz_answers, 10}),
                         [](const auto& p) { return p.param.name; });

TEST(FuzzReplay, every_regression_belongs_to_a_target) {
  for (const fs::path& folder : files_in(fs::path(FUZZ_DIR) / "regressions"))
    EXPECT_TRUE(fs::exists(fs::path(FUZZ_DIR) / "corpus" / folder.filename()))
        << folder;
}

}  // namespace
}  // namespace nbd_remap
